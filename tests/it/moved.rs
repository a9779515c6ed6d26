//! An outbox table that moved to another schema: outboxd finds its own tables in the old one, and gives the statement that moves
//! them.

use crate::{
    parked::{PARK, parked_rows, until_parked},
    stage::{PATIENCE, Said, Stage, say, until, until_alive},
};
use testkit::Daemon;

const SOURCE: [&str; 2] = ["--source", "orders"];

async fn parked(daemon: &Daemon, command: &[&str]) -> Said {
    say(daemon, &[&["parked"], command, &SOURCE].concat()).await
}

/// The cure of a check.
fn cure<'a>(said: &'a Said, word: &str, check: &str) -> &'a str {
    let mut lines = said.stdout.lines();
    let found = lines.find(|line| line.trim_start().starts_with(word) && line.contains(check));
    found.unwrap_or_else(|| panic!("no {word} {check}"));
    lines.next().and_then(|line| line.trim_start().strip_prefix("-> ")).expect("a cure")
}

/// A source with a parked row, whose table then moves to schema `app`. `before` runs before the move.
async fn moved(test: &str, before: &str) -> (Stage, Daemon) {
    let mut stage = Stage::shared(test).await;
    stage.source = PARK.to_owned();
    stage.with_printed_role().await;
    let mut daemon = stage.relay().await;
    stage.write_unseen("a", "OrderCreated").await;
    until_parked(&stage, 1).await;
    assert!(daemon.sigterm(PATIENCE).await.success());
    stage
        .sql(&format!(
            "{before}; CREATE SCHEMA app; ALTER TABLE outbox SET SCHEMA app; GRANT USAGE ON SCHEMA app TO role_{}",
            stage.name
        ))
        .await;
    stage.source += "outbox.table = \"app.outbox\"\n";
    let daemon = Daemon::prepare(&stage.config());
    (stage, daemon)
}

#[tokio::test]
async fn what_stayed_in_the_old_schema_is_said_by_every_command_and_moved_by_the_statement() {
    let (stage, mut daemon) = moved("moved", "SELECT 1").await;
    let move_both = "ALTER TABLE \"public\".\"outboxd_state\" SET SCHEMA \"app\"; ALTER TABLE \"public\".\"outboxd_parked\" SET SCHEMA \"app\";";
    let move_parked = "ALTER TABLE \"public\".\"outboxd_parked\" SET SCHEMA \"app\";";

    let checked = say(&daemon, &["check"]).await;
    assert_eq!((checked.status, cure(&checked, "FAILED", "records of slots")), (1, move_both));
    let shown = say(&daemon, &["status"]).await;
    assert!(
        shown.stdout.contains("1 rows of slot") && shown.stdout.contains(move_parked),
        "{}",
        shown.stdout
    );
    let listed = parked(&daemon, &["list"]).await;
    assert!(listed.status == 0 && listed.stderr.contains("SET SCHEMA"), "{}", listed.stderr);
    for command in [&["requeue", "--all"][..], &["discard", "--all"]] {
        let said = parked(&daemon, command).await;
        assert!(said.status == 1 && said.stderr.contains(move_parked), "{}", said.stderr);
    }
    for command in ["recover", "teardown"] {
        let said = say(&daemon, &[&[command], &SOURCE[..]].concat()).await;
        assert!(said.status == 1 && said.stderr.contains("SET SCHEMA"), "{}", said.stderr);
    }
    daemon.start_again();
    until_alive(&daemon).await;
    let shown = until(&daemon, "orders", |shown| shown["reason"].to_string().contains("SET SCHEMA")).await;
    assert_eq!(shown["state"], "halted");
    let shown = say(&daemon, &["status"]).await;
    assert!(shown.stdout.contains(move_both), "{}", shown.stdout);

    // The source continues by itself, with its record and its parked rows.
    stage.sql(move_both).await;
    daemon.wait_ready(PATIENCE).await;
    until(&daemon, "orders", |shown| shown["parked_rows"] == 1).await;
    assert_eq!(say(&daemon, &["check"]).await.status, 0);
    let mut inbox = stage.inbox(&["Order.events"]).await;
    let said = parked(&daemon, &["requeue", "--all"]).await;
    assert!(said.status == 0 && said.stdout.contains("requeued: 1"), "{}{}", said.stdout, said.stderr);
    inbox.next().await;
}

/// Rows of another source stay in the old schema, and the new schema has its own tables already.
#[tokio::test]
async fn rows_that_lie_beside_those_of_another_source_are_moved_alone() {
    let other = "INSERT INTO outboxd_state SELECT 'other', system_identifier, timeline, confirmed_flush, confirmed_until, holder, gap, \
                 published_by, unaccounted, version FROM outboxd_state; \
                 INSERT INTO outboxd_parked SELECT 'other', position, cause, reason, message_id, aggregate_type, aggregate_id, event_type, \
                 exchange, routing_key, committed_at, parked_at, column_names, column_types, column_values FROM outboxd_parked";
    let (stage, mut daemon) = moved("moved_shared", other).await;
    stage.run_printed_sql().await;
    let checked = say(&daemon, &["check"]).await;
    stage.sql(cure(&checked, "FAILED", "records of slots")).await;
    assert_eq!(say(&daemon, &["check"]).await.status, 0);
    daemon.start_again();
    daemon.wait_ready(PATIENCE).await;
    until(&daemon, "orders", |shown| shown["parked_rows"] == 1).await;
    let client = stage.client().await;
    assert_eq!(parked_rows(&client).await.len(), 1, "the other source's");
    let moved = "SELECT slot FROM app.outboxd_parked";
    assert_eq!(client.query_one(moved, &[]).await.unwrap().get::<_, String>(0), stage.slot());

    // Parked rows alone in the old schema do not stop the source.
    stage.sql(&format!("UPDATE public.outboxd_parked SET slot = '{}'", stage.slot())).await;
    assert!(daemon.sigterm(PATIENCE).await.success());
    daemon.start_again();
    daemon.wait_ready(PATIENCE).await;
    assert!(daemon.log().contains("WITH moved AS"), "{}", daemon.log());
    until(&daemon, "orders", |shown| shown["parked_elsewhere"].to_string().contains("WITH moved AS")).await;
    assert!(say(&daemon, &["status"]).await.stdout.contains("WITH moved AS"));
    stage.sql("DELETE FROM app.outboxd_parked").await;
    let checked = say(&daemon, &["check"]).await;
    assert_eq!(checked.status, 0);
    stage.sql(cure(&checked, "warning", "parked messages")).await;
    until(&daemon, "orders", |shown| shown["parked_elsewhere"].is_null()).await;
    let listed = parked(&daemon, &["list"]).await;
    assert!(listed.stdout.contains("OrderCreated") && listed.stderr.is_empty(), "{}", listed.stderr);
}
