//! Reads a slot's history: the record, the slot, the publication and the server, consistent with each other.
//! [`continuity`](super::continuity) judges them.

use tokio_postgres::Client;

use super::{
    continuity::SlotHistory,
    facts::{SlotFacts, slot_progress, wal_end},
    publication::{self, Publishing},
    record::{self, SlotRecord},
};
use crate::postgres::{SourceDatabase, statement::CatalogError};
use pg_replication::{ReplicationConnection, ReplicationError};

/// Failure to read a slot's history.
#[derive(Debug, thiserror::Error)]
pub enum SlotHistoryError {
    /// An SQL statement failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// A replication command failed.
    #[error(transparent)]
    Replication(#[from] ReplicationError),
}

impl SlotHistory {
    /// Reads the history. `remembered` is the timeline that this process saw last, if any.
    ///
    /// # Errors
    /// [`SlotHistoryError`].
    pub(crate) async fn gather(
        client: &Client,
        replication: &mut ReplicationConnection,
        database: &SourceDatabase,
        remembered: Option<u32>,
    ) -> Result<Self, SlotHistoryError> {
        let mut server = replication.identify_system().await?;
        let (record, slot, publishing) = consistent(client, database).await?;
        server.xlogpos = wal_end(client).await?;
        let earlier = record.as_ref().map(|record| record.timeline).into_iter().chain(remembered);
        let timelines = match earlier.min() {
            Some(timeline) if timeline < server.timeline => {
                replication.timeline_history(server.timeline).await?
            }
            _ => Vec::new(),
        };
        Ok(Self { server, timelines, record, slot, publishing, published_before: None })
    }

    /// Reads record, slot, publication and the end of WAL again.
    ///
    /// # Errors
    /// As [`record::read`].
    pub async fn look_again(
        &mut self,
        client: &Client,
        database: &SourceDatabase,
    ) -> Result<(), CatalogError> {
        self.published_before = self.publishing.by();
        (self.record, self.slot, self.publishing) = consistent(client, database).await?;
        self.server.xlogpos = wal_end(client).await?;
        Ok(())
    }
}

/// Record, slot and publication as of one moment. No snapshot covers slots, so the record is read before and after the others:
/// an instance writes the record before it moves the slot, and `teardown` clears it before it drops the publication. If the
/// record has not changed, all three belong together. A slot of another database counts as none.
async fn consistent(
    client: &Client,
    database: &SourceDatabase,
) -> Result<(Option<SlotRecord>, Option<SlotFacts>, Publishing), CatalogError> {
    let mut record = record::read(client, database).await?;
    loop {
        let slot = slot_progress(client, &database.slot).await?;
        let slot = slot.filter(SlotFacts::serves);
        let publishing = publication::publishing(client, database).await?;
        let now = record::read(client, database).await?;
        if now == record {
            return Ok((record, slot, publishing));
        }
        record = now;
    }
}
