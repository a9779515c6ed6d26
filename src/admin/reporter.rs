//! The relay's side of the board: one [`Reporter`] for each source.
//!
//! Counters are atomics, incremented by a whole batch at once. State and positions are behind a mutex, which is held for an
//! assignment and never across an `await`.

use super::{
    family::saturated,
    metrics::SourceMetrics,
    state::SourceState,
    status::{Reconnects, SourceStatus},
};
use crate::{
    message::Timestamp,
    position::{Lsn, Position},
};
use process::heartbeat::Heartbeat;
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

/// One of a source's two connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The replication connection.
    Postgres,
    /// The publishing connection.
    Rabbitmq,
}

/// The oldest published, unconfirmed message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unconfirmed {
    /// Commit time of its row, by the database's clock.
    pub committed: SystemTime,
    /// Time of its first publish, by our clock.
    pub published: Instant,
}

/// Reports one source to the board. Cheap to clone and cheap to call; the relay's task owns a clone.
#[derive(Clone, Debug)]
pub struct Reporter(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    metrics: SourceMetrics,
    heartbeat: Heartbeat,
    live: Mutex<Live>,
}

#[derive(Debug)]
struct Live {
    state: SourceState,
    reason: String,
    since: SystemTime,
    last_error: Option<String>,
    confirmed_lsn: Option<Lsn>,
    position: Option<Position>,
    lag_bytes: Option<u64>,
    slot_retained_bytes: Option<u64>,
    slot_wal_status: Option<String>,
    parked_rows: Option<u64>,
    parked_elsewhere: Option<String>,
    nacked_since: Option<Timestamp>,
    oldest: Option<Unconfirmed>,
    last_confirm: Option<SystemTime>,
    unfenced: Option<String>,
    cleanup_off: Option<String>,
    unpublished_tables: Option<String>,
}

impl Reporter {
    pub(super) fn new(name: &str, metrics: SourceMetrics) -> Reporter {
        let state = SourceState::Connecting;
        metrics.enter(state);
        let live = Live {
            state,
            reason: "starting".to_owned(),
            since: SystemTime::now(),
            last_error: None,
            confirmed_lsn: None,
            position: None,
            lag_bytes: None,
            slot_retained_bytes: None,
            slot_wal_status: None,
            parked_rows: None,
            parked_elsewhere: None,
            nacked_since: None,
            oldest: None,
            last_confirm: None,
            unfenced: None,
            cleanup_off: None,
            unpublished_tables: None,
        };
        Reporter(Arc::new(Inner {
            name: name.to_owned(),
            metrics,
            heartbeat: Heartbeat::new(),
            live: Mutex::new(live),
        }))
    }

    /// The source's name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Heartbeat of the source's loop, for the watchdog.
    pub fn heartbeat(&self) -> &Heartbeat {
        &self.0.heartbeat
    }

    /// Counts `n` messages sent to the broker. A repeated message counts again.
    pub fn published(&self, n: u64) {
        self.0.metrics.published.inc_by(n);
    }

    /// Counts `n` messages that the broker confirmed.
    pub fn confirmed(&self, n: u64) {
        self.0.metrics.confirmed.inc_by(n);
        if n > 0 {
            self.live().last_confirm = Some(SystemTime::now());
        }
    }

    /// Counts `n` messages that the broker returned as unroutable.
    pub fn returned(&self, n: u64) {
        self.0.metrics.returned.inc_by(n);
    }

    /// Counts `n` messages that the broker nacked.
    pub fn nacked(&self, n: u64) {
        self.0.metrics.nacked.inc_by(n);
    }

    /// Sets the number of messages that wait after a nack, and the time since which some do; `None`: none.
    pub fn nacked_waiting(&self, waiting: Option<(usize, Timestamp)>) {
        let metrics = &self.0.metrics;
        metrics.nacked_waiting.set(saturated(waiting.map_or(0, |(messages, _)| messages) as u64));
        match waiting {
            Some((_, since)) => metrics.nacked_since.set(u64::try_from(since.0 / 1_000_000).unwrap_or(0)),
            None => metrics.nacked_since.clear(),
        }
        self.live().nacked_since = waiting.map(|(_, since)| since);
    }

    /// Counts `n` parked messages.
    pub fn parked(&self, n: u64) {
        self.0.metrics.parked.inc_by(n);
    }

    /// Sets the number of rows in the table `outboxd_parked`; `None` when there is no such table.
    pub fn parked_rows(&self, rows: Option<u64>) {
        match rows {
            Some(rows) => self.0.metrics.parked_rows.set(rows),
            None => self.0.metrics.parked_rows.clear(),
        }
        self.live().parked_rows = rows;
    }

    /// Reports parked rows where `outboxd parked` does not look, as `what` says; `None`: there are none. Logs a warning, once for
    /// each text.
    pub fn parked_elsewhere(&self, what: Option<String>) {
        let mut live = self.live();
        if let Some(what) = &what
            && live.parked_elsewhere.as_ref() != Some(what)
        {
            tracing::warn!(source = %self.0.name, "{what}");
        }
        live.parked_elsewhere = what;
    }

    /// Tells whether the last report was of such rows.
    pub fn has_parked_elsewhere(&self) -> bool {
        self.live().parked_elsewhere.is_some()
    }

    /// Counts `n` ignored changes of the outbox table.
    pub fn ignored(&self, n: u64) {
        self.0.metrics.ignored.inc_by(n);
    }

    /// Counts `n` confirmed rows that clean-up removed.
    pub fn deleted(&self, n: u64) {
        self.0.metrics.deleted.inc_by(n);
    }

    /// Sets the number of messages that were sent to the broker and are neither confirmed nor parked, including nacked ones that
    /// will be sent again.
    pub fn in_flight(&self, n: usize) {
        self.0.metrics.in_flight.set(saturated(n as u64));
    }

    /// Counts a confirm, with the time since the row's commit. A negative difference of the two clocks is zero.
    pub fn commit_to_confirm(&self, took: Duration) {
        self.0.metrics.commit_to_confirm.observe(took.as_secs_f64());
    }

    /// Sets the oldest unconfirmed message, or that there is none. Status requests compute its age, so the relay reports only a change
    /// to another message.
    pub fn oldest_unconfirmed(&self, oldest: Option<Unconfirmed>) {
        self.live().oldest = oldest;
    }

    /// Reports that a row of this commit halts the source while everything before it is confirmed: the lag grows although no
    /// message is unconfirmed.
    pub fn stuck_at(&self, committed: Timestamp) {
        let stuck = Unconfirmed { committed: committed.into(), published: Instant::now() };
        self.live().oldest = Some(stuck);
    }

    /// Sets the confirmed position: every message up to `lsn` is confirmed. `position` is that of the last message, `None` when `lsn`
    /// advanced without one.
    pub fn confirmed_position(&self, lsn: Lsn, position: Option<Position>) {
        let mut live = self.live();
        live.confirmed_lsn = Some(lsn);
        live.position = position.or(live.position);
    }

    /// Sets the WAL between the confirmed position and the server's end of WAL.
    pub fn lag(&self, bytes: u64) {
        self.0.metrics.lag.set(bytes);
        self.live().lag_bytes = Some(bytes);
    }

    /// Sets the WAL that the slot retains, and its `wal_status`, from `pg_replication_slots`. `None` for a slot without
    /// `restart_lsn`, such as a lost one.
    pub fn slot(&self, retained_bytes: Option<u64>, wal_status: &str) {
        match retained_bytes {
            Some(bytes) => self.0.metrics.slot_retained.set(bytes),
            None => self.0.metrics.slot_retained.clear(),
        }
        let mut live = self.live();
        live.slot_retained_bytes = retained_bytes;
        if live.slot_wal_status.as_deref() != Some(wal_status) {
            live.slot_wal_status = Some(wal_status.to_owned());
        }
    }

    /// Reports that there is no slot: its figures are unknown.
    pub fn no_slot(&self) {
        self.0.metrics.lag.clear();
        self.0.metrics.slot_retained.clear();
        let mut live = self.live();
        (live.lag_bytes, live.slot_retained_bytes, live.slot_wal_status) = (None, None, None);
    }

    /// Counts a reconnect after a lost connection. The first connection does not count.
    pub fn reconnected(&self, side: Side) {
        match side {
            Side::Postgres => self.0.metrics.reconnects_postgres.inc(),
            Side::Rabbitmq => self.0.metrics.reconnects_rabbitmq.inc(),
        }
    }

    /// Sets the source's state and its reason: a sentence for an operator, with the cure when one is known.
    ///
    /// Logs the change: `halted` as an error, `connecting` and `blocked` as a warning, the others as information. The reason of these
    /// three stays visible as `last_error` after a recovery. The same state with the same reason changes and logs nothing, so a
    /// reason has no figures that differ each time (delays, attempts).
    pub fn state(&self, state: SourceState, reason: impl Into<String>) {
        let reason = reason.into();
        let mut live = self.live();
        if live.state == state && live.reason == reason {
            return;
        }
        let from = live.state;
        if from != state {
            live.since = SystemTime::now();
            live.state = state;
            self.0.metrics.enter(state);
        }
        if state.is_trouble() {
            live.last_error = Some(reason.clone());
        }
        live.reason.clone_from(&reason);
        drop(live);
        self.log(from, state, &reason);
    }

    /// Sets the state like [`state`](Self::state), with a reason whose figures change often. Logs only a change of the state.
    pub fn state_with_figures(&self, state: SourceState, reason: String) {
        let mut live = self.live();
        if live.state != state {
            drop(live);
            return self.state(state, reason);
        }
        if state.is_trouble() {
            live.last_error = Some(reason.clone());
        }
        live.reason = reason;
    }

    /// Reports that the fence is missing, because of `reason`: only the slot keeps instances apart. Logs a warning, once for each
    /// reason.
    pub fn unfenced(&self, reason: String) {
        let mut live = self.live();
        if live.unfenced.as_ref() != Some(&reason) {
            tracing::warn!(source = %self.0.name, "{reason}");
            live.unfenced = Some(reason);
        }
    }

    /// Reports that clean-up is off until an operator acts, because of `why`; `None`: clean-up works. Logs a warning, once for each
    /// reason.
    pub fn cleanup_off(&self, why: Option<String>) {
        let mut live = self.live();
        if let Some(why) = &why
            && live.cleanup_off.as_ref() != Some(why)
        {
            tracing::warn!(source = %self.0.name, "clean-up is off: {why}; relaying goes on");
        }
        self.0.metrics.cleanup_off.set(i64::from(why.is_some()));
        live.cleanup_off = why;
    }

    /// Reports tables whose rows are not published, as `what` says; `None`: there are none. Logs a warning, once for each text.
    pub fn unpublished_tables(&self, what: Option<String>) {
        let mut live = self.live();
        if let Some(what) = &what
            && live.unpublished_tables.as_ref() != Some(what)
        {
            tracing::warn!(source = %self.0.name, "{what}");
        }
        live.unpublished_tables = what;
    }

    fn log(&self, from: SourceState, to: SourceState, reason: &str) {
        macro_rules! changed {
            ($level:ident) => {
                tracing::$level!(source = %self.0.name, %from, %to, reason, "source is {to}")
            };
        }
        match to {
            SourceState::Halted => changed!(error),
            SourceState::Connecting | SourceState::Blocked => changed!(warn),
            SourceState::Backlog | SourceState::Streaming | SourceState::Standby => changed!(info),
        }
    }

    pub(super) fn status(&self) -> SourceStatus {
        let metrics = &self.0.metrics;
        let live = self.live();
        let age = |at: SystemTime| SystemTime::now().duration_since(at).unwrap_or_default();
        // Nothing unconfirmed means no lag only while the source streams; otherwise the WAL may hold rows.
        let lag_seconds = match live.oldest {
            Some(oldest) => Some(seconds(age(oldest.committed))),
            None => (live.state == SourceState::Streaming).then_some(0.0),
        };
        SourceStatus {
            name: self.0.name.clone(),
            state: live.state,
            reason: live.reason.clone(),
            since: Timestamp::from(live.since).to_string(),
            confirmed_lsn: live.confirmed_lsn.map(|lsn| lsn.to_string()),
            position: live.position.map(|position| position.to_string()),
            lag_bytes: live.lag_bytes,
            lag_seconds,
            oldest_unconfirmed_seconds: live.oldest.map(|oldest| seconds(oldest.published.elapsed())),
            last_confirmed_at: live.last_confirm.map(|at| Timestamp::from(at).to_string()),
            slot_retained_bytes: live.slot_retained_bytes,
            slot_wal_status: live.slot_wal_status.clone(),
            in_flight: u64::try_from(metrics.in_flight.get()).unwrap_or_default(),
            published: metrics.published.get(),
            confirmed: metrics.confirmed.get(),
            returned: metrics.returned.get(),
            nacked: metrics.nacked.get(),
            nacked_waiting: u64::try_from(metrics.nacked_waiting.get()).unwrap_or_default(),
            nacked_since: live.nacked_since.map(|since| since.to_string()),
            parked: metrics.parked.get(),
            parked_rows: live.parked_rows,
            parked_elsewhere: live.parked_elsewhere.clone(),
            ignored: metrics.ignored.get(),
            deleted: metrics.deleted.get(),
            cleanup_off: live.cleanup_off.clone(),
            unpublished_tables: live.unpublished_tables.clone(),
            reconnects: Reconnects {
                postgres: metrics.reconnects_postgres.get(),
                rabbitmq: metrics.reconnects_rabbitmq.get(),
            },
            last_error: live.last_error.clone(),
        }
    }

    /// Sets the gauges of ages.
    pub(super) fn set_ages(&self) {
        let SourceStatus { lag_seconds, oldest_unconfirmed_seconds, slot_wal_status, .. } = self.status();
        let last_confirm = self.live().last_confirm;
        let ages = &self.0.metrics.ages;
        ages.set(lag_seconds, oldest_unconfirmed_seconds, last_confirm, slot_wal_status.as_deref());
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        // Every assignment under the lock is complete, so a panic elsewhere leaves valid values.
        self.0.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Seconds, rounded to milliseconds.
fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1000.0).round() / 1000.0
}
