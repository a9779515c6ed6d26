//! Everything that knows RabbitMQ. Knows nothing of PostgreSQL, of what a row is, or of when to try again.
//!
//! [`publisher`] publishes messages and tells what became of each, behind a [`Fence`] when asked to. It stands on a connection of our
//! own: `dial` gets a byte stream, `link` makes frames of it, [`frame`] says which of them may be parsed, `handshake` logs in,
//! `connection` has channels, calls and events. `refusal` tells apart why the broker refuses. [`topology`] says what a durable
//! subscription needs and declares it, [`exchange_limit`] how many exchanges messages may add; [`subscriptions`] looks at queues again
//! while outboxd runs. `probe` finds out what the user may do.
//!
//! [`inspection`] compares what is configured with what is there, [`rabbitmqctl`] prints what an administrator grants, and [`cures`]
//! says next steps in outboxd's words.
//!
//! [`encoding`], [`frame`] and `confirms` are pure. Recovery lives elsewhere and is crash-only: what failed once is dropped.

mod confirms;
pub mod connection;
pub mod cures;
pub mod dial;
pub mod encoding;
pub mod endpoint;
pub mod error;
pub mod exchange_limit;
pub mod fence;
pub mod frame;
mod handshake;
pub mod inspection;
pub mod link;
pub mod message;
pub mod options;
pub mod probe;
pub mod publisher;
pub mod publishing;
pub mod rabbitmqctl;
pub mod refusal;
pub mod rotating_urls;
pub mod short_string;
pub mod subscriptions;
pub mod tls;
pub mod topology;

pub use endpoint::{Endpoint, InvalidUrl};
pub use error::{BrokerError, DeclareError};
pub use fence::{Fence, FenceMemory, FenceOwner};
pub use options::{Client, ConnectionOptions};
pub use publisher::{PublisherOptions, Refused};
pub use refusal::{Reason, Refusal, reason};
pub use rotating_urls::RotatingUrls;
