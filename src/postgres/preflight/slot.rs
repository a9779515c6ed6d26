//! The slot, and those that nobody uses.

use super::{
    super::{
        SourceDatabase,
        catalog::{ServerFacts, SlotFacts, create_slot_sql},
    },
    Check, SLOT,
};

pub(super) fn missing(database: &SourceDatabase) -> Check {
    if database.create {
        Check::passed(SLOT, format!("{} will be created", database.slot))
    } else {
        Check::failed(
            SLOT,
            format!("{} does not exist, and postgres.create is false", database.slot),
            match database.cleanup {
                None => format!("{};", create_slot_sql(&database.slot)),
                Some(_) => format!(
                    "{}; -- if the table has rows by then, clean-up removes nothing until somebody has looked after them",
                    create_slot_sql(&database.slot)
                ),
            },
        )
    }
}

pub(super) fn existing(slot: &SlotFacts, server: &ServerFacts) -> Check {
    const NAME: &str = SLOT;
    let other = "set postgres.slot to another name";
    let name = &slot.name;
    match (&slot.plugin, &slot.database) {
        (None, _) => return Check::failed(NAME, format!("{name} is a physical slot"), other),
        (Some(plugin), _) if plugin != "pgoutput" => {
            return Check::failed(
                NAME,
                format!("{name} is a slot of the plugin {plugin}, not pgoutput"),
                other,
            );
        }
        (_, Some(database)) if *database != server.database => {
            return Check::failed(
                NAME,
                format!("{name} belongs to database {database}, not {}", server.database),
                other,
            );
        }
        _ if slot.temporary => {
            return Check::failed(NAME, format!("{name} is a temporary slot of another session"), other);
        }
        _ => {}
    }
    if slot.is_lost() {
        let why = slot.invalidation.as_deref().unwrap_or("max_slot_wal_keep_size was exceeded");
        let confirmed = slot
            .confirmed_flush
            .map(|lsn| format!(" Rows after {lsn} have not been published."))
            .unwrap_or_default();
        return Check::failed(
            NAME,
            format!("{name} is lost: the server has removed WAL that it needs ({why}).{confirmed}"),
            "`outboxd recover` makes a new slot and publishes the rows that the table still has; a larger \
             max_slot_wal_keep_size keeps it from happening again",
        );
    }
    if slot.wal_status.as_deref() == Some("unreserved") {
        return Check::warning(
            NAME,
            format!(
                "{name} is about to be lost: it needs {} bytes of WAL, more than \
            max_slot_wal_keep_size",
                slot.retained_bytes
            ),
            "let outboxd catch up now, or raise max_slot_wal_keep_size",
        );
    }
    if slot.two_phase {
        return Check::failed(
            NAME,
            format!("{name} decodes prepared transactions (two_phase), which outboxd does not"),
            other,
        );
    }
    let active = slot.active_pid.map(|pid| format!(", in use by process {pid}")).unwrap_or_default();
    Check::passed(NAME, format!("{name}{active}, {} bytes behind", slot.lag_bytes))
}

pub(super) fn idle(ours: &str, slots: &[SlotFacts]) -> Check {
    const NAME: &str = "inactive slots";
    let idle: Vec<_> = slots
        .iter()
        .filter(|slot| slot.active_pid.is_none() && slot.restart_lsn.is_some() && slot.name != ours)
        .collect();
    if idle.is_empty() {
        return Check::passed(NAME, "no other slot holds WAL back unused");
    }
    let what = idle
        .iter()
        .map(|slot| format!("{} holds back {} bytes of WAL", slot.name, slot.retained_bytes))
        .collect::<Vec<_>>();
    Check::warning(
        NAME,
        what.join(", "),
        "drop those that nobody will use again: SELECT pg_drop_replication_slot(name);",
    )
}
