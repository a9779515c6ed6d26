//! `outboxd recover`: every row that was written without a slot arrives, whatever happens meanwhile.

use std::time::Duration;

use crate::stage::{PATIENCE, Said, Stage, eventually, say, until_alive, until_state};
use testkit::{Daemon, Direction, Proxy, Verdict, process};

const RECOVER: &[&str] = &["recover", "--source", "orders"];

/// A lost slot, and rows that are not published.
async fn gap(test: &str) -> (Stage, Daemon) {
    let mut stage = Stage::shared(test).await;
    stage.with_printed_role().await;
    stage.workload.transactions = 100;
    stage.consume().await;
    let mut daemon = stage.relay_as_printed_role().await;
    stage.write().await;
    stage.verdict().await.assert_delivered(0);
    assert!(daemon.sigterm(PATIENCE).await.success());
    drop_slot(&stage).await;
    stage.write().await;
    (stage, daemon)
}

async fn drop_slot(stage: &Stage) {
    let client = stage.client().await;
    eventually("the slot can be dropped", async || {
        client.execute("SELECT pg_drop_replication_slot($1)", &[&stage.slot()]).await.is_ok()
    })
    .await;
}

/// Names of the stage's slots, permanent and temporary.
async fn slots(stage: &Stage) -> Vec<String> {
    let select = "SELECT slot_name::text FROM pg_replication_slots WHERE starts_with(slot_name, $1)";
    let rows = stage.client().await.query(select, &[&stage.slot()]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// Checks that nothing is wrong but copies, which have other positions and arrive after later messages.
fn nothing_lost(verdict: &Verdict) {
    assert!(
        verdict.lost.is_empty() && verdict.phantoms.is_empty() && verdict.altered.is_empty(),
        "{verdict}"
    );
    assert!(verdict.out_of_order.is_empty(), "first deliveries are in order: {verdict}");
}

fn port_of(url: &str) -> u16 {
    url.rsplit_once(':').unwrap().1.split_once('/').unwrap().0.parse().unwrap()
}

/// Writers write before, during and after the recovery. A halted outboxd runs meanwhile, and continues.
#[tokio::test]
async fn rows_written_without_a_slot_and_during_recovery_all_arrive() {
    let (mut stage, mut daemon) = gap("recover").await;
    stage.workload.pause = Duration::from_millis(5);
    daemon.start_again();
    until_alive(&daemon).await;
    until_state(&daemon, "orders", "halted").await;
    let writing = stage.keep_writing();
    stage.workload.transactions = 20;
    let before = stage.oracle.committed_count();
    eventually("they write", async || stage.oracle.committed_count() > before + 50).await;
    let said = say(&daemon, RECOVER).await;
    assert_eq!(said.status, 0);
    for part in ["order: by the sequence column", &stage.slot(), "same message_id"] {
        assert!(said.stdout.contains(part), "{part}");
    }
    until_state(&daemon, "orders", "streaming").await;
    stage.receive_more(50).await;
    writing.stop().await;
    nothing_lost(&stage.verdict().await);
    assert_eq!(daemon.readyz().await.0, 200);

    // The slot is healthy now: first in use, then not.
    let said = say(&daemon, RECOVER).await;
    assert_eq!((said.status, said.stdout.as_str()), (1, ""));
    assert!(
        said.stderr.contains("is healthy, and in use by application \"outboxd orders\""),
        "{}",
        said.stderr
    );
    assert!(daemon.sigterm(PATIENCE).await.success());
    let said = say(&daemon, RECOVER).await;
    assert!(said.status == 1 && said.stderr.contains("is healthy: no row is missing"), "{}", said.stderr);
    daemon.start_again();
    daemon.wait_ready(PATIENCE).await;
    let copies = stage.oracle.verdict().duplicates;
    stage.write_row("end", 1, "OrderCreated").await;
    let verdict = stage.verdict().await;
    nothing_lost(&verdict);
    assert_eq!(verdict.duplicates, copies, "the new slot repeats nothing");
}

#[tokio::test]
async fn a_recovery_that_is_killed_leaves_the_gap_and_the_next_one_closes_it() {
    let (stage, mut daemon) = gap("killed").await;
    let broker = port_of(&stage.amqp_url);
    let proxy = Proxy::start(broker);
    let through =
        Daemon::prepare(&stage.config().replace(&format!(":{broker}/"), &format!(":{}/", proxy.port())));
    for signal in ["KILL", "TERM"] {
        proxy.resume();
        proxy.throttle(100_000);
        let received = stage.oracle.received_count();
        let recovering = through.begin_command(RECOVER);
        eventually("some rows are published", async || stage.oracle.received_count() > received + 20).await;
        proxy.stall_only(Direction::ToClient);
        assert_eq!(slots(&stage).await, [format!("{}_backlog", stage.slot())]);
        let pid = recovering.id().expect("it runs");
        process::signal(&[pid], signal);
        if signal == "TERM" {
            // Two signals: after one, the command would drain.
            tokio::time::sleep(Duration::from_millis(500)).await;
            process::signal(&[pid], signal);
            let said = Said::from(recovering.wait_with_output().await.unwrap());
            assert_eq!((said.status, said.stdout.as_str()), (1, ""));
        } else {
            recovering.wait_with_output().await.unwrap();
        }
        eventually("the temporary slot is gone", async || slots(&stage).await.is_empty()).await;
        daemon.start_again();
        until_alive(&daemon).await;
        let reason = until_state(&daemon, "orders", "halted").await;
        assert!(reason.contains("is gone"), "{reason}");
        assert!(daemon.sigterm(PATIENCE).await.success());
    }
    assert_eq!(say(&daemon, RECOVER).await.status, 0);
    daemon.start_again();
    daemon.wait_ready(PATIENCE).await;
    stage.write_row("end", 1, "OrderCreated").await;
    nothing_lost(&stage.verdict().await);
}

#[tokio::test]
async fn since_leaves_out_older_rows_and_needs_a_time_in_the_table() {
    let (stage, daemon) = gap("since").await;
    stage.sql("UPDATE outbox SET created_at = now() - interval '1 day'").await;
    stage.write_row("late", 1, "OrderCreated").await;
    let since =
        "SELECT to_char((now() - interval '1 minute') AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')";
    let since: String = stage.client().await.query_one(since, &[]).await.unwrap().get(0);

    stage.sql("ALTER TABLE outbox RENAME created_at TO other").await;
    let said = say(&daemon, &[RECOVER, &["--since", &since]].concat()).await;
    assert_eq!(said.status, 1);
    eventually("the temporary slot is gone", async || slots(&stage).await.is_empty()).await;
    assert!(said.stderr.contains("outbox.columns.created_at"), "{}", said.stderr);
    stage.sql("ALTER TABLE outbox RENAME other TO created_at").await;

    // Without --since, `recover` starts one hour before the last confirm, and these rows are older.
    let said = say(&daemon, RECOVER).await;
    assert_eq!(said.status, 0);
    assert!(said.stdout.contains("rows published and confirmed: 1 (created since "), "{}", said.stdout);
    drop_slot(&stage).await;
    let said = say(&daemon, &[RECOVER, &["--since", &since]].concat()).await;
    assert!(said.stdout.contains("confirmed: 1 (created since "), "{}", said.stdout);
    drop_slot(&stage).await;
    let said = say(&daemon, &[RECOVER, &["--since", "2000-01-01T00:00:00Z"]].concat()).await;
    let all = stage.oracle.committed_count();
    assert!(said.stdout.contains(&format!("confirmed: {all} (created since 2000")), "{}", said.stdout);
    assert!(stage.verdict().await.lost.is_empty());
}

/// Without a record every row is published. The slot of another owner is not touched.
#[tokio::test]
async fn without_a_record_all_rows_come_and_foreign_slots_stay() {
    let (stage, daemon) = gap("unknown").await;
    stage.sql("DROP TABLE outboxd_state").await;
    stage.run_printed_sql().await;
    let foreign = format!("SELECT pg_create_physical_replication_slot('{}')", stage.slot());
    stage.sql(&foreign).await;
    let said = say(&daemon, RECOVER).await;
    assert!(said.status == 1 && said.stderr.contains("physical"), "{}", said.stderr);
    drop_slot(&stage).await;
    let said = say(&daemon, RECOVER).await;
    let all = stage.oracle.committed_count();
    assert!(said.stdout.contains(&format!("confirmed: {all} (all that the table has;")), "{}", said.stdout);
    nothing_lost(&stage.verdict().await);
    assert_eq!(say(&daemon, &["recover", "--source", "order"]).await.status, 2);
}

/// Dropped and parked rows are not counted as confirmed.
#[tokio::test]
async fn parked_and_dropped_rows_are_not_counted_as_confirmed() {
    for (policy, said_apart) in
        [("drop", "rows dropped as unroutable"), ("park", "rows parked (`outboxd parked`")]
    {
        let mut stage = Stage::shared(policy).await;
        stage.source = format!("delivery.on_unroutable = \"{policy}\"\n");
        stage.consume_only("OrderCreated").await;
        for (aggregate, event) in
            [("a", "OrderCreated"), ("b", "OrderChanged"), ("c", "OrderCreated"), ("d", "OrderChanged")]
        {
            stage.write_row(aggregate, 1, event).await;
        }
        let daemon = Daemon::prepare(&stage.config());
        let said = say(&daemon, RECOVER).await;
        assert_eq!(said.status, 0);
        assert!(said.stdout.contains("rows published and confirmed: 2 (all"), "{}", said.stdout);
        let line =
            said.stdout.lines().find(|line| line.starts_with(said_apart)).expect("they are said apart");
        assert!(line.ends_with(": 2"), "{line}");
        assert_eq!(said.stdout.lines().count(), 4, "and nothing of what was not: {}", said.stdout);
    }
}
