//! Everything that knows RabbitMQ and lapin. Knows nothing of PostgreSQL, of what a row is, or of when to try again.
//!
//! [`broker`] reaches a broker; [`publisher`] sends messages and tells what became of each, behind a [`Fence`] when asked to; [`consumer`] takes them from
//! a queue, for the services in [`crate::samples`]; [`topology`] says what a durable subscription needs and declares it; [`inspection`] compares that with what is there and changes nothing.
//! [`encoding`] and the attribution of returned messages are pure. Recovery lives elsewhere and is crash-only: a publisher
//! that failed once is dropped, and lapin's own recovery stays off.

pub mod broker;
mod confirms;
mod connection;
pub mod consumer;
mod dial;
pub mod encoding;
mod endpoint;
mod error;
mod fence;
mod handshake;
pub mod inspection;
mod link;
pub mod publisher;
mod tls;
pub mod topology;

pub use broker::BrokerOptions;
pub use endpoint::{Endpoint, InvalidUrl};
pub use error::{BrokerError, DeclareError, DeclareFault};
pub use fence::Fence;
