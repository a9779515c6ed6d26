//! Clean-up removes rows after their messages are confirmed, never before, and disturbs nobody.

use std::time::{Duration, Instant};

use tokio_postgres::Client;

use crate::stage::{PATIENCE, Stage, alive, eventually, say, until, until_alive, until_state};
use testkit::{Daemon, Postgres, PostgresOptions, shared_rabbitmq};

const DELETE: &str = "cleanup.mode = \"delete\"\n";

async fn cleaning(test: &str) -> Stage {
    let mut stage = Stage::shared(test).await;
    stage.source = DELETE.to_owned();
    stage
}

async fn count(client: &Client, table: &str) -> i64 {
    client.query_one(&format!("SELECT count(*) FROM {table}"), &[]).await.unwrap().get(0)
}

async fn until_count(client: &Client, table: &str, rows: i64) {
    eventually(&format!("{rows} rows are left in {table}"), async || count(client, table).await == rows)
        .await;
}

async fn deleted(daemon: &Daemon) -> usize {
    daemon.count("orders", "rows_deleted_total").await
}

fn insert(payload: &str) -> String {
    format!(
        "INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES ('Order', 'a', 'OrderCreated', '{payload}')"
    )
}

/// The clean-up's current or last statement, and whether the clean-up is idle.
async fn cleaner(client: &Client) -> Option<(String, bool, String)> {
    let sql = "SELECT query, state = 'idle', state_change::text FROM pg_stat_activity \
               WHERE application_name = 'outboxd cleanup orders' AND datname = current_database()";
    let row = client.query_opt(sql, &[]).await.unwrap()?;
    Some((row.try_get(0).ok()?, row.try_get(1).ok()?, row.try_get(2).ok()?))
}

/// Waits until the clean-up has searched the table again.
async fn until_searched(client: &Client) {
    let before = cleaner(client).await;
    eventually("the clean-up has looked at the table", async || {
        let now = cleaner(client).await;
        now.is_some() && now != before
    })
    .await;
}

/// Waits until the clean-up has found rows and waits for a confirm that does not come, then until PostgreSQL was told the
/// position twice again, after new WAL.
async fn until_it_waits_in_vain(client: &Client) {
    // The check of the publication is the last step before the wait.
    let waits = async || {
        cleaner(client).await.is_some_and(|(query, idle, _)| idle && query.contains("pg_publication"))
    };
    eventually("rows are found", waits).await;
    for _ in 0..2 {
        client
            .batch_execute("CREATE TABLE busy AS SELECT n FROM generate_series(1, 1000) n; DROP TABLE busy")
            .await
            .unwrap();
        let told = "SELECT reply_time::text FROM pg_stat_replication \
                    WHERE pid IN (SELECT active_pid FROM pg_replication_slots WHERE database = current_database())";
        let told = async || client.query_one(told, &[]).await.unwrap().get::<_, String>(0);
        let before = told().await;
        eventually("PostgreSQL is told", async || told().await != before).await;
    }
    assert!(waits().await, "{:?}", cleaner(client).await);
}

#[tokio::test]
async fn rows_go_once_they_are_confirmed() {
    let mut stage = cleaning("clean").await;
    stage.consume().await;
    stage.workload.transactions = 100;
    stage.write().await;
    let mut daemon = stage.relay_as_printed_role().await;
    stage.write_row("late", 1, "OrderCreated").await;
    stage.verdict().await.assert_delivered(0);
    let client = stage.client().await;
    until_count(&client, "outbox", 0).await;
    // Each row is removed once and counted; the counter follows a moment later.
    let committed = stage.oracle.committed_count();
    let shown = until(&daemon, "orders", |shown| shown["deleted"].as_u64() == Some(committed as u64)).await;
    assert_eq!(shown["ignored"], 0, "a delete is not published");
    assert!(daemon.sigterm(PATIENCE).await.success());
}

/// An unroutable message holds the position back. Rows before and after it in commit order show where the position is.
#[tokio::test]
async fn rows_stay_while_the_position_is_held_and_go_when_it_passes() {
    let mut stage = cleaning("held").await;
    stage.consume_only("OrderCreated").await;
    let daemon = stage.relay_as_printed_role().await;
    let client = stage.client().await;
    stage.write_row("before", 1, "OrderCreated").await;
    until_count(&client, "outbox", 0).await;

    stage.write_row("held", 1, "OrderChanged").await;
    stage.write_row("behind", 1, "OrderCreated").await;
    until_state(&daemon, "orders", "halted").await;
    until_it_waits_in_vain(&client).await;
    assert_eq!((count(&client, "outbox").await, deleted(&daemon).await), (2, 1));

    stage.bind("OrderChanged").await;
    stage.verdict().await.assert_delivered(0);
    until_count(&client, "outbox", 0).await;
}

#[tokio::test]
async fn the_retention_keeps_young_rows_and_rows_without_a_time() {
    let mut stage = cleaning("retention").await;
    stage.source += "cleanup.retention_s = 3600\n";
    stage.consume().await;
    stage.sql("ALTER TABLE outbox ALTER created_at DROP NOT NULL").await;
    let daemon = stage.relay_as_printed_role().await;
    let client = stage.client().await;
    for (payload, created_at) in [
        ("1", "now() - interval '61 minutes'"),
        ("2", "now() - interval '59 minutes'"),
        ("3", "NULL"),
        ("4", "now() - interval '1 day'"),
    ] {
        let row = format!(
            "INSERT INTO outbox (aggregatetype, aggregateid, type, payload, created_at) \
             VALUES ('Order', 'a', 'OrderCreated', '{payload}', {created_at})"
        );
        client.batch_execute(&row).await.unwrap();
    }
    eventually("the old rows are gone", async || deleted(&daemon).await == 2).await;
    until_searched(&client).await;
    let left = client.query("SELECT payload::text FROM outbox ORDER BY seq", &[]).await.unwrap();
    assert_eq!(left.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>(), ["2", "3"]);
}

/// The rows are the oldest of the table by every column, and commit last. The stream is far beyond their WAL by then.
#[tokio::test]
async fn a_row_that_is_old_and_commits_late_stays_until_it_is_confirmed() {
    let mut stage = cleaning("late").await;
    stage.source += "cleanup.retention_s = 60\n";
    stage.consume_only("OrderCreated").await;
    let daemon = stage.relay_as_printed_role().await;
    let mut writer = stage.client().await;
    let open = writer.transaction().await.unwrap();
    open.batch_execute(
        "INSERT INTO outbox (aggregatetype, aggregateid, type, payload, created_at) \
         VALUES ('Order', 'late', 'OrderChanged', '1', now() - interval '1 day')",
    )
    .await
    .unwrap();
    let client = stage.client().await;
    for _ in 0..3 {
        client
            .batch_execute(
                "INSERT INTO outbox (aggregatetype, aggregateid, type, payload, created_at) \
                 SELECT 'Order', n::text, 'OrderCreated', '1', now() - interval '1 day' FROM generate_series(1, 100) n",
            )
            .await
            .unwrap();
        until_count(&client, "outbox", 0).await;
    }
    open.commit().await.unwrap();
    until_state(&daemon, "orders", "halted").await;
    until_it_waits_in_vain(&client).await;
    assert_eq!(count(&client, "outbox").await, 1);
    stage.bind("OrderChanged").await;
    until_count(&client, "outbox", 0).await;
}

/// The daemon is killed repeatedly between deletes and confirms. A trigger copies each deleted row with the slot's confirmed
/// position: the row's commit must be before it, and its message must have arrived.
#[tokio::test]
async fn kill_9_under_load_removes_nothing_that_is_not_confirmed() {
    let mut stage = cleaning("clean_kill").await;
    stage.workload.pause = Duration::from_millis(3);
    stage.source += "delivery.in_flight_max = 64\n";
    let slot = stage.slot();
    stage
        .sql(&format!(
            "CREATE TABLE removed (id uuid PRIMARY KEY, at timestamptz DEFAULT clock_timestamp(), confirmed pg_lsn);
             CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
                 INSERT INTO public.removed SELECT OLD.id, clock_timestamp(), confirmed_flush_lsn
                 FROM pg_replication_slots WHERE slot_name = '{slot}';
                 RETURN NULL; END $$;
             CREATE TRIGGER note AFTER DELETE ON outbox FOR EACH ROW EXECUTE FUNCTION note()"
        ))
        .await;
    stage.consume().await;
    let mut daemon = stage.relay_as_printed_role().await;
    let writing = stage.keep_writing();
    let client = stage.client().await;
    for kill in 1..=6 {
        let before = count(&client, "removed").await;
        stage.receive_more(200).await;
        eventually("more rows are removed", async || count(&client, "removed").await > before).await;
        // A random moment of the clean-up's round.
        tokio::time::sleep(Duration::from_millis(fastrand::u64(0..400))).await;
        daemon.kill9().await;
        // The server completes a statement of the killed process, and runs no further one.
        eventually("the server is done with it", async || {
            let sql = "SELECT FROM pg_stat_activity WHERE application_name LIKE 'outboxd cleanup%' AND datname = current_database()";
            client.execute(sql, &[]).await.unwrap() == 0
        })
        .await;
        let (removed, arrived) = (removed_ids(&client).await, stage.oracle.distinct_count());
        println!("kill {kill}: {} rows removed, {arrived} messages arrived", removed.len());
        // A confirmed message is in the queue, and reaches the consumer without the daemon.
        eventually("what was removed has arrived", async || {
            removed.iter().all(|id| stage.oracle.has_received(id))
        })
        .await;
        daemon.start_again();
    }
    daemon.wait_ready(PATIENCE).await;
    writing.stop().await;
    assert!(stage.verdict().await.keeps_promises());
    until_count(&client, "outbox", 0).await;
    assert_eq!(count(&client, "removed").await as usize, stage.oracle.committed_count());
    assert!(daemon.sigterm(PATIENCE).await.success());
}

async fn removed_ids(client: &Client) -> Vec<String> {
    let rows = client.query("SELECT id::text FROM removed", &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// A locked row is skipped, and an open transaction with a new row delays nothing. The clean-up's own locks last milliseconds.
#[tokio::test]
async fn nobody_is_waited_for() {
    let mut stage = cleaning("held_rows").await;
    let daemon = stage.relay_as_printed_role().await;
    let (mut holder, mut writer, client) = (stage.client().await, stage.client().await, stage.client().await);
    // No queue is bound yet, so the rows stay in the table.
    let rows = "INSERT INTO outbox (aggregatetype, aggregateid, type, payload) \
                SELECT 'Order', n::text, 'OrderCreated', '1' FROM generate_series(1, 500) n";
    client.batch_execute(rows).await.unwrap();
    let held = holder.transaction().await.unwrap();
    let hold = "SELECT id::text FROM outbox ORDER BY seq LIMIT 1 FOR UPDATE";
    let id: String = held.query_one(hold, &[]).await.unwrap().get(0);
    let open = writer.transaction().await.unwrap();
    open.batch_execute(&insert("2")).await.unwrap();
    stage.consume().await;
    until_count(&client, "outbox", 1).await;
    let left: String = client.query_one("SELECT id::text FROM outbox", &[]).await.unwrap().get(0);
    assert_eq!(left, id);
    held.rollback().await.unwrap();
    until_count(&client, "outbox", 0).await;
    open.commit().await.unwrap();
    eventually("all of them are counted", async || deleted(&daemon).await == 501).await;
    assert!(!daemon.log().contains("clean-up removes no rows"), "{}", daemon.log());
}

/// Names that need quotes, a key of two columns, no key, equal ids.
#[tokio::test]
async fn tables_of_any_name_and_key_are_cleaned() {
    for (name, columns) in
        [("quoted", r#""The Id" int, PRIMARY KEY ("The Id", "SEQ")"#), ("no_key", r#""The Id" int"#)]
    {
        let mut stage = cleaning(name).await;
        let table = r#""My ""Schema"."Out.Box; --""#;
        stage
            .sql(&format!(
                r#"DROP TABLE outbox; CREATE SCHEMA "My ""Schema";
                CREATE TABLE {table} ("Type" text, "agg""id" text, "select" text, "Pay load" text, "At ""Time" timestamptz DEFAULT now() - interval '1 day',
                    "SEQ" bigint GENERATED ALWAYS AS IDENTITY, {columns})"#
            ))
            .await;
        stage.source += r#"cleanup.retention_s = 1
            outbox.table = '"My ""Schema"."Out.Box; --"'
            outbox.columns = { id = "The Id", aggregate_type = "Type", aggregate_id = 'agg"id', event_type = "select", payload = "Pay load", sequence = "SEQ", created_at = 'At "Time' }
            "#;
        let mut inbox = stage.inbox(&["Order.events"]).await;
        let daemon = stage.relay_as_printed_role().await;
        stage
            .sql(&format!(
                r#"INSERT INTO {table} ("Type", "agg""id", "select", "Pay load", "The Id") SELECT 'Order', n::text, 'E', n::text, 7 FROM generate_series(1, 3) n"#
            ))
            .await;
        assert_eq!(inbox.bodies(3).await.len(), 3);
        until_count(&stage.client().await, table, 0).await;
        drop(daemon);
    }
}

/// A row's ctid in one partition exists in every other partition, too.
#[tokio::test]
async fn of_a_partitioned_table_the_row_in_the_right_partition_goes() {
    let mut stage = cleaning("clean_parts").await;
    stage.source += "cleanup.retention_s = 3600\n";
    stage
        .sql(
            "DROP TABLE outbox;
             CREATE TABLE outbox (id int, aggregatetype text DEFAULT 'Order', aggregateid text DEFAULT 'a', type text DEFAULT 'E',
                payload text, created_at timestamptz) PARTITION BY RANGE (id);
             CREATE TABLE p0 PARTITION OF outbox FOR VALUES FROM (0) TO (100) PARTITION BY LIST (id);
             CREATE TABLE p0a PARTITION OF p0 FOR VALUES IN (0);
             CREATE TABLE p0b PARTITION OF p0 DEFAULT;
             CREATE TABLE p1 (payload text, created_at timestamptz, type text DEFAULT 'E', aggregateid text DEFAULT 'a',
                aggregatetype text DEFAULT 'Order', id int);
             ALTER TABLE outbox ATTACH PARTITION p1 FOR VALUES FROM (100) TO (200);
             -- The script's own statement for a partitioned table, which stands in a comment.
             CREATE PUBLICATION outboxd_orders FOR TABLE outbox WITH (publish = 'insert', publish_via_partition_root = true)",
        )
        .await;
    let mut inbox = stage.inbox(&["Order.events"]).await;
    let daemon = stage.relay_as_printed_role().await;
    // One transaction, so that ctid and xmin are equal and only the partition distinguishes the rows.
    stage
        .sql(
            "INSERT INTO outbox (id, payload, created_at) VALUES
                (0, 'stays', now()), (1, 'goes', now() - interval '2 hours'), (100, 'stays', now()),
                (0, 'goes', now() - interval '2 hours'), (2, 'stays', now()), (101, 'goes', now() - interval '2 hours')",
        )
        .await;
    inbox.bodies(6).await;
    let client = stage.client().await;
    until_count(&client, "outbox WHERE payload = 'goes'", 0).await;
    until_searched(&client).await;
    assert_eq!((count(&client, "outbox").await, deleted(&daemon).await), (3, 3));
}

/// A role that may not delete, or is kept from it, still relays.
#[tokio::test]
async fn what_keeps_rows_is_said_and_does_not_keep_messages() {
    let mut stage = cleaning("kept").await;
    let role = stage.name.clone();
    stage
        .sql(&format!(
            "CREATE ROLE \"{role}\" LOGIN REPLICATION; GRANT SELECT ON outbox TO \"{role}\";
             GRANT CREATE ON SCHEMA public TO \"{role}\";
             CREATE PUBLICATION \"outboxd_orders\" FOR TABLE outbox WITH (publish = 'insert')"
        ))
        .await;
    let config = stage.config_as(&role);
    stage.consume().await;
    let mut daemon = alive(&config).await;
    daemon.wait_ready(PATIENCE).await;
    stage.write_row("a", 1, "OrderCreated").await;
    stage.verdict().await.assert_delivered(0);
    eventually("somebody is told", async || daemon.log().contains("permission denied")).await;
    assert!(daemon.log().contains("`outboxd check` prints the missing GRANT"), "{}", daemon.log());
    let check = say(&daemon, &["check"]).await;
    assert_eq!(check.status, 0);
    let grant = format!("GRANT DELETE, UPDATE (\"id\") ON \"public\".\"outbox\" TO \"{role}\"");
    assert!(check.stdout.contains(&format!("{grant};")), "{}", check.stdout);

    // A foreign key keeps a row.
    stage
        .sql("CREATE TABLE refers (id uuid REFERENCES outbox); INSERT INTO refers SELECT id FROM outbox")
        .await;
    stage.sql(&grant).await;
    assert!(say(&daemon, &["check"]).await.stdout.contains("OK       cleanup"));
    let client = stage.client().await;
    let log_before = daemon.log().len();
    stage.write_row("a", 2, "OrderChanged").await;
    stage.verdict().await.assert_delivered(0);
    daemon.restart().await;
    eventually("somebody is told again", async || daemon.log()[log_before..].contains("foreign key")).await;
    assert!(daemon.log()[log_before..].contains("ON DELETE CASCADE"), "{}", daemon.log());
    assert_eq!(count(&client, "outbox").await, 2);
    client.batch_execute("DROP TABLE refers").await.unwrap();
    until_count(&client, "outbox", 0).await;
}

/// A new table of the same name that is not published must not lose its rows.
#[tokio::test]
async fn a_table_that_is_not_published_any_more_keeps_its_rows() {
    let mut stage = cleaning("unpublished").await;
    stage.consume().await;
    let mut daemon = stage.relay_as_printed_role().await;
    let client = stage.client().await;
    client.batch_execute(&insert("1")).await.unwrap();
    until_count(&client, "outbox", 0).await;
    client
        .batch_execute(
            "BEGIN; ALTER TABLE outbox RENAME TO outbox_before; \
             CREATE TABLE outbox (LIKE outbox_before INCLUDING ALL); COMMIT",
        )
        .await
        .unwrap();
    client.batch_execute(&insert("2")).await.unwrap();
    until_state(&daemon, "orders", "halted").await;
    assert_eq!(count(&client, "outbox").await, 1);
    // The same after the publication is corrected by hand, and a restart.
    client.batch_execute("ALTER PUBLICATION outboxd_orders SET TABLE ONLY outbox").await.unwrap();
    daemon.restart().await;
    until_alive(&daemon).await;
    let reason = until_state(&daemon, "orders", "halted").await;
    assert!(reason.contains("does not contain the table"), "{reason}");
    assert_eq!(count(&client, "outbox").await, 1);
    // After `recover` the rows are published, and clean-up may remove them. The role has no privileges on the new table yet.
    stage.run_printed_sql().await;
    assert_eq!(say(&daemon, &["recover", "--source", "orders"]).await.status, 0);
    until_count(&client, "outbox", 0).await;
}

/// The rows may be older than the slot and unpublished: the operator who created the slot must confirm that they are accounted
/// for.
#[tokio::test]
async fn rows_that_were_there_before_a_slot_made_by_hand_stay_until_somebody_has_seen_to_them() {
    let mut stage = cleaning("by_hand").await;
    stage.consume().await;
    let slot = stage.slot();
    let config = stage.run_printed_sql().await;
    stage.sql(&insert("1")).await;
    stage.sql(&format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')")).await;
    let mut daemon = Daemon::prepare(&config);
    let said = say(&daemon, &["check"]).await;
    assert!(said.status == 0 && said.stdout.contains("warning  unpublished rows"), "{}", said.stdout);
    daemon.start_again();
    daemon.wait_ready(PATIENCE).await;
    let client = stage.client().await;
    stage.write_row("a", 1, "OrderCreated").await;
    stage.verdict().await.assert_delivered(0);
    let shown = until(&daemon, "orders", |shown| shown["cleanup_off"].is_string()).await;
    assert!(shown["cleanup_off"].as_str().unwrap().contains("may be older than the slot"), "{shown}");
    assert_eq!(daemon.metric("outboxd_cleanup_off{source=\"orders\"}").await, Some(1.0));
    assert!(daemon.log().contains("clean-up is off: "), "{}", daemon.log());
    daemon.restart().await;
    daemon.wait_ready(PATIENCE).await;
    until(&daemon, "orders", |shown| shown["cleanup_off"].is_string()).await;
    let cleaners = "SELECT count(*) FROM pg_stat_activity \
                    WHERE application_name LIKE 'outboxd cleanup%' AND datname = current_database()";
    assert_eq!(client.query_one(cleaners, &[]).await.unwrap().get::<_, i64>(0), 0);
    assert_eq!(count(&client, "outbox").await, 2);

    // Deleting these rows settles the matter.
    client.batch_execute("DELETE FROM outbox").await.unwrap();
    daemon.restart().await;
    daemon.wait_ready(PATIENCE).await;
    stage.write_row("a", 2, "OrderCreated").await;
    stage.verdict().await.assert_delivered(0);
    until_count(&client, "outbox", 0).await;
    assert!(until(&daemon, "orders", |_| true).await["cleanup_off"].is_null());
}

/// An empty table has no rows older than the slot.
#[tokio::test]
async fn a_slot_made_by_hand_for_an_empty_table_is_cleaned_behind() {
    let mut stage = cleaning("by_hand_empty").await;
    stage.consume().await;
    stage.sql("CREATE PUBLICATION outboxd_orders FOR TABLE ONLY outbox WITH (publish = 'insert')").await;
    stage.sql(&format!("SELECT pg_create_logical_replication_slot('{}', 'pgoutput')", stage.slot())).await;
    let daemon = stage.relay_as_printed_role().await;
    stage.write_row("a", 1, "OrderCreated").await;
    until_count(&stage.client().await, "outbox", 0).await;
    assert!(!daemon.log().contains("clean-up is off"), "{}", daemon.log());
}

/// `backlog = "skip"` and clean-up are refused together. One after the other has the same danger.
#[tokio::test]
async fn rows_that_were_skipped_stay_when_clean_up_is_switched_on_later() {
    for made_by_setup in [true, false] {
        let mut stage = cleaning("skipped").await;
        stage.consume().await;
        stage.sql(&insert("1")).await;
        stage.source = "backlog = \"skip\"\n".to_owned();
        // With a superuser: the printed script would create the slot.
        let mut daemon = Daemon::prepare(&stage.config());
        if made_by_setup {
            assert_eq!(say(&daemon, &["setup"]).await.status, 0);
        } else {
            daemon.start_again();
            daemon.wait_ready(PATIENCE).await;
            assert!(daemon.sigterm(PATIENCE).await.success());
        }
        stage.source = DELETE.to_owned();
        let mut daemon = stage.relay_as_printed_role().await;
        stage.write_row("a", 1, "OrderCreated").await;
        stage.verdict().await.assert_delivered(0);
        let shown = until(&daemon, "orders", |shown| shown["cleanup_off"].is_string()).await;
        assert!(shown["cleanup_off"].as_str().unwrap().contains("left them out"), "{shown}");
        assert_eq!(count(&stage.client().await, "outbox").await, 2);
        // A `recover` of all rows publishes them, and then clean-up may remove them.
        assert!(daemon.sigterm(PATIENCE).await.success());
        stage.sql(&format!("SELECT pg_drop_replication_slot('{}')", stage.slot())).await;
        stage.sql("UPDATE outboxd_state SET confirmed_until = NULL").await;
        assert_eq!(say(&daemon, &["recover", "--source", "orders"]).await.status, 0);
        daemon.start_again();
        until_count(&stage.client().await, "outbox", 0).await;
    }
}

/// The zone of such times is unknown: the writer's zone may differ from the server's.
#[tokio::test]
async fn times_without_a_zone_are_no_ground_for_a_retention() {
    let mut stage = cleaning("no_zone").await;
    stage.source += "cleanup.retention_s = 1\n";
    stage.consume().await;
    stage.sql("ALTER TABLE outbox ALTER created_at TYPE timestamp").await;
    let daemon = stage.relay_as_printed_role().await;
    stage.write_row("a", 1, "OrderCreated").await;
    stage.verdict().await.assert_delivered(0);
    eventually("somebody is told", async || daemon.log().contains("without time zone")).await;
    let said = say(&daemon, &["check"]).await;
    assert!(said.status == 0 && said.stdout.contains("without time zone"), "{}", said.stdout);
    assert!(said.stdout.contains("set outbox.created_at_zone"), "{}", said.stdout);
    assert!(said.stdout.contains("TYPE timestamptz USING \"created_at\" AT TIME ZONE"), "{}", said.stdout);
    let client = stage.client().await;
    assert_eq!(count(&client, "outbox").await, 1);
    // After the cure the row is removed without a restart.
    client.batch_execute("ALTER TABLE outbox ALTER created_at TYPE timestamptz").await.unwrap();
    until_count(&client, "outbox", 0).await;
}

/// Two rows whose local times differ by an hour less than the retention, in a session of another zone, with and without an index.
#[tokio::test]
async fn times_whose_zone_is_stated_are_read_in_that_zone() {
    for index in ["SELECT 1", "CREATE INDEX ON outbox (created_at)"] {
        let mut stage = cleaning("zone").await;
        stage.source += "cleanup.retention_s = 7200\noutbox.created_at_zone = \"America/New_York\"\n";
        stage.sql(&format!("ALTER TABLE outbox ALTER created_at TYPE timestamp; {index}")).await;
        stage.sql(&format!("ALTER DATABASE \"{}\" SET timezone = 'Asia/Tokyo'", stage.name)).await;
        let mut inbox = stage.inbox(&["Order.events"]).await;
        let daemon = stage.relay_as_printed_role().await;
        let said = say(&daemon, &["check"]).await;
        assert!(said.status == 0 && said.stdout.contains("OK       cleanup"), "{}", said.stdout);
        let client = stage.client().await;
        for (payload, age) in [("1", "3 hours"), ("2", "1 hour")] {
            let row = format!(
                "INSERT INTO outbox (aggregatetype, aggregateid, type, payload, created_at) VALUES \
                 ('Order', 'a', 'OrderCreated', '{payload}', (now() - interval '{age}') AT TIME ZONE 'America/New_York')"
            );
            client.batch_execute(&row).await.unwrap();
        }
        assert_eq!(inbox.bodies(2).await, ["1", "2"]);
        eventually("the old row is gone", async || deleted(&daemon).await == 1).await;
        until_searched(&client).await;
        let left = client.query_one("SELECT payload::text FROM outbox", &[]).await.unwrap();
        assert_eq!(left.get::<_, String>(0), "2");
        assert!(!daemon.log().contains("clean-up removes no rows"), "{}", daemon.log());
    }
}

/// Rows found by an index are removed, too.
#[tokio::test]
async fn an_index_on_the_time_leads_to_the_old_rows() {
    let mut stage = cleaning("indexed").await;
    stage.source += "cleanup.retention_s = 3600\n";
    stage.sql("CREATE INDEX ON outbox (created_at)").await;
    stage.consume().await;
    let daemon = stage.relay_as_printed_role().await;
    let client = stage.client().await;
    let rows = "INSERT INTO outbox (aggregatetype, aggregateid, type, payload, created_at) \
                SELECT 'Order', n::text, 'OrderCreated', '1', now() - n % 2 * interval '1 day' FROM generate_series(1, 3000) n";
    client.batch_execute(rows).await.unwrap();
    until_count(&client, "outbox", 1500).await;
    assert_eq!(count(&client, "outbox WHERE created_at < now() - interval '1 hour'").await, 0);
    let (query, ..) = cleaner(&client).await.expect("it is there");
    println!("{query}");
    eventually("all of them are counted", async || deleted(&daemon).await == 1500).await;
}

/// Clean-up reconnects and finds the table again. Relaying continues meanwhile.
#[tokio::test]
async fn a_clean_up_that_loses_its_connection_or_its_table_goes_on_when_it_has_it_again() {
    let mut stage = cleaning("again").await;
    stage.consume().await;
    let daemon = stage.relay_as_printed_role().await;
    let client = stage.client().await;
    until_searched(&client).await;
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
               WHERE application_name = 'outboxd cleanup orders' AND datname = current_database()";
    assert_eq!(client.execute(end, &[]).await.unwrap(), 1);
    eventually("somebody is told", async || daemon.log().contains("clean-up removes no rows")).await;
    stage.write_row("a", 1, "OrderCreated").await;
    until_count(&client, "outbox", 0).await;

    // A row of a renamed table is published, and stays until clean-up finds the table.
    client.batch_execute("ALTER TABLE outbox RENAME TO elsewhere").await.unwrap();
    stage.workload.table = "elsewhere".to_owned();
    stage.write_row("a", 2, "OrderCreated").await;
    stage.verdict().await.assert_delivered(0);
    eventually("somebody is told", async || daemon.log().contains("does not exist or was renamed")).await;
    assert_eq!(count(&client, "elsewhere").await, 1);
    client.batch_execute("ALTER TABLE elsewhere RENAME TO outbox").await.unwrap();
    until_count(&client, "outbox", 0).await;
    let shown = until(&daemon, "orders", |shown| shown["deleted"] == 2).await;
    assert_eq!((&shown["state"], &shown["reconnects"]["postgres"]), (&"streaming".into(), &0.into()));
}

#[tokio::test]
async fn a_standby_removes_nothing() {
    let mut stage = cleaning("clean_standby").await;
    stage.consume().await;
    let mut leader = stage.relay_as_printed_role().await;
    let standby = stage.relay_as_printed_role().await;
    until_state(&standby, "orders", "standby").await;
    let client = stage.client().await;
    for _ in 0..3 {
        client.batch_execute(&insert("1")).await.unwrap();
        until_count(&client, "outbox", 0).await;
        let cleaners = "SELECT count(*) FROM pg_stat_activity \
                        WHERE application_name LIKE 'outboxd cleanup%' AND datname = current_database()";
        assert_eq!(client.query_one(cleaners, &[]).await.unwrap().get::<_, i64>(0), 1);
    }
    // Rows are counted after the transaction that removes them.
    eventually("the leader counts the rows", async || deleted(&leader).await == 3).await;
    assert_eq!(deleted(&standby).await, 0);
    leader.kill9().await;
    until_state(&standby, "orders", "streaming").await;
    client.batch_execute(&insert("1")).await.unwrap();
    until_count(&client, "outbox", 0).await;
    eventually("the successor counts the row", async || deleted(&standby).await == 1).await;
}

/// Clean-up removes rows in transactions of a bounded size, while writers write. Prints the rate. The rows are older than a slot
/// made by hand, and are declared published.
#[tokio::test]
async fn a_large_backlog_goes_in_small_batches() {
    const ROWS: i64 = 100_000;
    let postgres = Postgres::start(PostgresOptions::default()).await;
    let mut stage = Stage::on("clean_large", &postgres, shared_rabbitmq().await).await;
    stage.consume().await;
    stage
        .sql(&format!(
            "INSERT INTO outbox (aggregatetype, aggregateid, type, payload)
                 SELECT 'Order', n::text, 'OrderCreated', '1' FROM generate_series(1, {ROWS}) n;
             CREATE TABLE batches (rows bigint);
             CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
                 INSERT INTO public.batches SELECT count(*) FROM gone; RETURN NULL; END $$;
             CREATE TRIGGER note AFTER DELETE ON outbox REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION note();
             CREATE PUBLICATION outboxd_orders FOR TABLE outbox WITH (publish = 'insert')"
        ))
        .await;
    let client = stage.client().await;
    let slot = format!("SELECT pg_create_logical_replication_slot('{}', 'pgoutput')", stage.slot());
    client.batch_execute(&slot).await.unwrap();
    stage.source = DELETE.to_owned();
    let mut daemon = stage.relay_as_printed_role().await;
    stage.sql("UPDATE outboxd_state SET unaccounted = NULL").await;
    daemon.restart().await;
    daemon.wait_ready(PATIENCE).await;
    let writing = stage.keep_writing();
    eventually("it has begun", async || count(&client, "batches").await > 0).await;
    let (begun, first) = (Instant::now(), deleted(&daemon).await);
    eventually("they are gone", async || deleted(&daemon).await >= ROWS as usize).await;
    let took = begun.elapsed();
    writing.stop().await;
    println!("{:.0} rows removed a second", (ROWS as usize - first) as f64 / took.as_secs_f64());
    stage.verdict().await.assert_delivered(0);
    until_count(&client, "outbox", 0).await;
    let largest: i64 = client.query_one("SELECT max(rows) FROM batches", &[]).await.unwrap().get(0);
    println!("largest batch: {largest}");
    assert!(largest <= 1000, "{largest} rows in one transaction");
}
