//! A client of PostgreSQL's logical replication.
//!
//! The released `tokio-postgres` and `postgres-protocol` have no replication mode. This crate connects as libpq does, runs
//! replication commands, streams a logical slot, and decodes the messages of the plugin `pgoutput`. For SQL,
//! [`Endpoint::connect_sql`] returns a [`tokio_postgres::Client`] over the same kind of connection.
//!
//! | step | item | source |
//! | --- | --- | --- |
//! | parse a connection string | [`Endpoint`] | manual, "Database Connection Control Functions" |
//! | open a connection | [`ReplicationConnection::connect`] | manual, "Start-up", "SASL Authentication" |
//! | run a replication command | [`ReplicationConnection::query`] | manual, "Streaming Replication Protocol" |
//! | stream a slot | [`ReplicationConnection::start`] | the same, `START_REPLICATION` |
//! | receive an event | [`ReplicationStream::next`] | the same, XLogData and primary keepalive message |
//! | decode a change | [`pgoutput::decode`] | manual, "Logical Replication Message Formats" |
//! | acknowledge a position | [`ReplicationStream::send_status`] | the same, standby status update |
//! | end in order | [`ReplicationStream::finish`] | the same, CopyDone |
//!
//! # Example
//! ```no_run
//! use std::time::Duration;
//! use pg_replication::{Endpoint, Lsn, ReplicationConnection, ReplicationEvent, pgoutput::{self, PgOutput}};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let endpoint = Endpoint::parse("postgresql://me@localhost/shop?sslmode=verify-full")?;
//! let connection = ReplicationConnection::connect(&endpoint, "reader", Duration::from_secs(60)).await?;
//! let mut stream =
//!     connection.start::<Lsn>("my_slot", "my_publication", Lsn::ZERO).await.map_err(|(_, error)| error)?;
//! let mut processed = None;
//! loop {
//!     match stream.next().await? {
//!         ReplicationEvent::WalData { bytes, .. } => match pgoutput::decode(bytes)? {
//!             PgOutput::Commit { end_lsn, .. } => processed = Some(end_lsn),
//!             change => println!("{change:?}"),
//!         },
//!         ReplicationEvent::Keepalive { .. } => stream.send_status(processed, false).await?,
//!     }
//! }
//! # }
//! ```
//!
//! # Acknowledging
//! PostgreSQL keeps WAL from a slot's `restart_lsn` on, and sends again what is not acknowledged. Acknowledge the `end_lsn` of a
//! [`Commit`](pgoutput::PgOutput::Commit) once its transaction is stored, and send a status update more often than
//! `wal_sender_timeout`. While nothing is pending, acknowledge a keepalive's `wal_end`: other databases' WAL is then released, too.
//! [`ReplicationStream`] shows how a type proves that a position may be acknowledged.
//!
//! # Errors
//! [`ReplicationError`] says what failed, its [`cause`](ReplicationError::cause) why. [`ReplicationError::sqlstate`] and the constants of
//! [`sqlstate`] tell the server's refusals apart. [`ConnectError::remedy`] holds the cure, and whether a person has to apply it
//! ([`Mender`]).
//!
//! # Guarantees
//! - Every method that waits is cancel-safe: the next call continues where a dropped one stopped.
//! - A status update never waits for the server. A newer one replaces an older one that is not sent yet.
//! - An announced length takes no memory before its bytes arrive.
//! - No error and no `Debug` output shows a password.
//! - Decoding is pure and total: any bytes give a message or an error.

#![deny(missing_docs)]

mod connection;
mod lsn;
pub mod pgoutput;
pub mod quote;
pub mod sqlstate;
mod stream;

// Types of other crates in the public signatures, so that a user needs to depend on none of them.
pub use bytes::Bytes;
pub use diagnostics::remedy::{Mender, Remedy};
pub use secret::{Secret, SecretError};
pub use tokio_postgres;

pub use connection::{
    answer::simple_answer,
    connect_error::ConnectError,
    endpoint::{Endpoint, Words},
    endpoint_error::EndpointError,
    hosting::Hosting,
    wire_error::{AuthenticationError, ServerError, WireError},
};
pub use lsn::{Lsn, ParseLsnError};
pub use stream::{
    answers::{BeforeStream, SystemIdentity},
    connection::{END_WITH_CLIENT, ReplicationConnection},
    copy::ReplicationStream,
    error::ReplicationError,
    event::ReplicationEvent,
    stored_text,
};
