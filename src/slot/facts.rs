//! Replication slots as the server describes them, and the end of its WAL, by which their lag is measured.

use std::{str::FromStr, time::Duration};

use tokio_postgres::Client;

use super::{
    holder::{ClientAddress, Holder},
    invalidation::Invalidation,
    temporary::temporary_name,
};
use crate::{
    position::Lsn,
    postgres::{
        sql_text::literal,
        statement::{CatalogError, failed, nonsense, text_rows},
    },
};

/// A replication slot (manual, "pg_replication_slots").
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotFacts {
    /// Name.
    pub name: String,
    /// Output plugin; `None` for a physical slot.
    pub plugin: Option<String>,
    /// Database; `None` for a physical slot.
    pub database: Option<String>,
    /// Set if the slot belongs to the connection's database. The server compares, as names may be in different encodings.
    pub here: bool,
    /// Set if the slot ends with its session.
    pub temporary: bool,
    /// Server process that uses the slot.
    pub active_pid: Option<i32>,
    /// The client of that process; `None` if nobody uses the slot, the process has just ended, or the query left it out.
    pub holder: Option<Holder>,
    /// Position confirmed by the consumer; `None` for a physical slot.
    pub confirmed_flush: Option<Lsn>,
    /// Start of the WAL that the slot holds back; `None` if it holds back none, as when it is lost.
    pub restart_lsn: Option<Lsn>,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
    /// Reason why the slot is lost for good; `None` while it can be streamed from.
    pub lost: Option<Invalidation>,
    /// Time since the slot was last used (17 and later).
    pub unused_for: Option<Duration>,
    /// Unused time after which the server invalidates the slot (`idle_replication_slot_timeout`, 18 and later).
    pub unused_max: Option<Duration>,
    /// Set if the slot decodes prepared transactions at PREPARE (14 and later).
    pub two_phase: bool,
    /// Set if the slot is synchronised to standbys (17 and later).
    pub failover: bool,
    /// WAL that the slot holds back: bytes from `restart_lsn` to the current end.
    pub retained_bytes: u64,
    /// Lag: bytes from `confirmed_flush` to the current end.
    pub lag_bytes: u64,
    /// Current end of the server's WAL.
    pub current: Lsn,
}

impl SlotFacts {
    /// Tells whether the WAL that the slot needs is gone for good, so that there is a gap.
    pub fn is_lost(&self) -> bool {
        self.lost.is_some()
    }

    /// Tells whether the server will invalidate the slot soon unless a client uses it.
    pub(crate) fn wants_use(&self) -> bool {
        let (Some(unused_for), Some(unused_max)) = (self.unused_for, self.unused_max) else { return false };
        self.active_pid.is_none() && !self.is_lost() && unused_for >= unused_max / UNUSED_PART
    }

    /// Tells whether this is the source's slot `slot`, or its temporary slot.
    pub(crate) fn is_of(&self, slot: &str) -> bool {
        self.name == slot || self.name == temporary_name(slot)
    }

    /// Tells whether the creation of the slot is complete. A logical slot has no confirmed position before, and its creation may be
    /// given up.
    pub fn is_made(&self) -> bool {
        self.plugin.is_none() || self.confirmed_flush.is_some()
    }

    /// The program that streams from the slot and is not outboxd. A slot that is being created belongs to nobody yet.
    pub fn stranger(&self) -> Option<&Holder> {
        self.holder.as_ref().filter(|holder| self.is_made() && !holder.is_outboxd)
    }

    /// Tells whether the slot can stream tables of the connection's database: it is a permanent pgoutput slot of that database.
    /// A slot that is being created does not count, because its creation may be given up.
    pub fn serves(&self) -> bool {
        self.plugin.as_deref() == Some("pgoutput")
            && self.here
            && !self.temporary
            && self.confirmed_flush.is_some()
    }
}

/// Divisor of `idle_replication_slot_timeout`: outboxd uses a slot again after that part of it.
const UNUSED_PART: u32 = 4;

/// Columns of a slot, for all versions. LSNs are bytes from `0/0`.
const COLUMNS: &str = "s.slot_name, s.plugin, s.database, s.database = current_database(), s.temporary, s.active_pid,
            pg_wal_lsn_diff(s.confirmed_flush_lsn, '0/0')::int8, pg_wal_lsn_diff(s.restart_lsn, '0/0')::int8, s.wal_status,
            to_jsonb(s) ->> 'invalidation_reason', to_jsonb(s) ->> 'conflicting' = 'true',
            extract(epoch FROM clock_timestamp() - (to_jsonb(s) ->> 'inactive_since')::timestamptz)::int8,
            extract(epoch FROM current_setting('idle_replication_slot_timeout', true)::interval)::int8,
            to_jsonb(s) ->> 'two_phase' = 'true', to_jsonb(s) ->> 'failover' = 'true',
            pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END, '0/0')::int8";

/// Columns of a slot's holder. Every role sees application name and role; only members of `pg_read_all_stats` and of the client's
/// role see the address (`pg_stat_get_activity`, pgstatfuncs.c).
const HOLDER_COLUMNS: &str = "a.pid, a.application_name, current_setting('application_name'), a.usename, host(a.client_addr), a.client_port";

/// The query of slots with their holders.
pub(super) fn sql_with_holders(condition: &str) -> String {
    format!(
        "SELECT {COLUMNS}, {HOLDER_COLUMNS}
         FROM pg_replication_slots s LEFT JOIN pg_stat_activity a ON a.pid = s.active_pid {condition}"
    )
}

/// Reads slots by a query of this file.
pub(super) async fn read(
    client: &Client,
    doing: &'static str,
    sql: &str,
) -> Result<Vec<SlotFacts>, CatalogError> {
    let rows = text_rows(client, doing, sql).await?;
    parse(&rows).ok_or_else(|| nonsense(doing, format!("{rows:?}")))
}

/// Reads one slot without its holder, in one round trip, as the monitor does every few seconds. `None` if it does not exist.
///
/// # Errors
/// [`CatalogError`].
pub async fn slot_progress(client: &Client, slot: &str) -> Result<Option<SlotFacts>, CatalogError> {
    let sql = format!("SELECT {COLUMNS} FROM pg_replication_slots s WHERE s.slot_name = {}", literal(slot));
    Ok(read(client, "reading the replication slot", &sql).await?.into_iter().next())
}

/// The slots of the rows; `None` if the rows do not fit the query.
pub(super) fn parse(rows: &[Vec<Option<String>>]) -> Option<Vec<SlotFacts>> {
    rows.iter().map(|row| slot(row)).collect()
}

fn slot(row: &[Option<String>]) -> Option<SlotFacts> {
    let (slot, holder) = row.split_at_checked(16)?;
    let [
        name,
        plugin,
        database,
        here,
        temporary,
        active_pid,
        confirmed_flush,
        restart_lsn,
        wal_status,
        reason,
        conflicting,
        unused_for,
        unused_max,
        two_phase,
        failover,
        current,
    ] = slot
    else {
        return None;
    };
    let is = |value: &Option<String>| value.as_deref() == Some("t");
    let lsn = |value: &Option<String>| number::<u64>(value).map(Lsn);
    let seconds = |value: &Option<String>| number(value).map(Duration::from_secs);
    let (confirmed_flush, restart_lsn) = (lsn(confirmed_flush), lsn(restart_lsn));
    let current = lsn(current).unwrap_or(Lsn::ZERO);
    let is_lost = wal_status.as_deref() == Some("lost") || reason.is_some() || is(conflicting);
    let behind = |lsn: Option<Lsn>| lsn.map_or(0, |lsn| current.bytes_since(lsn));
    Some(SlotFacts {
        name: name.clone()?,
        plugin: plugin.clone(),
        database: database.clone(),
        here: is(here),
        temporary: is(temporary),
        active_pid: number(active_pid),
        holder: holder_of(holder),
        confirmed_flush,
        restart_lsn,
        wal_status: wal_status.clone(),
        lost: is_lost.then(|| Invalidation::of(reason.as_deref(), is(conflicting))),
        unused_for: seconds(unused_for),
        unused_max: seconds(unused_max).filter(|limit| !limit.is_zero()),
        two_phase: is(two_phase),
        failover: is(failover),
        retained_bytes: behind(restart_lsn),
        lag_bytes: behind(confirmed_flush),
        current,
    })
}

fn holder_of(row: &[Option<String>]) -> Option<Holder> {
    let [pid, application, own, user, address, port] = row else { return None };
    let application = application.clone().unwrap_or_default();
    Some(Holder {
        pid: number(pid)?,
        is_outboxd: Holder::is_outboxd(&application, own.as_deref().unwrap_or_default()),
        application,
        user: user.clone(),
        address: ClientAddress::of(address.clone(), number(port)),
    })
}

fn number<T: FromStr>(text: &Option<String>) -> Option<T> {
    text.as_ref()?.parse().ok()
}

/// Reads the end of the server's WAL on disk; on a standby, the replayed position.
///
/// # Errors
/// [`CatalogError::Statement`].
pub async fn wal_end(client: &Client) -> Result<Lsn, CatalogError> {
    let row = client
        .query_typed_one(
            "SELECT pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
                                         ELSE pg_current_wal_flush_lsn() END, '0/0')::int8",
            &[],
        )
        .await
        .map_err(failed("reading the end of WAL"))?;
    Ok(Lsn(row.get::<_, Option<i64>>(0).unwrap_or_default().cast_unsigned()))
}

#[cfg(test)]
impl SlotFacts {
    /// A healthy slot that no client uses.
    pub(crate) fn sample(confirmed_flush: Lsn) -> Self {
        Self {
            name: "outboxd_orders".into(),
            plugin: Some("pgoutput".into()),
            database: Some("orders".into()),
            here: true,
            temporary: false,
            active_pid: None,
            holder: None,
            confirmed_flush: Some(confirmed_flush),
            restart_lsn: Some(Lsn(1)),
            wal_status: Some("reserved".into()),
            lost: None,
            unused_for: None,
            unused_max: None,
            two_phase: false,
            failover: false,
            retained_bytes: 0,
            lag_bytes: 0,
            current: Lsn(1000),
        }
    }
}
