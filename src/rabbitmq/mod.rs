//! Everything that knows RabbitMQ. Knows nothing of PostgreSQL, of what a row is, or of when to try again.
//!
//! [`publisher`] sends messages and tells what became of each, behind a [`Fence`] when asked to. It stands on a connection of our own:
//! `dial` gets a byte stream, `link` makes frames of it, [`frame`] says which of them may be parsed, `handshake` logs in, `connection` has channels, calls and events. `refusal` tells
//! apart why the broker refuses, and knows the cure. [`topology`]
//! says what a durable subscription needs and declares it, [`row_exchanges`] how many exchanges rows may add; [`inspection`] compares that with what is there, and
//! [`subscriptions`] looks at it again while outboxd runs. `probe` finds out what the user may do, and [`rabbitmqctl`] prints what an
//! administrator grants. [`consumer`], for the
//! services in [`crate::samples`], takes messages from a queue: there lapin does all but the declares, behind a guard that hands it nothing that it cannot read.
//!
//! [`encoding`], [`frame`] and `confirms` are pure. Recovery lives elsewhere and is crash-only: what failed once is dropped.

pub mod broker;
mod confirms;
mod connection;
pub mod consumer;
mod dial;
pub mod encoding;
mod endpoint;
mod error;
mod fence;
pub mod frame;
mod handshake;
pub mod inspection;
mod link;
mod probe;
pub mod publisher;
pub mod publishing;
pub mod rabbitmqctl;
mod refusal;
mod refused;
mod rotating_urls;
pub mod row_exchanges;
pub mod subscriptions;
mod tls;
pub mod topology;

pub use broker::BrokerOptions;
pub use endpoint::{Endpoint, InvalidUrl};
pub use error::{BrokerError, DeclareError, Setback};
pub use fence::{Fence, FenceMemory, Taker};
pub use refusal::{Reason, reason};
pub use refused::Refused;
pub use rotating_urls::RotatingUrls;
