//! A client of PostgreSQL's logical replication.
//!
//! Released `tokio-postgres` and `postgres-protocol` have no replication mode. This crate has one: it connects as libpq does,
//! runs replication commands, streams a logical slot, and decodes what the plugin `pgoutput` sends. Ordinary SQL goes through
//! [`tokio_postgres::Client`], which [`Endpoint::connect_sql`] gives over the same kind of connection.
//!
//! | step | item | source |
//! | --- | --- | --- |
//! | a connection string becomes an endpoint | [`Endpoint`] | manual, "Database Connection Control Functions" |
//! | an endpoint becomes a connection | [`ReplicationConnection::connect`] | manual, "Start-up", "SASL Authentication" |
//! | a slot is streamed | [`ReplicationConnection::start`] | manual, "Streaming Replication Protocol" |
//! | the stream gives events | [`ReplicationStream::next`] | the same, XLogData and keepalives |
//! | an event's bytes become a change | [`pgoutput::decode`] | manual, "Logical Replication Message Formats" |
//! | a position is acknowledged | [`ReplicationStream::send_status`] | manual, "Standby status update" |
//!
//! # Example
//! ```no_run
//! use std::time::Duration;
//! use pg_replication::{Endpoint, Lsn, ReplicationConnection, ReplicationEvent, pgoutput};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let endpoint = Endpoint::parse("postgresql://me@localhost/shop?sslmode=verify-full")?;
//! let connection = ReplicationConnection::connect(&endpoint, "reader", Duration::from_secs(60)).await?;
//! let mut stream =
//!     connection.start::<Lsn>("my_slot", "my_publication", Lsn::ZERO).await.map_err(|(_, error)| error)?;
//! loop {
//!     match stream.next().await? {
//!         ReplicationEvent::WalData { bytes, .. } => println!("{:?}", pgoutput::decode(bytes)?),
//!         ReplicationEvent::Keepalive { wal_end, .. } => stream.send_status(Some(wal_end), false).await?,
//!     }
//! }
//! # }
//! ```
//!
//! # Guarantees
//! - Every method that waits can be dropped: the next call goes on where it stopped.
//! - A status update never waits for the server, and an old one gives way to a newer one.
//! - No length that a server announces takes memory before its bytes have come.
//! - No error and no `Debug` output shows a password.
//! - Decoding is pure and total: any bytes give a message or an error.

#![deny(missing_docs)]

mod connection;
mod lsn;
pub mod pgoutput;
pub mod quote;
mod stream;

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
