//! The started stream of a slot, and how the slot was created if it is new.

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

/// The stream, and the facts read just before it started.
pub(super) struct Streaming<S> {
    pub(super) stream: S,
    pub(super) before: BeforeStream,
}

/// Creation of a new slot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Made {
    /// The slot's own rows begin at this time.
    pub(super) at: Timestamp,
    /// All earlier rows were published.
    pub(super) after_backlog: bool,
}

/// Starts streaming from the slot, at `from` or at the slot's position if that is later.
///
/// # Errors
///
/// The error with the connection, if the server refused and the connection still works.
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
