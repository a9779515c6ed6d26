//! The reading of a slot's history: its record, the slot, the publication and the server, so that they go together.
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

/// The history of a slot could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SlotHistoryError {
    /// SQL failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// A replication command failed.
    #[error(transparent)]
    Replication(#[from] ReplicationError),
}

impl SlotHistory {
    /// Reads the record and the slot, and asks the server who it is. `remembered` is the timeline that this process has
    /// last seen, if it has seen any.
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

    /// Reads record, slot, publication and the end of WAL again, as time has passed.
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

/// Record, slot and publication as they were at one time: whoever acquires the slot writes the record before moving the slot,
/// and whoever tears all down clears it before dropping the publication; so a record that stays the same while the others are
/// read goes with them. Slots are in no snapshot. Another database's slot is no slot here: only its name is
/// taken.
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
