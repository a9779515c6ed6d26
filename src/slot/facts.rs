//! Replication slots as the server describes them, and the end of its WAL, by which their lag is measured.

use std::time::Duration;

use tokio_postgres::{Client, Row, types::Type};

use super::invalidation::Invalidation;
use crate::{
    position::Lsn,
    postgres::statement::{CatalogError, IN_ANOTHER_ENCODING, failed},
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

/// The query for all versions. LSNs are bytes from `0/0`.
const SLOTS: &str = "SELECT s.slot_name::text, s.plugin::text, s.database::text, s.temporary, s.active_pid,
            pg_wal_lsn_diff(s.confirmed_flush_lsn, '0/0')::int8, pg_wal_lsn_diff(s.restart_lsn, '0/0')::int8, s.wal_status,
            to_jsonb(s) ->> 'invalidation_reason',
            COALESCE((to_jsonb(s) ->> 'two_phase')::bool, false), COALESCE((to_jsonb(s) ->> 'failover')::bool, false),
            pg_wal_lsn_diff(wal.current, '0/0')::int8, COALESCE((to_jsonb(s) ->> 'conflicting')::bool, false),
            extract(epoch FROM clock_timestamp() - (to_jsonb(s) ->> 'inactive_since')::timestamptz)::int8,
            extract(epoch FROM current_setting('idle_replication_slot_timeout', true)::interval)::int8,
            COALESCE(s.database = current_database(), false)
     FROM pg_replication_slots s, (SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
                                               ELSE pg_current_wal_lsn() END AS current) wal";

fn slot_facts(row: &Row) -> SlotFacts {
    let lsn = |index| row.get::<_, Option<i64>>(index).map(|lsn| Lsn(lsn.cast_unsigned()));
    let (confirmed_flush, restart_lsn) = (lsn(5), lsn(6));
    let current = lsn(11).unwrap_or(Lsn::ZERO);
    let wal_status = row.get::<_, Option<String>>(7);
    let (reason, conflicting) = (row.get::<_, Option<&str>>(8), row.get(12));
    let is_lost = wal_status.as_deref() == Some("lost") || reason.is_some() || conflicting;
    let seconds =
        |index| row.get::<_, Option<i64>>(index).and_then(|s| u64::try_from(s).ok()).map(Duration::from_secs);
    let behind = |lsn: Option<Lsn>| lsn.map_or(0, |lsn| current.bytes_since(lsn));
    SlotFacts {
        name: row.get(0),
        plugin: row.get(1),
        database: row.try_get(2).unwrap_or_else(|_| Some(IN_ANOTHER_ENCODING.to_owned())),
        here: row.get(15),
        temporary: row.get(3),
        active_pid: row.get(4),
        confirmed_flush,
        restart_lsn,
        wal_status,
        lost: is_lost.then(|| Invalidation::of(reason, conflicting)),
        unused_for: seconds(13),
        unused_max: seconds(14).filter(|limit| !limit.is_zero()),
        two_phase: row.get(9),
        failover: row.get(10),
        retained_bytes: behind(restart_lsn),
        lag_bytes: behind(confirmed_flush),
        current,
    }
}

/// Reads all slots of the server, ordered by name.
///
/// # Errors
/// [`CatalogError::Statement`].
pub async fn slots(client: &Client) -> Result<Vec<SlotFacts>, CatalogError> {
    let sql = format!("{SLOTS} ORDER BY s.slot_name");
    let rows = client.query_typed(&sql, &[]).await.map_err(failed("reading the replication slots"))?;
    Ok(rows.iter().map(slot_facts).collect())
}

/// Reads one slot in one round trip, as the monitor does every few seconds. `None` if it does not exist.
///
/// # Errors
/// [`CatalogError::Statement`].
pub async fn slot_progress(client: &Client, slot: &str) -> Result<Option<SlotFacts>, CatalogError> {
    let sql = format!("{SLOTS} WHERE s.slot_name = $1");
    let row = client
        .query_typed_opt(&sql, &[(&slot, Type::TEXT)])
        .await
        .map_err(failed("reading the replication slot"))?;
    Ok(row.as_ref().map(slot_facts))
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
