//! A simulated PostgreSQL server, as a logical replication client sees it. Hostile where the protocol allows it: it sends rows
//! again, sends keepalives from behind the slot, and forgets confirmed positions in a crash.

#![allow(clippy::result_large_err)] // They are the product's, which boxes them one level higher.

mod backlog;
mod connection;
pub(crate) mod data_directory;
mod database;
mod facts;
mod replication;
mod session;
mod slot;
mod sql;
pub(crate) mod state;
mod stream;
mod streaming;
mod walsender;

pub(crate) use self::database::SimulatedDatabase;
