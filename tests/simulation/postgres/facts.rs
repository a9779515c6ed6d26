//! Answers of the catalog.

use outboxd::{
    position::Lsn,
    postgres::{
        outbox_table::{ColumnFacts, TableFacts, TableKind},
        own_table::OwnTableFacts,
    },
    preflight::{
        Facts,
        facts::{family::Family, server::ServerFacts},
    },
    slot::{
        facts::SlotFacts,
        holder::{ClientAddress, Holder},
        invalidation::Invalidation,
        publication::{Held, PublicationFacts, PublishedBy, Publishing, Unpublished},
        temporary::temporary_name,
    },
};
use pg_replication::Hosting;

use super::state::SessionId;

use crate::{
    wal::{COLUMNS, OUTBOX, TEXT},
    world::WorldState,
};

pub(super) fn facts(state: &mut WorldState, slot: &str) -> Facts {
    let text = |name: &str| ColumnFacts {
        name: name.to_owned(),
        type_oid: TEXT,
        base_type_oid: TEXT,
        type_name: "text".to_owned(),
        nullable: true,
        default: None,
        sequence_cache: None,
        is_string: true,
        generated: None,
        sent: true,
        may_select: true,
    };
    Facts {
        server: ServerFacts {
            version: 170_000,
            wal_level: "logical".to_owned(),
            database: "orders".to_owned(),
            encoding: "UTF8".to_owned(),
            role: "outboxd".to_owned(),
            hosting: Hosting::own(),
            may_create: true,
            in_recovery: false,
            read_only: false,
            slots_max: 10,
            slots_used: 1,
            wal_senders_max: 10,
            wal_senders_used: 1,
            synchronous_standby_names: String::new(),
            standbys: Vec::new(),
        },
        table: Some(TableFacts {
            oid: OUTBOX,
            kind: TableKind::Ordinary,
            logged: true,
            may_use_schema: true,
            may_select: true,
            may_remove: true,
            owned: true,
            row_security: false,
            rows_estimate: 0,
            columns: COLUMNS.map(text).to_vec(),
        }),
        doubt: None,
        family: Family::default(),
        recorded_table: None,
        publication: state.postgres.data.publication.map(|_| PublicationFacts {
            owned: true,
            owner: "outboxd".into(),
            all_tables: false,
            insert: true,
            more_operations: Vec::new(),
            via_partition_root: false,
            held: Held::AsItself,
            row_filter: None,
            other_tables: 0,
            lists_table: true,
            lists_columns: false,
        }),
        foreign_code: Vec::new(),
        records: OwnTableFacts {
            has_schema: true,
            may_use_schema: true,
            exists: state.postgres.data.records,
            may_use: true,
            may_create: true,
        },
        parked: OwnTableFacts {
            has_schema: true,
            may_use_schema: true,
            exists: state.postgres.data.parks,
            may_use: true,
            may_create: true,
        },
        left_behind: Vec::new(),
        slots: slots(state, slot),
        open_transactions: Vec::new(),
    }
}

/// The slot and its temporary slot. Every holder is an outboxd.
pub(super) fn slots(state: &mut WorldState, name: &str) -> Vec<SlotFacts> {
    let permanent = slot_facts(state, name);
    let server = &state.postgres;
    let temporary = server.backlog.map(|id| SlotFacts {
        temporary: true,
        ..held(slot_at(temporary_name(name), server.data.wal_end, server.data.wal_end), Some(id))
    });
    permanent.into_iter().chain(temporary).collect()
}

pub(super) fn slot_facts(state: &mut WorldState, name: &str) -> Option<SlotFacts> {
    let server = &state.postgres;
    let slot = server.data.slot.as_ref()?;
    let facts = held(slot_at(name.to_owned(), slot.confirmed_flush, server.data.wal_end), server.active);
    Some(match slot.lost {
        false => facts,
        true => SlotFacts {
            restart_lsn: None,
            wal_status: Some("lost".to_owned()),
            lost: Some(Invalidation::WalRemoved),
            ..facts
        },
    })
}

fn held(slot: SlotFacts, by: Option<SessionId>) -> SlotFacts {
    let holder = |id: SessionId| Holder {
        pid: id as i32,
        application: "outboxd orders".to_owned(),
        user: None,
        address: ClientAddress::Hidden,
        is_outboxd: true,
    };
    SlotFacts { active_pid: by.map(|id| id as i32), holder: by.map(holder), ..slot }
}

fn slot_at(name: String, confirmed_flush: u64, wal_end: u64) -> SlotFacts {
    SlotFacts {
        name,
        plugin: Some("pgoutput".to_owned()),
        database: Some("orders".to_owned()),
        here: true,
        temporary: false,
        active_pid: None,
        holder: None,
        confirmed_flush: Some(Lsn(confirmed_flush)),
        restart_lsn: Some(Lsn(confirmed_flush)),
        wal_status: Some("reserved".to_owned()),
        lost: None,
        unused_for: None,
        unused_max: None,
        two_phase: false,
        failover: false,
        retained_bytes: wal_end.saturating_sub(confirmed_flush),
        lag_bytes: wal_end.saturating_sub(confirmed_flush),
        current: Lsn(wal_end),
    }
}

pub(super) fn publishing(state: &mut WorldState) -> Publishing {
    match state.postgres.data.publication {
        Some(entry) => Publishing::By(PublishedBy { entry, altered_by: 1 }),
        None => Publishing::Not(Unpublished::Missing),
    }
}
