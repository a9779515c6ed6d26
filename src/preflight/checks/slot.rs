//! Checks of the slot, and of inactive slots.

use std::time::Duration;

use super::SLOT;
use crate::{
    postgres::{SourceDatabase, sql_text::identifier},
    preflight::facts::server::ServerFacts,
    slot::{
        creation::create_slot_sql,
        facts::SlotFacts,
        open_transactions::{self, OpenTransaction},
    },
};
use diagnostics::{check::Check, shell_word::quoted};

const OTHER: &str = "set postgres.slot to another name";

/// Refuses a slot of the configured name that belongs to somebody else, or cannot serve.
pub(super) fn refusal(database: &SourceDatabase, slots: &[SlotFacts], to_be_made: bool) -> Option<Check> {
    let ours = &database.slot;
    let concerns = |one: &&SlotFacts| one.name == *ours || to_be_made && one.is_of(ours);
    slots.iter().filter(concerns).find_map(|one| refused(ours, one))
}

fn refused(ours: &str, one: &SlotFacts) -> Option<Check> {
    let SlotFacts { name: slot, plugin, database, here, holder, .. } = one;
    let name = if slot == ours {
        format!("slot {slot}")
    } else {
        format!("slot {slot}, which has the name of the temporary slot for creating {ours},")
    };
    let held = holder.as_ref().map(|holder| format!(", and is in use by {holder}")).unwrap_or_default();
    let what = match (plugin, database, one.stranger()) {
        (None, ..) => format!("{name} is a physical slot{held}"),
        (Some(plugin), ..) if plugin != "pgoutput" => {
            format!("{name} uses the plugin {plugin}, not pgoutput{held}")
        }
        (_, Some(database), _) if !here => {
            format!(
                "{name} belongs to database \"{database}\"{held}; all databases of a server share the names of slots"
            )
        }
        (.., Some(stranger)) => {
            return Some(Check::failed(
                SLOT,
                format!(
                    "{name} is in use by {stranger}, which is not outboxd. outboxd publishes nothing meanwhile, and never publishes \
                     rows that the other program confirms"
                ),
                format!(
                    "if outboxd replaces that program, stop the program; otherwise {OTHER}. If it is an outboxd 0.1.0, give it an \
                     application_name in postgres.url that begins with outboxd"
                ),
            ));
        }
        _ if one.temporary && slot == ours => {
            format!("{name} is a temporary slot of another session{held}")
        }
        _ if !one.temporary && slot != ours => format!("{name} is a permanent slot{held}"),
        _ => return None,
    };
    Some(Check::failed(SLOT, what, OTHER))
}

/// Check of transactions that the creation of the slot would wait for.
pub(super) fn open_transactions(transactions: &[OpenTransaction]) -> Check {
    const NAME: &str = "open transactions";
    if transactions.is_empty() {
        return Check::passed(NAME, "none that the creation of the slot would wait for");
    }
    Check::warning(
        NAME,
        format!(
            "PostgreSQL creates the slot, and outboxd publishes the first message, only after these have ended, in any database: {}",
            open_transactions::named(transactions)
        ),
        open_transactions::cure(transactions),
    )
}

pub(super) fn missing(database: &SourceDatabase, slots: &[SlotFacts]) -> Check {
    let ours = slots.iter().filter(|one| one.is_of(&database.slot));
    if let Some(holder) = ours.into_iter().find_map(|one| one.holder.as_ref()) {
        Check::passed(SLOT, format!("slot {} is being created by {holder}", database.slot))
    } else if database.create {
        Check::passed(SLOT, format!("slot {} will be created", database.slot))
    } else {
        Check::failed(
            SLOT,
            format!("slot {} does not exist, and postgres.create is false", database.slot),
            match database.cleanup {
                None => format!("{};", create_slot_sql(&database.slot, database.failover)),
                Some(_) => format!(
                    "{}; -- if the table has rows by then, clean-up removes no rows until you declare that they are published",
                    create_slot_sql(&database.slot, database.failover)
                ),
            },
        )
    }
}

/// First version with failover slots.
const FAILOVER_VERSION: i32 = 170_000;

/// Check of the server and the slot for `postgres.failover`.
pub(super) fn failover(
    database: &SourceDatabase,
    slot: Option<&SlotFacts>,
    server: &ServerFacts,
) -> Option<Check> {
    const NAME: &str = "failover";
    if !database.failover {
        return None;
    }
    if server.version < FAILOVER_VERSION {
        let version = server.version / 10_000;
        return Some(Check::failed(
            NAME,
            format!(
                "postgres.failover is true, but PostgreSQL {version} has no failover slots: a promoted standby would have no slot"
            ),
            "set postgres.failover = false, or upgrade to PostgreSQL 17 or later",
        ));
    }
    Some(match slot {
        Some(slot) if !slot.failover && (slot.active_pid.is_some() || !database.create) => Check::warning(
            NAME,
            format!(
                "slot {} is not a failover slot: a promoted standby would have no slot, and rows may be missing",
                slot.name
            ),
            if database.create {
                "restart outboxd, which turns it into one before it streams".to_owned()
            } else {
                let database = format!(
                    "dbname={} replication=database",
                    pg_replication::quote::option_value(&server.database)
                );
                let alter = format!("ALTER_REPLICATION_SLOT {} (FAILOVER true)", identifier(&slot.name));
                format!("stop outboxd, then: psql {} -c {}", quoted(&database), quoted(&alter))
            },
        ),
        Some(slot) if !slot.failover => {
            Check::passed(NAME, format!("slot {} will be turned into a failover slot", slot.name))
        }
        Some(slot) => Check::passed(NAME, format!("slot {} is a failover slot", slot.name)),
        None => Check::passed(NAME, "the slot will be a failover slot"),
    })
}

pub(super) fn existing(slot: &SlotFacts) -> Check {
    const NAME: &str = SLOT;
    let name = &slot.name;
    if let Some(why) = &slot.lost {
        let confirmed = slot
            .confirmed_flush
            .map(|lsn| format!(". Rows committed after {lsn} have not been published"))
            .unwrap_or_default();
        return Check::failed(
            NAME,
            format!("slot {name} is lost: {why}{confirmed}"),
            format!(
                "`outboxd recover` creates a new slot and publishes the rows that are still in the table; {}",
                why.prevention()
            ),
        );
    }
    if slot.wal_status.as_deref() == Some("unreserved") {
        return Check::warning(
            NAME,
            format!(
                "slot {name} is about to be lost: it holds back {} bytes of WAL, more than max_slot_wal_keep_size allows",
                slot.retained_bytes
            ),
            "raise max_slot_wal_keep_size, or let outboxd catch up at once",
        );
    }
    if slot.two_phase {
        return Check::failed(
            NAME,
            format!("slot {name} decodes prepared transactions (two_phase), which outboxd does not support"),
            OTHER,
        );
    }
    if let Some(warning) = unused(slot) {
        return warning;
    }
    let active = slot.holder.as_ref().map(|holder| format!(", in use by {holder}")).unwrap_or_default();
    Check::passed(NAME, format!("slot {name}{active}, {} bytes behind", slot.lag_bytes))
}

/// Shortest `idle_replication_slot_timeout` that leaves time to notice a stopped outboxd and to start it.
const UNUSED_MAX_LEAST: Duration = Duration::from_secs(24 * 3600);

/// Warns of `idle_replication_slot_timeout`. A running outboxd uses its slot often enough in every state.
fn unused(slot: &SlotFacts) -> Option<Check> {
    let limit = slot.unused_max?;
    let unused_for =
        slot.unused_for.filter(|unused_for| *unused_for >= limit / 2 && slot.active_pid.is_none());
    let what = match unused_for {
        Some(unused_for) => format!("no client has used slot {} for {} s", slot.name, unused_for.as_secs()),
        None if limit < UNUSED_MAX_LEAST => format!("slot {} may be unused for a short time only", slot.name),
        None => return None,
    };
    Some(Check::warning(
        SLOT,
        format!(
            "{what}: PostgreSQL invalidates a slot after {} s without use (idle_replication_slot_timeout). Unpublished rows then need \
             `outboxd recover`",
            limit.as_secs()
        ),
        "keep outboxd running, which uses the slot even while RabbitMQ is down; or raise idle_replication_slot_timeout (0 is no \
         limit), which needs a reload and no restart",
    ))
}

pub(super) fn idle(ours: &str, slots: &[SlotFacts]) -> Check {
    const NAME: &str = "inactive slots";
    let idle: Vec<_> = slots
        .iter()
        .filter(|slot| slot.active_pid.is_none() && slot.restart_lsn.is_some() && slot.name != ours)
        .collect();
    if idle.is_empty() {
        return Check::passed(NAME, "no other slot is inactive and holds back WAL");
    }
    let what = idle
        .iter()
        .map(|slot| format!("{} holds back {} bytes of WAL", slot.name, slot.retained_bytes))
        .collect::<Vec<_>>();
    Check::warning(
        NAME,
        what.join(", "),
        "drop the slots that no program will use again: SELECT pg_drop_replication_slot(name);",
    )
}
