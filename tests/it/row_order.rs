//! Selection and order of the table's rows in tables with other columns: added columns, times without zone, transaction times,
//! another relay before outboxd.

use crate::{
    inbox::Inbox,
    stage::{PATIENCE, Said, Stage, say},
};
use testkit::Daemon;

const REPLAY: &[&str] = &["replay", "--source", "orders"];

/// A table without `seq`; its rows are numbered in `payload`.
async fn table(test: &str, columns: &str) -> (Stage, Inbox) {
    let stage = Stage::shared(test).await;
    stage
        .sql(&format!(
            "DROP TABLE outbox;
             CREATE TABLE outbox (aggregatetype text DEFAULT 'Order', aggregateid text DEFAULT 'a', type text DEFAULT 'E',
                payload jsonb, {columns})"
        ))
        .await;
    let inbox = stage.inbox(&["Order.events"]).await;
    (stage, inbox)
}

fn numbers(range: impl Iterator<Item = u32>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

/// Lines of a warning or a failure.
pub(crate) fn finding(said: &Said, name: &str) -> String {
    let mut lines = said.stdout.lines().skip_while(|line| !line.contains(&format!("  {name}  ")));
    lines.by_ref().take(2).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn rows_without_a_sequence_value_or_a_time_come_first() {
    let (stage, mut inbox) =
        table("nulls", "id uuid DEFAULT gen_random_uuid(), created_at timestamptz").await;
    stage
        .sql(
            "INSERT INTO outbox (payload, created_at) VALUES ('1', NULL), ('2', NULL);
             INSERT INTO outbox (payload, created_at) SELECT to_jsonb(n), to_timestamp(n) FROM generate_series(6, 3, -1) n",
        )
        .await;
    let daemon = Daemon::prepare(&stage.config());
    let said = say(&daemon, &["check"]).await;
    assert!(finding(&said, "backlog order").contains("by created_at, which may be NULL"), "{}", said.stdout);
    assert!(finding(&said, "backlog order").contains("ADD COLUMN seq"), "{}", said.stdout);
    assert_eq!(say(&daemon, REPLAY).await.status, 0);
    assert_eq!(inbox.bodies(6).await, numbers(1..=6));

    // A sequence column that was added later, without values in existing rows.
    stage
        .sql(
            "ALTER TABLE outbox ADD COLUMN seq bigint; CREATE SEQUENCE later; ALTER TABLE outbox ALTER seq SET DEFAULT nextval('later');
             INSERT INTO outbox (payload) VALUES ('7'), ('8')",
        )
        .await;
    let said = say(&daemon, &["check"]).await;
    let warning = finding(&said, "backlog order");
    assert!(warning.contains("by the sequence column seq, which may be NULL"), "{warning}");
    assert!(warning.contains("ALTER COLUMN \"seq\" SET NOT NULL"), "{warning}");
    assert_eq!(say(&daemon, REPLAY).await.status, 0);
    assert_eq!(inbox.bodies(8).await, numbers(1..=8));
}

/// All rows of a transaction have one time, and an update moves them within the table.
#[tokio::test]
async fn where_created_at_ties_a_numbered_column_decides_and_check_proposes_it() {
    let (mut stage, mut inbox) =
        table("ties", "id bigserial PRIMARY KEY, created_at timestamptz NOT NULL DEFAULT now()").await;
    stage
        .sql(
            "INSERT INTO outbox (payload) SELECT to_jsonb(n) FROM generate_series(1, 50) n;
             UPDATE outbox SET type = 'E' WHERE id % 3 = 0",
        )
        .await;
    let daemon = Daemon::prepare(&stage.config());
    let warning = finding(&say(&daemon, &["check"]).await, "backlog order");
    assert!(warning.contains("whose default now() is the start time of a transaction"), "{warning}");
    assert!(warning.contains("set outbox.columns.sequence = \"id\""), "{warning}");
    assert_eq!(say(&daemon, REPLAY).await.status, 0);
    assert_eq!(inbox.bodies(50).await, numbers(1..=50));

    // The transaction that began first writes last, under a lock that both take.
    stage.source = "outbox.columns.sequence = \"id\"\n".into();
    let (early, late) = (stage.client().await, stage.client().await);
    early.batch_execute("BEGIN; SELECT now()").await.unwrap();
    late.batch_execute("BEGIN; INSERT INTO outbox (payload) VALUES ('51'); COMMIT").await.unwrap();
    early.batch_execute("INSERT INTO outbox (payload) VALUES ('52'); COMMIT").await.unwrap();
    let daemon = Daemon::prepare(&stage.config());
    let said = say(&daemon, &["check"]).await;
    assert!(finding(&said, "backlog order").contains("by the sequence column id"), "{}", said.stdout);
    assert_eq!(say(&daemon, REPLAY).await.status, 0);
    assert_eq!(inbox.bodies(52).await, numbers(1..=52));
    stage.sql("ALTER SEQUENCE outbox_id_seq CACHE 20").await;
    let warning = finding(&say(&daemon, &["check"]).await, "backlog order");
    assert!(warning.contains("draws 20 values at a time"), "{warning}");
}

#[tokio::test]
async fn since_on_times_without_zone_is_refused_unless_the_zone_is_stated() {
    let (mut stage, mut inbox) =
        table("zone", "id bigserial PRIMARY KEY, created_at timestamp NOT NULL DEFAULT clock_timestamp()")
            .await;
    stage.sql(&format!("ALTER DATABASE \"{}\" SET timezone = 'America/New_York'", stage.name)).await;
    stage.sql("INSERT INTO outbox (payload, created_at) VALUES ('1', now() - interval '2 hours'), ('2', DEFAULT)").await;
    let daemon = Daemon::prepare(&stage.config());
    let since = ["--since", "10m"];
    let warning = finding(&say(&daemon, &["check"]).await, "time zone");
    assert!(warning.contains("outbox.created_at_zone"), "{warning}");
    for command in [REPLAY, &["recover", "--source", "orders"]] {
        let said = say(&daemon, &[command, &since].concat()).await;
        assert_eq!((said.status, said.stdout.as_str()), (1, ""));
        assert!(said.stderr.contains("outbox.created_at_zone"), "{}", said.stderr);
    }
    stage.source = "outbox.created_at_zone = \"Atlantis/Capital\"\n".into();
    let failed = finding(&say(&Daemon::prepare(&stage.config()), &["check"]).await, "selection of rows");
    assert!(failed.contains("FAILED") && failed.contains("Atlantis/Capital"), "{failed}");

    stage.source = "outbox.created_at_zone = \"UTC+2\"\n".into();
    let warned = finding(&say(&Daemon::prepare(&stage.config()), &["check"]).await, "time zone");
    assert!(warned.contains("warning") && warned.contains("UTC+2 is not in pg_timezone_names"), "{warned}");
    assert!(warned.contains("UTC-02:00"), "{warned}");

    stage.source = "outbox.created_at_zone = \"America/New_York\"\n".into();
    let daemon = Daemon::prepare(&stage.config());
    let said = say(&daemon, &["check"]).await;
    assert!(finding(&said, "time zone").contains("is read as time in America/New_York"), "{}", said.stdout);
    let said = say(&daemon, &[REPLAY, &since].concat()).await;
    assert!(said.stdout.contains("confirmed: 1 (created since "), "{}", said.stdout);
    assert_eq!(inbox.bodies(1).await, ["2"]);
    let said = say(&daemon, &[&["recover", "--source", "orders"][..], &["--since", "3h"]].concat()).await;
    assert!(said.stdout.contains("confirmed: 2 (created since "), "{}", said.stdout);
    assert_eq!(inbox.bodies(2).await, ["1", "2"]);

    // An unknown aggregate is reported.
    let said = say(&daemon, &[REPLAY, &["--aggregate", "order/a"]].concat()).await;
    assert_eq!(said.status, 0);
    assert!(said.stdout.contains("has no row of aggregate order/a"), "{}", said.stdout);
    for (bad, why) in [("2026-01-31T08:05:09", "needs its zone"), ("yesterday", "write 90s, 15m, 1h")] {
        let said = say(&daemon, &[REPLAY, &["--since", bad]].concat()).await;
        assert!(said.status == 2 && said.stderr.contains(why), "{}", said.stderr);
    }
}

#[tokio::test]
async fn what_a_poller_has_published_is_left_out_and_what_it_has_not_is_not() {
    let (mut stage, mut inbox) =
        table("poller", "id bigserial PRIMARY KEY, published_at timestamptz, done boolean").await;
    stage
        .sql(
            "INSERT INTO outbox (payload, published_at, done) VALUES
             ('1', now(), true), ('2', NULL, false), ('3', now(), true), ('4', NULL, NULL)",
        )
        .await;
    for (condition, why) in [
        ("published IS NULL", "column \\\"published\\\" does not exist"),
        ("true; DROP TABLE outbox", "syntax error"),
        ("true) OR (payload", "outbox.unpublished"),
    ] {
        stage.source = format!("outbox.columns.sequence = \"id\"\noutbox.unpublished = \"{condition}\"\n");
        let said = say(&Daemon::prepare(&stage.config()), &["check"]).await;
        let failed = finding(&said, "selection of rows");
        let why = why.replace('\\', "");
        assert!(
            said.status == 1 && failed.contains(&why) && failed.contains("FAILED"),
            "{condition}: {failed}"
        );
    }
    // A condition that is NULL publishes the row.
    stage.source =
        "outbox.columns.sequence = \"id\"\noutbox.unpublished = \"NOT done -- a comment\"\n".into();
    assert_eq!(say(&Daemon::prepare(&stage.config()), REPLAY).await.status, 0);
    assert_eq!(inbox.bodies(2).await, ["2", "4"]);

    stage.source = "outbox.columns.sequence = \"id\"\noutbox.unpublished = \"published_at IS NULL\"\n".into();
    let mut daemon = stage.relay_as_printed_role().await;
    stage.sql("INSERT INTO outbox (payload, published_at) VALUES ('5', now()), ('6', NULL)").await;
    assert_eq!(inbox.bodies(4).await, ["2", "4", "5", "6"], "the backlog, and all that is streamed");
    let said = say(&daemon, &["check"]).await;
    assert!(finding(&said, "selection of rows").contains("OK"), "{}", said.stdout);
    assert!(daemon.sigterm(PATIENCE).await.success());
    stage.sql(&format!("SELECT pg_drop_replication_slot('{}')", stage.slot())).await;
    let said = say(&daemon, &["recover", "--source", "orders"]).await;
    let published = "rows published and confirmed: 3 (all that outbox.unpublished selects;";
    assert!(said.stdout.contains(published), "{}", said.stdout);
    assert_eq!(inbox.bodies(3).await, ["2", "4", "6"]);
    daemon.start_again();
    daemon.wait_ready(PATIENCE).await;
    let nobody = say(&daemon, &[REPLAY, &["--aggregate", "Order/b"]].concat()).await;
    assert!(nobody.stdout.contains("that outbox.unpublished selects"), "{}", nobody.stdout);
    inbox.stays_empty().await;
}
