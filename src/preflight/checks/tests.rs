#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use super::*;
use crate::{
    position::Lsn,
    postgres::{
        TableName,
        outbox_table::{ColumnFacts, Generated, TableFacts},
        own_table::OwnTableFacts,
    },
    preflight::facts::{family::Family, server::ServerFacts},
    slot::{
        facts::SlotFacts,
        holder::{ClientAddress, Holder},
        invalidation::Invalidation,
        publication::{Held, PublicationFacts},
    },
};
use diagnostics::check::Finding;
use pg_replication::{Endpoint, Hosting};

fn good_server() -> ServerFacts {
    ServerFacts {
        version: 150_014,
        wal_level: "logical".into(),
        database: "orders".into(),
        encoding: "UTF8".into(),
        role: "outboxd".into(),
        hosting: Hosting::own(),
        may_create: true,
        in_recovery: false,
        read_only: false,
        slots_max: 10,
        slots_used: 8,
        wal_senders_max: 10,
        wal_senders_used: 9,
        synchronous_standby_names: String::new(),
        standbys: Vec::new(),
    }
}

fn good_slot() -> SlotFacts {
    SlotFacts {
        restart_lsn: Some(Lsn(50)),
        retained_bytes: 50,
        lag_bytes: 10,
        current: Lsn(100),
        ..SlotFacts::sample(Lsn(90))
    }
}

/// The one check that failed, and nothing else.
fn only_failure(facts: &ServerFacts) -> (String, String) {
    let failed: Vec<_> =
        server::checks(facts, 2, true).into_iter().filter(|check| check.failure().is_some()).collect();
    let [check] = failed.as_slice() else { panic!("{failed:?}") };
    (check.name.to_string(), check.failure().unwrap().cure.clone())
}

#[test]
fn each_fault_of_a_server_fails_its_own_check() {
    assert!(
        server::checks(&good_server(), 2, true)
            .iter()
            .all(|check| matches!(check.finding, Finding::Passed(_)))
    );
    for (facts, check, cure) in [
        (ServerFacts { version: 120_018, ..good_server() }, "version", "13"),
        (ServerFacts { in_recovery: true, ..good_server() }, "primary", "target_session_attrs"),
        (
            ServerFacts { read_only: true, ..good_server() },
            "read-only",
            "IN DATABASE \"orders\" SET default_transaction_read_only = off; COMMIT;",
        ),
        (ServerFacts { in_recovery: true, read_only: true, ..good_server() }, "primary", "the primary"),
        (ServerFacts { wal_level: "replica".into(), ..good_server() }, "wal_level", "ALTER SYSTEM"),
        (ServerFacts { slots_used: 9, ..good_server() }, "free slots", "max_replication_slots = 11"),
        (ServerFacts { wal_senders_used: 10, ..good_server() }, "free walsenders", "max_wal_senders"),
    ] {
        let (failed, advice) = only_failure(&facts);
        assert_eq!(failed, check);
        assert!(advice.contains(cure), "{check}: {advice}");
    }
    let full = ServerFacts { slots_used: 10, ..good_server() };
    assert!(
        server::checks(&full, 0, true).iter().all(|check| check.failure().is_none()),
        "ours is among the ten"
    );
    let read_only = ServerFacts { read_only: true, ..good_server() };
    let drains = server::checks(&read_only, 0, false);
    assert!(
        drains.iter().all(|check| check.failure().is_none()),
        "what is there can be streamed: {drains:?}"
    );
}

fn database() -> SourceDatabase {
    SourceDatabase {
        endpoint: Endpoint::parse("postgresql://me@h/orders").unwrap(),
        slot: "outboxd_orders".into(),
        publication: "p".into(),
        create: true,
        failover: false,
        table: TableName { schema: "public".into(), table: "outbox".into() },
        schema: "public".into(),
        rows: Default::default(),
        cleanup: None,
        parks: false,
        wal_sender_timeout: Duration::from_secs(10),
    }
}

fn in_use(application: &str) -> SlotFacts {
    SlotFacts {
        active_pid: Some(7),
        holder: Some(Holder {
            pid: 7,
            application: application.into(),
            user: Some("somebody".into()),
            address: ClientAddress::Ip("10.0.0.7".into()),
            is_outboxd: application.starts_with("outboxd"),
        }),
        ..good_slot()
    }
}

#[test]
fn a_slot_that_cannot_serve_fails_and_one_in_use_by_an_outboxd_does_not() {
    let finding = |slot: SlotFacts| {
        let holder = in_use("outboxd orders").holder;
        slot::existing(&SlotFacts { holder, ..slot }).finding
    };
    assert!(
        matches!(finding(good_slot()), Finding::Passed(text) if text.contains("in use by application \"outboxd orders\""))
    );
    for (slot, what) in [
        (
            SlotFacts { lost: Some(Invalidation::WalRemoved), ..good_slot() },
            "after 0/5A have not been published",
        ),
        (SlotFacts { lost: Some(Invalidation::IdleTimeout), ..good_slot() }, "idle_replication_slot_timeout"),
        (SlotFacts { two_phase: true, ..good_slot() }, "prepared"),
    ] {
        let Finding::Failed(problem) = finding(slot) else { panic!("{what}") };
        assert!(problem.what.contains(what), "{}", problem.what);
    }
    let day = Duration::from_secs(24 * 3600);
    for (unused_for, unused_max, active_pid, warns) in [
        (Some(day / 3), Some(day), None, false),
        (Some(day / 2), Some(day), None, true),
        (None, Some(day), Some(7), false),
        (None, Some(day / 2), Some(7), true),
        (Some(day), None, None, false),
    ] {
        let slot = SlotFacts { unused_for, unused_max, active_pid, ..good_slot() };
        match finding(slot) {
            Finding::Warning(Problem { what, cure, .. }) if warns => {
                assert!(what.contains("43200 s"), "{what}");
                assert!(cure.contains("idle_replication_slot_timeout"), "{cure}");
            }
            Finding::Passed(_) if !warns => {}
            other => panic!("{unused_for:?} {unused_max:?} {other:?}"),
        }
    }
    let late = SlotFacts { wal_status: Some("unreserved".into()), ..good_slot() };
    assert!(matches!(finding(late), Finding::Warning(_)));
}

#[test]
fn a_name_that_somebody_else_has_is_refused_with_whose_it_is() {
    let ours = || in_use("outboxd orders");
    let temporary = || SlotFacts { name: "outboxd_orders_backlog".into(), temporary: true, ..ours() };
    for (one, made, what) in [
        (SlotFacts { plugin: None, database: None, holder: None, ..ours() }, false, "physical"),
        (SlotFacts { plugin: Some("wal2json".into()), ..ours() }, false, "wal2json"),
        (
            SlotFacts { database: Some("users".into()), here: false, ..ours() },
            false,
            "belongs to database \"users\"",
        ),
        (SlotFacts { temporary: true, ..ours() }, false, "temporary"),
        (
            in_use("Debezium Streaming"),
            false,
            "by application \"Debezium Streaming\", user \"somebody\", address 10.0.0.7, server process 7",
        ),
        (
            SlotFacts { database: Some("users".into()), here: false, ..temporary() },
            true,
            "belongs to database \"users\"",
        ),
        (SlotFacts { temporary: false, ..temporary() }, true, "permanent"),
        (SlotFacts { name: temporary().name, ..in_use("psql") }, true, "not outboxd"),
    ] {
        let refusal = slot_refusal(&database(), std::slice::from_ref(&one), made).unwrap();
        let problem = refusal.failure().unwrap();
        assert!(problem.what.contains(what), "{}", problem.what);
        assert!(problem.cure.contains("set postgres.slot"), "{}", problem.cure);
    }
    assert_eq!(slot_refusal(&database(), &[ours(), temporary()], true), None);
    let being_made = SlotFacts { confirmed_flush: None, ..in_use("psql") };
    assert_eq!(slot_refusal(&database(), &[being_made], true), None, "it is nobody's yet");
    let elsewhere = SlotFacts { database: Some("users".into()), here: false, ..temporary() };
    assert_eq!(slot_refusal(&database(), &[ours(), elsewhere], false), None, "the slot is there already");
}

#[test]
fn slots_that_nobody_uses_and_that_hold_wal_are_a_warning() {
    let other =
        |active_pid, restart_lsn| SlotFacts { name: "old".into(), active_pid, restart_lsn, ..good_slot() };
    for (slot, warns) in [
        (good_slot(), false),
        (other(Some(1), Some(Lsn(1))), false),
        (other(None, None), false),
        (other(None, Some(Lsn(1))), true),
    ] {
        let check = slot::idle("outboxd_orders", std::slice::from_ref(&slot));
        assert_eq!(matches!(check.finding, Finding::Warning(_)), warns, "{slot:?}");
    }
}

#[test]
fn a_standby_may_be_promoted_and_have_then_what_it_lacks() {
    let slot_missing = || slot::missing(&SourceDatabase { create: false, ..database() }, &[]);
    let checks = |in_recovery| {
        let server = ServerFacts { in_recovery, ..good_server() };
        [server::checks(&server, 0, false), vec![slot_missing()]].concat()
    };
    assert_eq!(mender(&checks(false)), Mender::Person);
    assert_eq!(mender(&checks(true)), Mender::Time);
    assert_eq!(mender(&[]), Mender::Time);
}

#[test]
fn the_command_that_makes_a_failover_slot_bears_every_database_name() {
    let source = SourceDatabase { create: false, failover: true, ..database() };
    for (database, expected) in [
        ("orders", "psql 'dbname=orders replication=database' -c"),
        ("my orders", r"psql 'dbname='\''my orders'\'' replication=database' -c"),
        (r"a'b\c", r"psql 'dbname='\''a\'\''b\\c'\'' replication=database' -c"),
    ] {
        let server = ServerFacts { version: 170_002, database: database.into(), ..good_server() };
        let check = slot::failover(&source, Some(&good_slot()), &server).unwrap();
        let cure = &check.as_warning().unwrap().cure;
        assert!(cure.contains(expected), "{cure}");
        assert!(cure.ends_with(r#"-c 'ALTER_REPLICATION_SLOT "outboxd_orders" (FAILOVER true)'"#), "{cure}");
    }
}

/// The facts of a publication that does not send the generated column `body`.
fn facts_of(publication: PublicationFacts) -> Facts {
    let own = OwnTableFacts {
        has_schema: true,
        may_use_schema: true,
        exists: true,
        may_use: true,
        may_create: true,
    };
    let column = |name: &str, generated: Option<Generated>| ColumnFacts {
        type_name: "text".into(),
        is_string: true,
        sent: generated.is_none(),
        generated,
        ..ColumnFacts::sample(name, 25)
    };
    Facts {
        foreign_code: Vec::new(),
        server: ServerFacts { version: 180_001, ..good_server() },
        table: Some(TableFacts::sample(vec![column("id", None), column("body", Some(Generated::Stored))])),
        doubt: None,
        family: Family::default(),
        publication: Some(publication),
        records: own,
        parked: own,
        left_behind: Vec::new(),
        recorded_table: None,
        slots: Vec::new(),
        open_transactions: Vec::new(),
    }
}

fn good_publication() -> PublicationFacts {
    PublicationFacts {
        all_tables: false,
        owned: true,
        owner: "outboxd".into(),
        insert: true,
        more_operations: Vec::new(),
        via_partition_root: false,
        held: Held::AsItself,
        row_filter: None,
        other_tables: 0,
        lists_table: true,
        lists_columns: false,
    }
}

/// Beside a list of columns, PostgreSQL 18 does not look at `publish_generated_columns`.
#[test]
fn a_generated_column_is_put_into_the_list_of_columns_where_there_is_one() {
    for (lists_columns, cure) in [
        (false, r#"ALTER PUBLICATION "p" SET (publish_generated_columns = stored);"#),
        (true, r#"ADD TABLE ONLY "public"."outbox" ("id", "body"); COMMIT;"#),
    ] {
        let facts = facts_of(PublicationFacts { lists_columns, ..good_publication() });
        let problem = unsent(&database(), &ColumnNames::default(), "body", &facts).unwrap();
        assert!(problem.cure.contains(cure), "{}", problem.cure);
    }
}

#[test]
fn only_a_publication_of_the_outbox_table_alone_is_advised_to_be_dropped() {
    let more_operations = vec!["update"];
    for (found, drops, takes_out) in [
        (good_publication(), true, false),
        (PublicationFacts { other_tables: 1, ..good_publication() }, false, true),
        (PublicationFacts { all_tables: true, lists_table: false, ..good_publication() }, false, false),
        (PublicationFacts { lists_table: false, ..good_publication() }, false, false),
    ] {
        let facts = facts_of(PublicationFacts { more_operations: more_operations.clone(), ..found });
        let check = publication::check(&database(), &facts, Missing::Made).unwrap();
        let cure = &check.as_warning().unwrap().cure;
        assert_eq!(cure.contains("DROP PUBLICATION"), drops, "{cure}");
        assert_eq!(cure.contains("DROP TABLE"), takes_out, "{cure}");
        assert_eq!(cure.contains("set postgres.publication"), !drops, "{cure}");
        // Another publication would be a gap for the slot.
        let check = publication::check(&database(), &facts, Missing::Gap).unwrap();
        let cure = &check.as_warning().unwrap().cure;
        assert_eq!(cure.contains("ALTER PUBLICATION \"p\" SET (publish = 'insert');"), drops, "{cure}");
        assert_eq!(cure.contains("needs `outboxd recover`"), !drops, "{cure}");
    }
}
