//! A slot that rows may be missing behind: judged, and written down.

use super::{attempt::Attempt, claim::RELEASE_TIMEOUT};
use crate::{
    postgres::continuity::{Evidence, Gap, Memory},
    relay::{
        Fault, Source,
        broker::Broker,
        database::{Database, Sql},
    },
};

impl<D: Database, B: Broker> Attempt<'_, D, B> {
    /// Whether the slot may be used. A gap is written down: what proves it may be nothing but this process's memory.
    pub(super) async fn judge(
        &self,
        sql: &D::Sql,
        evidence: &Evidence,
        remembered: Option<&Memory>,
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
    async fn mark(&self, sql: &D::Sql, evidence: &Evidence, gap: &Gap, remembered: Option<&Memory>) {
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

    /// Writes down that the stream passes rows over, from where `found` says. If the slot is not there any more, or was torn down,
    /// that is the reason, and not the publication that went with it. Should the look fail, the next attempt finds all this, but
    /// knows less well where a gap begins.
    pub(super) async fn passed_over(
        &self,
        found: Gap,
        evidence: &mut Evidence,
        remembered: Option<&Memory>,
    ) -> Fault {
        let Source { name, database, .. } = self.source;
        let look = async {
            let sql = database.connect_sql(&self.application_name()).await?;
            database.look_again(&sql, evidence).await?;
            let found =
                Gap { confirmed: found.confirmed.or(remembered.and_then(|slot| slot.confirmed)), ..found };
            let gap = match evidence.judge(remembered) {
                Err(judged) if !judged.cause.is_of_the_publication() => judged,
                Err(judged) => Gap { cause: judged.cause, ..found },
                Ok(_) => found,
            };
            self.mark(&sql, evidence, &gap, remembered).await;
            Ok::<_, Fault>(gap)
        };
        match tokio::time::timeout(RELEASE_TIMEOUT, look).await {
            Ok(Ok(gap)) => Fault::gap(&database.options().slot, name, gap),
            Ok(Err(fault)) => fault,
            Err(_) => Fault::ConnectTimeout { after: RELEASE_TIMEOUT },
        }
    }
}
