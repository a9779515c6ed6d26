//! Acquisition of the slot: it exists, or is created, or another instance holds it and this one stands by.

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
    postgres::{SourceDatabase, sqlstate::OBJECT_IN_USE},
    preflight,
    relay::{
        BacklogPolicy, Fault, Source,
        database::{Database, Replication, Sql},
        pipeline::StreamOf,
        slot_creation::watch_slot_creation,
    },
    slot::{
        continuity::{LastSeen, SlotHistory},
        creation::SlotError,
        facts::SlotFacts,
        open_transactions,
    },
};

/// The acquired slot: streaming, or about to be created from the backlog.
pub(super) enum Acquired<S, B> {
    Stream {
        streaming: Streaming<S>,
        /// Set if the slot is new.
        made: Option<Made>,
    },
    Backlog(Box<B>),
}

/// Number of looks in a row that find the slot used by a program other than outboxd before the source refuses it. A person in psql
/// uses the slot for a moment, and so does an instance that has not yet written its name into the slot's record.
const STRANGER_LOOKS: u32 = 6;

/// Interval at which a standby asks for the slot. Half a second keeps a takeover well within two seconds.
const STANDBY_INTERVAL: Duration = Duration::from_millis(500);

/// A source on its way to the slot.
pub(super) struct Acquisition<'a, D, B> {
    pub(super) source: &'a Source<D, B>,
    pub(super) report: &'a Reporter,
    /// The slot at an earlier attempt.
    pub(super) remembered: Option<&'a LastSeen>,
    /// Everything before this position is settled.
    pub(super) from: Lsn,
}

impl<D: Database, B> Acquisition<'_, D, B> {
    /// Waits until this instance has the slot, as a standby while another has it. First checks who uses the slot's name: a slot of
    /// another database or of another program is refused.
    ///
    /// # Errors
    ///
    /// [`Fault::Preflight`] for such a name, [`Fault::Gap`], or a fault of a connection.
    pub(super) async fn acquire(
        &self,
        mut connection: D::Replication,
        history: &mut SlotHistory,
    ) -> Result<Acquired<StreamOf<D>, D::Backlog>, Fault> {
        let database = self.source.database.options();
        let mut slot_exists = history.slot.is_some();
        let mut strangers = 0;
        loop {
            let slots = connection.slots(&database.schema, &database.slot).await?;
            if let Some(refusal) = preflight::slot_refusal(database, &slots, !slot_exists) {
                strangers += 1;
                if strangers < STRANGER_LOOKS && slots.iter().any(|one| one.stranger().is_some()) {
                    tokio::time::sleep(STANDBY_INTERVAL).await;
                    continue;
                }
                return Err(Fault::Preflight(vec![refusal]));
            }
            strangers = 0;
            slot_exists |= slots.iter().any(|one| one.name == database.slot && one.is_made());
            let in_use = slots
                .iter()
                .find(|one| one.active_pid.is_some() && (one.name == database.slot || !slot_exists));
            if let Some(in_use) = in_use {
                self.stand_by(&mut connection, in_use).await?;
                continue;
            }
            if slot_exists {
                let ours = slots.iter().find(|one| one.name == database.slot);
                if ours.is_some_and(|ours| database.makes_failover(ours.failover)) {
                    if !connection.make_failover(&database.slot).await? {
                        // Another instance was faster. The next look shows which.
                        drop(connection);
                        connection = self.connect_again(history).await?;
                        continue;
                    }
                    let (source, slot) = (&self.source.name, &database.slot);
                    tracing::info!(
                        source,
                        slot,
                        "made the slot a failover slot: PostgreSQL synchronises it to standby servers"
                    );
                }
                connection = match start(&self.source.database, connection, self.from).await {
                    Ok(streaming) => return Ok(Acquired::Stream { streaming, made: None }),
                    // Another instance was faster. The next look shows which.
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

    /// Replaces a connection that cannot be used any more. It must reach the same server, because all that is known is about that
    /// one.
    async fn connect_again(&self, history: &SlotHistory) -> Result<D::Replication, Fault> {
        let database = &self.source.database;
        let mut connection = database.connect_replication(&self.source.application_name()).await?;
        if history.server.clone().names() != connection.identify_system().await?.names() {
            return Err(Fault::ServerChanged);
        }
        Ok(connection)
    }

    /// Reports why the slot is not available, and waits a moment. A slot whose creation waits for other transactions belongs to
    /// nobody yet. Nothing is published, so an instance that waits for it is not ready either.
    async fn stand_by(&self, connection: &mut D::Replication, in_use: &SlotFacts) -> Result<(), Fault> {
        let SourceDatabase { slot, .. } = self.source.database.options();
        if let Some(holder) = &in_use.holder {
            let awaited =
                if in_use.is_made() { Vec::new() } else { connection.awaited_transactions(slot).await? };
            let (state, reason) = match open_transactions::reason(slot, &awaited) {
                Some(waits) => (
                    SourceState::Connecting,
                    format!(
                        "{waits}. Another instance creates the slot: {holder}. If that instance does not run any more, end its process: \
                         SELECT pg_terminate_backend({});",
                        holder.pid
                    ),
                ),
                None if in_use.name == *slot => (
                    SourceState::Standby,
                    format!(
                        "another instance has the slot: {holder}; this one takes over when that one ends"
                    ),
                ),
                None => (
                    SourceState::Standby,
                    format!(
                        "another instance publishes the backlog and has the temporary slot: {holder}; this one takes over when that one ends"
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
        // Another instance may have had a slot and lost it during the standby.
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
                    Ok(()) => {
                        tracing::info!(
                            source = self.source.name,
                            slot = database.options().slot,
                            "created the slot; rows that were in the table before are not published (backlog = \"skip\")"
                        );
                        Some(Made { at, after_backlog: false })
                    }
                    // Another instance was faster, and knows more about the slot.
                    Err(SlotError::Exists(_)) => {
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
