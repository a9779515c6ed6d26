//! The way to a slot of one's own: it is there, or is made, or another instance has it and is waited for.

use std::time::Duration;

use super::{
    gap::judge,
    streaming::{Made, Streaming, start},
};
use crate::{
    admin::{Reporter, SourceState},
    backfill::{backlog::BacklogError, snapshot::Selection},
    message::Timestamp,
    position::Lsn,
    postgres::{SourceDatabase, sqlstate::OBJECT_IN_USE, statement::CatalogError},
    preflight,
    relay::{
        BacklogPolicy, Fault, Source,
        database::{Database, Replication, Sql},
        pipeline::StreamOf,
        slot_creation::watch_slot_creation,
    },
    slot::{
        continuity::{LastSeen, SlotHistory},
        open_transactions,
        usage::SlotUse,
    },
};

/// A slot of one's own: streaming from it, or about to be made from the backlog.
pub(super) enum Acquired<S, B> {
    Stream {
        streaming: Streaming<S>,
        /// The slot is new.
        made: Option<Made>,
    },
    Backlog(Box<B>),
}

/// So many times in a row a program that is no outboxd has the slot before it is refused. A person who looks into the slot from
/// psql has it for a moment, and so has an outboxd that has not written its name into the slot's record yet.
const STRANGER_LOOKS: u32 = 6;

/// How often a standby asks for the slot. Half a second keeps the takeover well within two.
const STANDBY_INTERVAL: Duration = Duration::from_millis(500);

/// A source on its way to the slot.
pub(super) struct Acquisition<'a, D, B> {
    pub(super) source: &'a Source<D, B>,
    pub(super) report: &'a Reporter,
    /// The slot as it was there on an earlier attempt.
    pub(super) remembered: Option<&'a LastSeen>,
    /// Everything before is known to be settled.
    pub(super) from: Lsn,
}

impl<D: Database, B> Acquisition<'_, D, B> {
    /// Waits until the slot is ours, as a standby while another instance has it. Before anything else it looks who has the slot:
    /// a name that another database or another program has is refused.
    ///
    /// # Errors
    /// [`Fault::Preflight`] for such a name, [`Fault::Gap`], or a connection's.
    pub(super) async fn acquire(
        &self,
        mut connection: D::Replication,
        history: &mut SlotHistory,
    ) -> Result<Acquired<StreamOf<D>, D::Backlog>, Fault> {
        let database = self.source.database.options();
        let mut slot_exists = history.slot.is_some();
        let mut strangers = 0;
        loop {
            let uses = connection.slot_uses(&database.schema, &database.slot).await?;
            if let Some(refusal) = preflight::slot_refusal(database, &uses, !slot_exists) {
                strangers += 1;
                if strangers < STRANGER_LOOKS && uses.iter().any(|one| one.stranger().is_some()) {
                    tokio::time::sleep(STANDBY_INTERVAL).await;
                    continue;
                }
                return Err(Fault::Preflight(vec![refusal]));
            }
            strangers = 0;
            slot_exists |= uses.iter().any(|one| one.slot == database.slot && one.is_made);
            let in_use = uses
                .iter()
                .find(|one| one.active_pid.is_some() && (one.slot == database.slot || !slot_exists));
            if let Some(in_use) = in_use {
                self.stand_by(&mut connection, in_use).await?;
                continue;
            }
            if slot_exists {
                let ours = uses.iter().find(|one| one.slot == database.slot);
                if ours.is_some_and(|ours| database.makes_failover(ours.failover)) {
                    if !connection.make_failover(&database.slot).await? {
                        // Another instance was faster; the next look shows which.
                        drop(connection);
                        connection = self.connect_again(history).await?;
                        continue;
                    }
                    let (source, slot) = (&self.source.name, &database.slot);
                    tracing::info!(source, slot, "the slot is a failover slot from now on");
                }
                connection = match start(&self.source.database, connection, self.from).await {
                    Ok(streaming) => return Ok(Acquired::Stream { streaming, made: None }),
                    // Another instance was faster; the next look shows which.
                    Err((Some(connection), error)) if error.sqlstate() == Some(OBJECT_IN_USE) => connection,
                    Err((_, error)) => return Err(error.into()),
                };
                continue;
            }
            match self.make_slot(connection, history).await {
                Ok(acquired) => return Ok(acquired),
                Err(Fault::Backlog(error))
                    if matches!(*error, BacklogError::AlreadyThere(_) | BacklogError::Busy(_)) => {}
                Err(fault) => return Err(fault),
            }
            connection = self.connect_again(history).await?;
        }
    }

    /// A connection in place of one that is of no more use, to the server that this attempt has met: what is known is known of
    /// that one.
    async fn connect_again(&self, history: &SlotHistory) -> Result<D::Replication, Fault> {
        let database = &self.source.database;
        let mut connection = database.connect_replication(&self.source.application_name()).await?;
        if history.server.clone().names() != connection.identify_system().await?.names() {
            return Err(Fault::ServerChanged);
        }
        Ok(connection)
    }

    /// Says why the slot cannot be had now, and waits a moment. A slot whose making waits for other transactions is nobody's yet:
    /// nothing is published, so whoever waits for it is not ready either.
    async fn stand_by(&self, connection: &mut D::Replication, in_use: &SlotUse) -> Result<(), Fault> {
        let SourceDatabase { slot, .. } = self.source.database.options();
        if let Some(holder) = &in_use.holder {
            let awaited =
                if in_use.is_made { Vec::new() } else { connection.awaited_transactions(slot).await? };
            let (state, reason) = match open_transactions::reason(slot, &awaited) {
                Some(waits) => (
                    SourceState::Connecting,
                    format!(
                        "{waits}. Another instance makes the slot: {holder}; where there is none, its process was left behind: \
                         SELECT pg_terminate_backend({});",
                        holder.pid
                    ),
                ),
                None if in_use.slot == *slot => {
                    (SourceState::Standby, format!("another instance has the slot: {holder}"))
                }
                None => (
                    SourceState::Standby,
                    format!(
                        "another instance is publishing the backlog, and holds the temporary slot: {holder}"
                    ),
                ),
            };
            self.report.state(state, reason);
        }
        tokio::time::sleep(STANDBY_INTERVAL).await;
        Ok(())
    }

    async fn make_slot(
        &self,
        connection: D::Replication,
        history: &mut SlotHistory,
    ) -> Result<Acquired<StreamOf<D>, D::Backlog>, Fault> {
        let Source { database, mapping, relay, .. } = self.source;
        let name = self.source.application_name();
        let sql = database.connect_sql(&name).await?;
        // Another instance may have had a slot and lost it while we stood by.
        database.look_again(&sql, history).await?;
        judge(self.source, &sql, history, self.remembered).await?;
        if history.slot.is_none() && history.publishing.by().is_none() {
            return Err(Fault::PublicationGone);
        }
        let tell = |reason: String| self.report.state(SourceState::Connecting, reason);
        match relay.backlog {
            BacklogPolicy::Publish => {
                let all = Selection::default();
                let failover = database.options().failover;
                let making = database.begin_backlog(connection, sql, &mapping.columns, &all, failover);
                let backlog = watch_slot_creation(database, &name, making, tell).await?;
                Ok(Acquired::Backlog(Box::new(backlog)))
            }
            BacklogPolicy::Skip => {
                let at = Timestamp::now();
                let making = sql.create_slot(&database.options().slot, database.options().failover);
                let made = match watch_slot_creation(database, &name, making, tell).await {
                    Ok(()) => Some(Made { at, after_backlog: false }),
                    // Another one was faster, and knows more of it.
                    Err(CatalogError::SlotExists(_)) => {
                        return Err(BacklogError::AlreadyThere(database.options().slot.clone()).into());
                    }
                    Err(error) => return Err(error.into()),
                };
                let streaming = start(database, connection, Lsn::ZERO).await.map_err(|(_, error)| error)?;
                Ok(Acquired::Stream { streaming, made })
            }
        }
    }
}
