//! A slot of one's own: its stream, just begun, and how it was made if it is new.

use crate::{
    message::Timestamp,
    position::Lsn,
    postgres::SourceDatabase,
    relay::{
        database::{Database, Replication},
        pipeline::StreamOf,
    },
};
use pg_replication::{BeforeStream, ReplicationError};

/// The slot's stream, and what was asked just before it began.
pub(super) struct Streaming<S> {
    pub(super) stream: S,
    pub(super) before: BeforeStream,
}

/// How a new slot was made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Made {
    /// Rows from then on are its own.
    pub(super) at: Timestamp,
    /// The rows before were published.
    pub(super) after_backlog: bool,
}

/// Begins to stream from the slot, at `from` or where the slot is by now.
///
/// # Errors
/// When the server refused, the connection comes back with the error.
pub(super) async fn start<D: Database>(
    database: &D,
    mut connection: D::Replication,
    from: Lsn,
) -> Result<Streaming<StreamOf<D>>, (Option<D::Replication>, ReplicationError)> {
    let SourceDatabase { slot, publication, .. } = database.options();
    let before = connection.before_stream(slot).await.map_err(|error| (None, error))?;
    let stream = connection.start(slot, publication, from).await?;
    Ok(Streaming { stream, before })
}
