//! Lost and replaced slots: outboxd notices, names the start of the gap, and never creates a new slot silently.

use tokio_postgres::Client;

use crate::stage::{PATIENCE, Stage, alive, eventually, say, until_alive, until_state};
use testkit::{Daemon, Postgres, PostgresOptions, shared_rabbitmq, unique};

/// Starts the test's own server, with settings.
async fn server(settings: &[(&str, &str)]) -> Postgres {
    let settings = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    Postgres::start(PostgresOptions { settings, ..Default::default() }).await
}

async fn on(test: &str, server: &Postgres) -> Stage {
    Stage::on(test, server, shared_rabbitmq().await).await
}

/// Relays some rows, and stops the daemon after PostgreSQL has confirmed them.
async fn relayed(stage: &mut Stage) -> Daemon {
    stage.workload.transactions = 20;
    stage.consume().await;
    let daemon = stage.relay_as_printed_role().await;
    stage.write().await;
    stage.verdict().await.assert_delivered(0);
    daemon
}

/// The slot's record: holder, and whether its position is the slot's.
async fn record(stage: &Stage) -> Option<(Option<String>, bool)> {
    let select = "SELECT holder, confirmed_flush = (SELECT confirmed_flush_lsn FROM pg_replication_slots s \
                  WHERE s.slot_name = r.slot) FROM outboxd_state r WHERE slot = $1";
    let row = stage.client().await.query_opt(select, &[&stage.slot()]).await.unwrap()?;
    Some((row.get(0), row.get::<_, Option<bool>>(1).unwrap_or(false)))
}

async fn drop_slot(stage: &Stage) {
    let client = stage.client().await;
    eventually("the slot can be dropped", async || {
        client.execute("SELECT pg_drop_replication_slot($1)", &[&stage.slot()]).await.is_ok()
    })
    .await;
}

async fn make_slot(stage: &Stage) {
    let make = "SELECT pg_create_logical_replication_slot($1, 'pgoutput')";
    stage.client().await.execute(make, &[&stage.slot()]).await.unwrap();
}

async fn has_slot(client: &Client, slot: &str) -> bool {
    let slots = "SELECT FROM pg_replication_slots WHERE slot_name = $1";
    client.execute(slots, &[&slot]).await.unwrap() > 0
}

/// Checks that the source halts, names slot, position and next step, and changes nothing. Returns the reason.
async fn halts(daemon: &Daemon, stage: &Stage, what: &str) -> String {
    let before = has_slot(&stage.client().await, &stage.slot()).await;
    until_alive(daemon).await;
    let reason = until_state(daemon, "orders", "halted").await;
    println!("{reason}");
    for part in [what, &stage.slot(), "rows committed after ", "outboxd recover --source orders"] {
        assert!(reason.contains(part), "{part}: {reason}");
    }
    assert_eq!(daemon.readyz().await.0, 503);
    assert_eq!(has_slot(&stage.client().await, &stage.slot()).await, before, "the slot is not touched");
    reason
}

/// Checks that a start halts, that `check` reports the same, and that the daemon continues after `recover` with nothing lost.
async fn halts_until_recovered(daemon: &Daemon, stage: &Stage, what: &str) {
    halts(daemon, stage, what).await;
    let said = say(daemon, &["check"]).await;
    assert_eq!(said.status, 1);
    assert!(said.stdout.contains(what), "{}", said.stdout);
    let said = say(daemon, &["recover", "--source", "orders"]).await;
    assert_eq!(said.status, 0);
    until_state(daemon, "orders", "streaming").await;
    stage.write_row("after", 1, "OrderCreated").await;
    let verdict = stage.verdict().await;
    assert!(verdict.lost.is_empty() && verdict.altered.is_empty(), "{verdict}");
}

/// The position that a reason names.
fn gap_begins(reason: &str) -> &str {
    let (_, rest) = reason.split_once("rows committed after ").expect("a position");
    rest.split_whitespace().next().expect("a position")
}

#[tokio::test]
async fn a_slot_dropped_while_outboxd_is_stopped_is_not_made_anew() {
    let mut stage = Stage::shared("dropped").await;
    let mut daemon = relayed(&mut stage).await;
    for clean in [true, false] {
        let holder = record(&stage).await.expect("a record").0;
        assert!(holder.is_some(), "the daemon has the slot");
        if clean {
            assert!(daemon.sigterm(PATIENCE).await.success());
            assert_eq!(
                record(&stage).await,
                Some((None, true)),
                "the record is released, at the slot's position"
            );
        } else {
            daemon.kill9().await;
            assert_eq!(record(&stage).await.expect("a record").0, holder);
        }
        drop_slot(&stage).await;
        stage.write_row(if clean { "gap" } else { "gap 2" }, 1, "OrderCreated").await;
        daemon.start_again();
        halts_until_recovered(&daemon, &stage, "is gone").await;
        // Gives the next round its own rows.
        stage.write_row(if clean { "between" } else { "end" }, 1, "OrderCreated").await;
        assert!(stage.verdict().await.lost.is_empty());
    }
}

#[tokio::test]
async fn a_slot_made_anew_while_outboxd_is_stopped_is_not_taken_for_the_old_one() {
    let mut stage = Stage::shared("anew").await;
    let mut daemon = relayed(&mut stage).await;
    assert!(daemon.sigterm(PATIENCE).await.success());
    drop_slot(&stage).await;
    stage.write_row("gap", 1, "OrderCreated").await;
    make_slot(&stage).await;
    daemon.start_again();
    halts_until_recovered(&daemon, &stage, "was dropped and created again").await;
}

#[tokio::test]
async fn a_slot_made_anew_between_two_attempts_is_not_taken_for_the_old_one() {
    let mut stage = Stage::shared("between").await;
    let mut daemon = relayed(&mut stage).await;
    daemon.suspend();
    let terminate =
        "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1 AND active";
    stage.client().await.execute(terminate, &[&stage.slot()]).await.unwrap();
    drop_slot(&stage).await;
    stage.write_row("gap", 1, "OrderCreated").await;
    make_slot(&stage).await;
    daemon.resume();
    halts(&daemon, &stage, "was dropped and created again").await;
    // The gap that the first process noticed is recorded.
    daemon.kill9().await;
    daemon.start_again();
    halts_until_recovered(&daemon, &stage, "was dropped and created again").await;
}

#[tokio::test]
async fn a_slot_whose_wal_is_removed_halts_and_recovery_finds_the_rows() {
    let server = server(&[("max_slot_wal_keep_size", "1MB")]).await;
    let mut stage = on("removed", &server).await;
    let mut daemon = relayed(&mut stage).await;
    assert!(daemon.sigterm(PATIENCE).await.success());
    stage.write_row("gap", 1, "OrderCreated").await;
    let client = stage.client().await;
    for _ in 0..4 {
        client.batch_execute("CREATE TABLE bulk AS SELECT generate_series(1, 1000)").await.unwrap();
        client.batch_execute("DROP TABLE bulk").await.unwrap();
        client.batch_execute("SELECT pg_switch_wal()").await.unwrap();
    }
    client.batch_execute("CHECKPOINT").await.unwrap();
    daemon.start_again();
    halts(&daemon, &stage, "is lost").await;
    halts_until_recovered(&daemon, &stage, "max_slot_wal_keep_size").await;
}

/// A backup without slots, as pg_basebackup takes it, restored on the same timeline and on a new one.
#[tokio::test]
async fn a_backup_that_was_put_back_has_no_slot_and_halts() {
    let server = server(&[]).await;
    let mut stage = on("backup", &server).await;
    let mut daemon = relayed(&mut stage).await;
    assert!(daemon.sigterm(PATIENCE).await.success());
    server.stop_fast().await;
    let backup = server.back_up("backup").await;
    for branch in [false, true] {
        server.put_back(&backup).await;
        server.forget_slots();
        if branch {
            server.branch_off();
        }
        server.start_again().await;
        daemon.start_again();
        let what = if branch { "went from timeline 1 to 2" } else { "is gone" };
        halts_until_recovered(&daemon, &stage, what).await;
        assert!(daemon.sigterm(PATIENCE).await.success());
        server.stop_fast().await;
    }
}

/// A promoted standby: a synchronised slot is from before the new timeline, any other was created on it.
#[tokio::test]
async fn a_promoted_server_goes_on_with_the_slot_that_came_along_and_with_no_other() {
    let server = server(&[]).await;
    let mut stage = on("promoted", &server).await;
    let mut daemon = relayed(&mut stage).await;
    daemon.kill9().await;
    stage.write_row("before", 1, "OrderCreated").await;
    server.stop_fast().await;
    server.branch_off();
    server.start_again().await;
    daemon.start_again();
    daemon.wait_ready(PATIENCE).await;
    stage.write_row("behind", 1, "OrderCreated").await;
    let verdict = stage.verdict().await;
    assert!(verdict.keeps_promises(), "{verdict}");
    let timeline = "SELECT timeline FROM outboxd_state WHERE slot = $1";
    let client = stage.client().await;
    assert_eq!(client.query_one(timeline, &[&stage.slot()]).await.unwrap().get::<_, i64>(0), 2);
    drop(client);

    daemon.kill9().await;
    drop_slot(&stage).await;
    server.stop_fast().await;
    server.branch_off();
    server.start_again().await;
    stage.write_row("gap", 1, "OrderCreated").await;
    make_slot(&stage).await;
    daemon.start_again();
    halts_until_recovered(&daemon, &stage, "was dropped and created again").await;
}

#[tokio::test]
async fn a_server_set_back_under_a_running_outboxd_halts_although_it_has_a_slot() {
    let server = server(&[]).await;
    let mut stage = on("older", &server).await;
    let mut daemon = relayed(&mut stage).await;
    assert!(daemon.sigterm(PATIENCE).await.success());
    server.stop_fast().await;
    let backup = server.back_up("older").await;
    server.start_again().await;
    daemon.start_again();
    daemon.wait_ready(PATIENCE).await;
    stage.write().await;
    // Waits until PostgreSQL has the confirmed position of every row.
    assert!(stage.verdict().await.lost.is_empty());
    stage
        .client()
        .await
        .batch_execute("CREATE TABLE more_wal AS SELECT generate_series(1, 10000)")
        .await
        .unwrap();
    let lag = "SELECT pg_current_wal_lsn() - confirmed_flush_lsn < 1000 FROM pg_replication_slots WHERE slot_name = $1";
    let client = stage.client().await;
    eventually("the slot has followed", async || {
        client.query_one(lag, &[&stage.slot()]).await.unwrap().get(0)
    })
    .await;
    drop(client);
    server.kill9().await;
    server.put_back(&backup).await;
    server.start_again().await;
    halts(&daemon, &stage, "was set back to an older state").await;
    // Neither a restart nor new WAL changes the verdict.
    stage.sql("CREATE TABLE more_wal AS SELECT generate_series(1, 20000)").await;
    daemon.restart().await;
    halts(&daemon, &stage, "was set back to an older state").await;
    recovers_and_goes_on(&daemon, &stage).await;
}

/// Runs `recover`, and checks that the daemon streams again by itself.
async fn recovers_and_goes_on(daemon: &Daemon, stage: &Stage) {
    assert_eq!(say(daemon, &["recover", "--source", "orders"]).await.status, 0);
    until_state(daemon, "orders", "streaming").await;
    let received = stage.oracle.received_count();
    stage.write_row("after", 1, "OrderCreated").await;
    eventually("the stream goes on", async || stage.oracle.received_count() > received).await;
}

/// No other instance would see a problem: the slot has no record, like one made by hand.
#[tokio::test]
async fn a_server_set_back_to_before_the_first_record_halts_until_recovered() {
    let server = server(&[]).await;
    let mut stage = on("unrecorded", &server).await;
    let mut daemon = relayed(&mut stage).await;
    assert!(daemon.sigterm(PATIENCE).await.success());
    stage.sql("DELETE FROM outboxd_state").await;
    server.stop_fast().await;
    let backup = server.back_up("unrecorded").await;
    server.start_again().await;
    daemon.start_again();
    daemon.wait_ready(PATIENCE).await;
    stage.write().await;
    assert!(stage.verdict().await.lost.is_empty());
    server.kill9().await;
    server.put_back(&backup).await;
    server.start_again().await;
    halts(&daemon, &stage, "set back to an older state").await;
    // The gap that this process noticed is recorded.
    daemon.restart().await;
    halts(&daemon, &stage, "set back to an older state").await;
    recovers_and_goes_on(&daemon, &stage).await;
}

/// The process neither undoes the teardown nor halts for the next slot.
#[tokio::test]
async fn a_process_left_by_a_teardown_waits_and_goes_on_with_the_slot_that_setup_makes() {
    let mut stage = Stage::shared("torn_down").await;
    stage.source = "backlog = \"skip\"".to_owned();
    let daemon = relayed(&mut stage).await;
    daemon.suspend();
    let terminate =
        "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1 AND active";
    stage.client().await.execute(terminate, &[&stage.slot()]).await.unwrap();
    eventually("it is torn down", async || {
        say(&daemon, &["teardown", "--source", "orders"]).await.status == 0
    })
    .await;
    daemon.resume();
    halts(&daemon, &stage, "was removed by `outboxd teardown`").await;
    assert!(!has_slot(&stage.client().await, &stage.slot()).await);
    assert_eq!(say(&daemon, &["setup"]).await.status, 0);
    until_state(&daemon, "orders", "streaming").await;
    stage.write_row("after", 1, "OrderCreated").await;
    stage.verdict().await.assert_delivered(0);
}

/// A dump holds the record, and no slot.
#[tokio::test]
async fn a_dump_in_another_server_halts_and_a_slot_made_there_does_not_help() {
    let here = server(&[]).await;
    let there = Postgres::start(PostgresOptions { own_system: true, ..Default::default() }).await;
    let mut stage = on("dumped", &here).await;
    let mut daemon = relayed(&mut stage).await;
    assert!(daemon.sigterm(PATIENCE).await.success());
    stage.write_row("gap", 1, "OrderCreated").await;
    // A dump holds the role's privileges, but not the role.
    let role = format!("CREATE ROLE \"{}\"", stage.printed_role());
    there.client("postgres").await.batch_execute(&role).await.unwrap();
    here.dump_into(&stage.name, &there).await;
    stage.postgres_url = there.url(&stage.name);
    let daemon = alive(&stage.run_printed_sql().await).await;
    let reason = halts(&daemon, &stage, "was on another server").await;
    make_slot(&stage).await;
    assert_eq!(halts(&daemon, &stage, "was on another server").await, reason);
    halts_until_recovered(&daemon, &stage, "was on another server").await;
}

#[tokio::test]
async fn the_gap_begins_where_the_last_confirm_was_recorded() {
    let mut stage = Stage::shared("begins").await;
    let mut daemon = relayed(&mut stage).await;
    assert!(daemon.sigterm(PATIENCE).await.success());
    let client = stage.client().await;
    let flushed = "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = $1";
    let flushed: String = client.query_one(flushed, &[&stage.slot()]).await.unwrap().get(0);
    drop_slot(&stage).await;
    daemon.start_again();
    let reason = halts(&daemon, &stage, "is gone").await;
    assert_eq!(gap_begins(&reason), flushed);
    let last = "SELECT to_char(max(created_at) AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI') FROM outbox";
    let last: String = client.query_one(last, &[]).await.unwrap().get(0);
    assert!(reason.contains(&format!("(the last confirmed message was committed at {last}")), "{reason}");
}

/// Deleting the record is also how an operator declares that nothing is missing: the slot is then used as it is.
#[tokio::test]
async fn a_slot_without_a_record_is_adopted_and_teardown_lets_everything_begin_afresh() {
    let mut stage = Stage::shared("adopted").await;
    let mut daemon = relayed(&mut stage).await;
    assert!(daemon.sigterm(PATIENCE).await.success());
    stage.sql("DROP TABLE outboxd_state").await;
    // The role may not create the table.
    stage.run_printed_sql().await;
    stage.write_row("waiting", 1, "OrderCreated").await;
    daemon.start_again();
    daemon.wait_ready(PATIENCE).await;
    stage.verdict().await.assert_delivered(0);
    assert!(record(&stage).await.expect("the table is there again").0.is_some());

    assert!(daemon.sigterm(PATIENCE).await.success());
    let said = say(&daemon, &["teardown", "--source", "orders"]).await;
    assert!(said.stdout.contains(&format!("record of slot {}: dropped", stage.slot())));
    let rows = stage.oracle.committed_count();
    daemon.start_again();
    daemon.wait_ready(PATIENCE).await;
    eventually("the backlog comes again", async || stage.oracle.verdict().duplicates == rows).await;
}

#[tokio::test]
async fn setup_records_the_slot_that_it_makes() {
    let stage = Stage::shared("setup").await;
    let config = stage.run_printed_sql().await;
    let daemon = Daemon::prepare(&config);
    assert_eq!(say(&daemon, &["setup"]).await.status, 0);
    assert_eq!(record(&stage).await, Some((None, true)));
    drop_slot(&stage).await;
    let said = say(&daemon, &["setup"]).await;
    assert_eq!(said.status, 1, "no new slot by a second setup");
    assert!(said.stdout.contains("is gone"), "{}", said.stdout);
    // Two sources may share the table of records.
    let other = config.replace(&stage.slot(), &unique("other").replace('-', "_"));
    assert_eq!(say(&Daemon::prepare(&other), &["setup"]).await.status, 0);
}

/// The table exists and the slot belongs to another table: a mistake in the file, and no gap after its correction.
#[tokio::test]
async fn another_table_under_the_same_slot_is_refused_and_leaves_no_gap() {
    let mut stage = Stage::shared("other_table").await;
    stage
        .sql(
            "CREATE TABLE outbox2 (LIKE outbox INCLUDING ALL); CREATE SCHEMA app; CREATE TABLE app.outbox (LIKE outbox INCLUDING ALL)",
        )
        .await;
    let mut daemon = relayed(&mut stage).await;
    assert!(daemon.sigterm(PATIENCE).await.success());
    let before = record(&stage).await;
    let config = std::fs::read_to_string(daemon.config_file()).unwrap();
    for (table, quoted) in [("outbox2", "\"public\".\"outbox2\""), ("app.outbox", "\"app\".\"outbox\"")] {
        let mistyped = config.replace("postgres.slot", &format!("outbox.table = \"{table}\"\npostgres.slot"));
        std::fs::write(daemon.config_file(), mistyped).unwrap();
        let said = say(&daemon, &["check"]).await;
        assert_eq!(said.status, 1);
        for part in [
            &format!("belongs to table \"public\".\"outbox\", but outbox.table is {quoted}"),
            "-> set outbox.table to \"public\".\"outbox\"",
            "`outboxd teardown`",
        ] {
            assert!(said.stdout.contains(part), "{part}: {}", said.stdout);
        }
        for misleading in ["outboxd recover", "ADD TABLE", "SET SCHEMA", "CREATE TABLE"] {
            assert!(!said.stdout.contains(misleading), "{misleading}: {}", said.stdout);
        }
        for command in [&["setup"][..], &["recover", "--source", "orders"]] {
            let said = say(&daemon, command).await;
            assert_eq!(said.status, 1);
            assert!((said.stdout + &said.stderr).contains("belongs to table"));
        }
        daemon.start_again();
        until_alive(&daemon).await;
        let reason = until_state(&daemon, "orders", "halted").await;
        assert!(reason.contains("belongs to table \"public\".\"outbox\""), "{reason}");
        assert!(daemon.sigterm(PATIENCE).await.success());
        assert_eq!(record(&stage).await, before);
    }
    std::fs::write(daemon.config_file(), config).unwrap();
    stage.write_row("waiting", 1, "OrderCreated").await;
    daemon.start_again();
    daemon.wait_ready(PATIENCE).await;
    stage.verdict().await.assert_delivered(0);
}
