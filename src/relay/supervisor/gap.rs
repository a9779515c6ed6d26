//! A slot that rows may be missing behind: judged, and written down.

use super::{acquire::Streaming, attempt::Attempt, claim::RELEASE_TIMEOUT};
use crate::{
    postgres::continuity::{Cause, Gap, LastSeen, SlotHistory},
    relay::{
        Fault, Source,
        broker::Broker,
        database::{Database, Sql, Stream},
        pipeline::StreamOf,
    },
};

impl<D: Database, B: Broker> Attempt<'_, D, B> {
    /// Whether the slot may be used. A gap is written down: what proves it may be nothing but this process's memory.
    pub(super) async fn judge(
        &self,
        sql: &D::Sql,
        evidence: &SlotHistory,
        remembered: Option<&LastSeen>,
    ) -> Result<(), Fault> {
        let Source { name, .. } = self.source;
        let database = self.source.database.options();
        let gap = match evidence.judge(remembered) {
            Ok(_) => return Ok(()),
            Err(gap) => gap,
        };
        self.mark(sql, evidence, &gap, remembered).await;
        Err(Fault::gap(&database.slot, name, gap))
    }

    /// Writes a gap down, as far as that can be done.
    async fn mark(&self, sql: &D::Sql, evidence: &SlotHistory, gap: &Gap, remembered: Option<&LastSeen>) {
        let Source { name, .. } = self.source;
        let database = self.source.database.options();
        if let Some(marked) = evidence.to_be_marked(gap, remembered) {
            let found = evidence.record.as_ref().map(|record| record.version);
            if let Err(error) = sql.mark_record(database, found, &marked).await {
                let error = Fault::from(error).explain();
                tracing::warn!(source = name, "the gap could not be written down: {error}");
            }
        }
    }

    /// The slot was not ours any more when it was to be claimed. Up to version 17 that may be because the server has refused by then to
    /// send what is older than the publication, which the stream says: a gap behind everything that was confirmed.
    pub(super) async fn refused_before_claim(
        &self,
        taken: Fault,
        Streaming { mut stream, before }: Streaming<StreamOf<D>>,
        evidence: &mut SlotHistory,
        remembered: Option<&LastSeen>,
    ) -> Fault {
        let end = async {
            loop {
                if let Err(error) = stream.next().await {
                    return error;
                }
            }
        };
        match tokio::time::timeout(RELEASE_TIMEOUT, end).await {
            Ok(error) if self.source.database.options().is_unpublished(&error) => {
                let found =
                    Gap { cause: Cause::PublishedAnew, confirmed: before.confirmed_flush, until: None };
                self.look_closer(found, evidence, remembered, None).await
            }
            _ => taken,
        }
    }

    /// Writes down that the stream of a slot that was claimed passes rows over, from where `found` says.
    pub(super) async fn passed_over(
        &self,
        found: Gap,
        evidence: &mut SlotHistory,
        remembered: Option<&LastSeen>,
    ) -> Fault {
        let holder = remembered.map(|slot| slot.holder.as_str());
        self.look_closer(found, evidence, remembered, holder).await
    }

    /// Writes a gap down. If the slot is not there any more, or was torn down, that is the reason, and not the publication that
    /// went with it. If the slot's record is not `holder`'s any more, nothing is wrong with the slot of whoever has it now. Should
    /// the look fail, the next attempt finds all this, but knows less well where a gap begins.
    async fn look_closer(
        &self,
        found: Gap,
        evidence: &mut SlotHistory,
        remembered: Option<&LastSeen>,
        holder: Option<&str>,
    ) -> Fault {
        let Source { name, database, .. } = self.source;
        let look = async {
            let sql = database.connect_sql(&self.application_name()).await?;
            database.look_again(&sql, evidence).await?;
            let found =
                Gap { confirmed: found.confirmed.or(remembered.and_then(|slot| slot.confirmed)), ..found };
            let gap = match evidence.judge(remembered) {
                Err(judged) if !judged.cause.is_of_the_publication() => judged,
                _ if holder.is_some_and(|holder| !evidence.is_held_by(holder)) => {
                    return Ok(Fault::SlotTaken { slot: database.options().slot.clone() });
                }
                Err(judged) => Gap { cause: judged.cause, ..found },
                Ok(_) => found,
            };
            self.mark(&sql, evidence, &gap, remembered).await;
            Ok::<_, Fault>(Fault::gap(&database.options().slot, name, gap))
        };
        match tokio::time::timeout(RELEASE_TIMEOUT, look).await {
            Ok(Ok(fault) | Err(fault)) => fault,
            Err(_) => Fault::ConnectTimeout { after: RELEASE_TIMEOUT },
        }
    }
}
