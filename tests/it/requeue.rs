//! `outboxd parked`: parked rows are listed, published again in order, or discarded.

use hyper::Method;
use serde_json::Value;

use crate::{
    inbox::{Inbox, text, text_header},
    parked::{PARK, parked_rows, until_parked},
    stage::{PATIENCE, Said, Stage, eventually, say, until, until_alive, until_state},
};
use testkit::{Daemon, Direction, Proxy, consumer, shared_rabbitmq, unique};

/// A source that parks, without any bound queue.
async fn nobody_bound(test: &str) -> Stage {
    let mut stage = Stage::shared(test).await;
    stage.source = PARK.to_owned();
    stage.with_printed_role().await;
    stage
}

async fn parked(daemon: &Daemon, arguments: &[&str]) -> Said {
    say(daemon, &[&["parked", arguments[0], "--source", "orders"], &arguments[1..]].concat()).await
}

async fn listed(daemon: &Daemon) -> Vec<Value> {
    let said = parked(daemon, &["list", "--json"]).await;
    assert_eq!(said.status, 0);
    serde_json::from_str(&said.stdout).unwrap()
}

fn ids(deliveries: &[lapin::message::Delivery]) -> Vec<String> {
    deliveries.iter().map(|delivery| delivery.properties.message_id().clone().unwrap().to_string()).collect()
}

async fn receive(inbox: &mut Inbox, count: usize) -> Vec<lapin::message::Delivery> {
    let mut received = Vec::new();
    while received.len() < count {
        received.push(inbox.next().await);
    }
    received
}

#[tokio::test]
async fn parked_rows_of_an_aggregate_go_out_in_order_once_they_can_and_stay_together_until_then() {
    let stage = nobody_bound("requeue").await;
    let daemon = stage.relay_as_printed_role().await;
    let mut expected = Vec::new();
    for (aggregate, event_type) in [("a", "One"), ("b", "Two"), ("a", "Three"), ("a", "Four")] {
        expected.push(stage.write_unseen(aggregate, event_type).await);
    }
    until_parked(&stage, 4).await;
    let shown = listed(&daemon).await;
    assert_eq!(shown.iter().map(|row| row["message_id"].as_str().unwrap()).collect::<Vec<_>>(), expected);
    assert!(
        shown.iter().all(|row| row["cause"] == "unroutable" && row["exchange"] == "Order.events"),
        "{shown:?}"
    );
    let table = parked(&daemon, &["list"]).await;
    assert!(table.stdout.contains("Order/a") && table.stdout.lines().count() == 5, "{}", table.stdout);
    assert!(!table.stdout.contains("hidden"), "a payload is shown");

    // No queue is bound yet: the first row of each aggregate is tried, later ones are not.
    let said = parked(&daemon, &["requeue", "--all"]).await;
    assert!(said.status == 1 && said.stdout.ends_with("requeued: 0, still parked: 4\n"), "{}", said.stdout);
    assert_eq!(
        said.stdout.matches("an earlier row of its aggregate stays parked; discard or requeue").count(),
        2
    );
    assert_eq!(said.stdout.matches("no queue is bound").count(), 2);

    let mut inbox = stage.inbox(&["Order.events"]).await;
    // Alone, the third row would overtake the first.
    let said = parked(&daemon, &["requeue", &expected[2]]).await;
    assert!(said.status == 1 && said.stdout.contains("was not selected"), "{}", said.stdout);
    let said = parked(&daemon, &["requeue", "--all"]).await;
    assert!(said.status == 0 && said.stdout.ends_with("requeued: 4, still parked: 0\n"), "{}", said.stdout);
    let received = receive(&mut inbox, 4).await;
    assert_eq!(ids(&received), expected);
    for (delivery, row) in received.iter().zip(&shown) {
        assert_eq!(text_header(delivery, "outbox-position"), row["position"].as_str().unwrap());
        assert_eq!(text(delivery), "{\"secret\": \"hidden\"}");
    }
    assert!(listed(&daemon).await.is_empty());
    assert_eq!(parked(&daemon, &["list"]).await.stdout, "nothing is parked\n");
    until(&daemon, "orders", |shown| shown["parked_rows"] == 0).await;
    let said = parked(&daemon, &["requeue", "--all"]).await;
    assert!(said.status == 0 && said.stdout == "requeued: 0, still parked: 0\n", "{}", said.stdout);
    inbox.stays_empty().await;
}

/// More rows than one result may hold, with an id larger than all of them.
#[tokio::test]
async fn any_number_of_parked_rows_is_listed_and_discarded() {
    let stage = nobody_bound("many").await;
    let daemon = stage.relay_as_printed_role().await;
    stage.write_unseen("a", "One").await;
    until_parked(&stage, 1).await;
    let client = stage.client().await;
    let copies = "INSERT INTO outboxd_parked
        SELECT slot, upper(lpad(to_hex(n), 16, '0')) || '-00000000', cause, reason,
               CASE n WHEN 1 THEN repeat('x', 80000000) ELSE repeat('y', 30000) || n END, aggregate_type, aggregate_id,
               event_type, exchange, routing_key, committed_at, parked_at, column_names, column_types, column_values
        FROM outboxd_parked, generate_series(1, 3000) n";
    assert_eq!(client.execute(copies, &[]).await.unwrap(), 3000);
    let positions: Vec<String> =
        listed(&daemon).await.iter().map(|row| row["position"].as_str().unwrap().to_owned()).collect();
    assert_eq!(positions.len(), 3001);
    assert!(positions.is_sorted() && positions[2999].starts_with("0000000000000BB8-"), "{}", positions[2999]);
    assert_eq!(
        parked(&daemon, &["discard", &positions[0]]).await.stdout.lines().last(),
        Some("discarded: 1")
    );
}

#[tokio::test]
async fn a_row_that_was_or_may_have_been_overtaken_is_requeued_only_on_request() {
    let stage = nobody_bound("overtaken").await;
    let mut daemon = stage.relay_as_printed_role().await;
    let first = stage.write_unseen("a", "One").await;
    let other = stage.write_unseen("b", "One").await;
    until_parked(&stage, 2).await;
    let mut inbox = stage.inbox(&["Order.events"]).await;
    let later = stage.write_unseen("a", "Two").await;
    assert_eq!(ids(&receive(&mut inbox, 1).await), std::slice::from_ref(&later));

    let said = parked(&daemon, &["requeue", &first]).await;
    assert!(said.status == 1 && said.stdout.contains("has a later row of its aggregate"), "{}", said.stdout);
    assert!(said.stdout.contains(&later) && said.stdout.contains("--out-of-order"), "{}", said.stdout);
    // No column gives the order.
    stage.sql("ALTER TABLE outbox RENAME seq TO s; ALTER TABLE outbox RENAME created_at TO c").await;
    let said = parked(&daemon, &["requeue", &other]).await;
    assert!(
        said.status == 1 && said.stdout.contains("neither a sequence nor a created_at"),
        "{}",
        said.stdout
    );
    stage.sql("ALTER TABLE outbox RENAME s TO seq; ALTER TABLE outbox RENAME c TO created_at").await;
    stage.sql(&format!("DELETE FROM outbox WHERE id = '{other}'")).await;
    let said = parked(&daemon, &["requeue", &other]).await;
    assert!(said.status == 1 && said.stdout.contains("the row is no longer in"), "{}", said.stdout);
    inbox.stays_empty().await;

    let said = parked(&daemon, &["requeue", "--all", "--out-of-order"]).await;
    assert_eq!(said.status, 0);
    assert_eq!(ids(&receive(&mut inbox, 2).await), [first, other]);
    assert!(daemon.sigterm(PATIENCE).await.success());
}

#[tokio::test]
async fn discard_removes_what_is_named_and_two_commands_do_not_meet() {
    let stage = nobody_bound("discard").await;
    let daemon = stage.relay_as_printed_role().await;
    for (aggregate, event_type) in [("a", "One"), ("a", "Two"), ("b", "Three")] {
        stage.write_unseen(aggregate, event_type).await;
    }
    until_parked(&stage, 3).await;
    let shown = listed(&daemon).await;
    let field = |row: usize, name: &str| shown[row][name].as_str().unwrap().to_owned();

    let said = parked(&daemon, &["discard", "nothing-like-it", &field(0, "message_id")]).await;
    assert!(said.status == 1 && said.stderr.contains("not parked: nothing-like-it;"), "{}", said.stderr);
    assert_eq!(listed(&daemon).await.len(), 3, "a command with an unknown id must discard nothing");
    assert_eq!(parked(&daemon, &["discard"]).await.status, 2);

    let client = stage.client().await;
    let key = format!("hashtext('outboxd_parked'), hashtext('{}')", stage.slot());
    client.execute(&format!("SELECT pg_advisory_lock({key})"), &[]).await.unwrap();
    for command in ["requeue", "discard"] {
        let said = parked(&daemon, &[command, "--all"]).await;
        assert!(said.status == 1 && said.stderr.contains("a session holds its lock"), "{}", said.stderr);
    }
    client.execute(&format!("SELECT pg_advisory_unlock({key})"), &[]).await.unwrap();

    let (first, last) = (field(0, "message_id"), field(2, "position"));
    let said = parked(&daemon, &["discard", &first, &last]).await;
    assert!(said.status == 0 && said.stdout.ends_with("discarded: 2\n"), "{}", said.stdout);
    assert!(said.stdout.contains(&first) && said.stdout.contains(&last), "{}", said.stdout);
    // The earlier row is gone, so this row is in order.
    let mut inbox = stage.inbox(&["Order.events"]).await;
    assert_eq!(parked(&daemon, &["requeue", "--all"]).await.status, 0);
    assert_eq!(ids(&receive(&mut inbox, 1).await), [field(1, "message_id")]);
    assert_eq!(parked(&daemon, &["discard", "--all"]).await.stdout, "discarded: 0\n");
    assert_eq!(say(&daemon, &["parked", "list", "--source", "order"]).await.status, 2);
}

#[tokio::test]
async fn a_requeued_row_has_the_bytes_it_was_committed_with_and_the_configuration_of_now() {
    let mut stage = nobody_bound("bytes").await;
    stage.source += "delivery.message_bytes_max = 1000\n";
    stage.sql("ALTER TABLE outbox ALTER payload TYPE bytea USING NULL, ADD tenant text").await;
    let daemon = stage.relay_as_printed_role().await;
    let odd = "Ünï \\ \" ' \t\u{1F4A9}\u{202E}";
    let insert = format!(
        "INSERT INTO outbox (aggregatetype, aggregateid, type, payload, tenant) VALUES
         ('Order', $1, 'Bytes', decode(repeat('000a5c22ff80', 100), 'hex'), 'acme'),
         ('Order', 'large', 'Large', decode(repeat('00ff', {}), 'hex'), NULL)",
        100_000
    );
    stage.client().await.execute(&insert, &[&odd]).await.unwrap();
    until_parked(&stage, 2).await;
    let mut inbox = stage.inbox(&["Order.events", "acme.events"]).await;

    // The exchange comes from a column that is NULL in the second row, and there is one more header.
    let changed = |more: &str| {
        let config = stage.config().replace("delivery.message_bytes_max = 1000\n", more);
        Daemon::prepare(&config)
    };
    let templates =
        "message.exchange = \"{column:tenant}.events\"\nmessage.headers.tenant = \"{column:tenant}\"\n";
    let said =
        parked(&changed(&format!("{templates}delivery.message_bytes_max = 1000\n")), &["requeue", "--all"])
            .await;
    assert!(said.status == 1 && said.stdout.contains("requeued: 1, still parked: 1"), "{}", said.stdout);
    let delivery = inbox.next().await;
    assert_eq!(delivery.exchange.as_str(), "acme.events");
    assert_eq!(delivery.data, b"\x00\x0a\x5c\x22\xff\x80".repeat(100));
    assert_eq!(
        (text_header(&delivery, "aggregate-id"), text_header(&delivery, "tenant")),
        (odd.to_owned(), "acme".to_owned())
    );

    // The reason is that of the last attempt.
    let shown = listed(&daemon).await;
    assert!(
        shown.len() == 1 && shown[0]["reason"].as_str().unwrap().contains("{column:tenant}"),
        "{shown:?}"
    );
    let said = parked(&changed(""), &["requeue", "--all"]).await;
    assert_eq!(said.status, 0, "{}", said.stdout);
    assert_eq!(inbox.next().await.data, b"\x00\xff".repeat(100_000));
    inbox.stays_empty().await;
}

const REQUEUE_ALL: [&str; 5] = ["parked", "requeue", "--source", "orders", "--all"];

/// The same configuration, with a proxy before the broker.
fn behind_a_proxy(stage: &Stage) -> (Proxy, Daemon) {
    let broker: u16 = stage.amqp_url.rsplit_once(':').unwrap().1.split_once('/').unwrap().0.parse().unwrap();
    let proxy = Proxy::start(broker);
    let config = stage.config().replace(&format!(":{broker}/"), &format!(":{}/", proxy.port()));
    (proxy, Daemon::prepare(&config))
}

/// Killed before the confirm: the row stays, and the next requeue sends a copy with the same id.
#[tokio::test]
async fn a_requeue_that_is_killed_loses_nothing() {
    let stage = nobody_bound("requeue_kill").await;
    let daemon = stage.relay_as_printed_role().await;
    let mut expected = Vec::new();
    for number in 0..20 {
        expected.push(stage.write_unseen("a", &format!("Type{number}")).await);
    }
    until_parked(&stage, expected.len()).await;
    let mut inbox = stage.inbox(&["Order.events"]).await;
    let (proxy, through) = behind_a_proxy(&stage);
    let mut requeueing = through.begin_command(&REQUEUE_ALL);
    let mut received = ids(&receive(&mut inbox, 3).await);
    // The command publishes, and no confirm arrives.
    proxy.stall_only(Direction::ToClient);
    requeueing.start_kill().unwrap();
    requeueing.wait().await.unwrap();
    let client = stage.client().await;
    eventually("the lock is free", async || parked(&daemon, &["requeue", "--all"]).await.status == 0).await;
    assert!(parked_rows(&client).await.is_empty());
    while received.last() != expected.last() {
        received.push(ids(&receive(&mut inbox, 1).await).remove(0));
    }
    let copies = received.len() - expected.len();
    received.dedup();
    assert_eq!(received, expected, "each in order, a copy next to its first");
    assert!(copies <= 1, "at most what was on its way: {copies}");
}

/// The publisher declared the exchange for the first row, and does not know that it was deleted.
#[tokio::test]
async fn an_exchange_that_goes_during_a_requeue_is_declared_anew_and_the_row_tried_once_more() {
    let stage = nobody_bound("requeue_exchange").await;
    let daemon = stage.relay_as_printed_role().await;
    let mut expected = Vec::new();
    // Each row has its own aggregate.
    for number in 0..20 {
        expected.push(stage.write_unseen(&format!("a{number}"), "OrderCreated").await);
    }
    until_parked(&stage, expected.len()).await;
    let mut inbox = stage.inbox(&["Order.events"]).await;
    let (proxy, through) = behind_a_proxy(&stage);
    let requeueing = through.begin_command(&REQUEUE_ALL);
    let mut received = ids(&receive(&mut inbox, 1).await);
    // Without a confirm, the command publishes one more message at most.
    proxy.stall_only(Direction::ToClient);
    let exchange = format!("/api/exchanges/{}/Order.events", stage.name);
    shared_rabbitmq().await.api(Method::DELETE, &exchange, Value::Null).await;
    proxy.resume();
    let ended = requeueing.wait_with_output().await.unwrap();
    let said = String::from_utf8(ended.stdout).unwrap();
    assert_eq!(ended.status.code(), Some(1), "{said}{}", String::from_utf8_lossy(&ended.stderr));
    // The first attempt is refused for the exchange. The second finds the exchange, without a queue.
    let stay: Vec<_> =
        said.lines().filter(|line| line.contains("Order/") && !line.ends_with("requeued")).collect();
    assert!(!stay.is_empty() && stay.len() < expected.len(), "{said}");
    assert!(stay.iter().all(|line| line.contains("no queue is bound")), "{said}");

    consumer::bind(&stage.amqp_url, "Order.events", &stage.name, "#").await;
    let said = parked(&daemon, &["requeue", "--all"]).await;
    assert!(said.status == 0 && said.stdout.ends_with("still parked: 0\n"), "{}", said.stdout);
    received.extend(ids(&receive(&mut inbox, expected.len() - 1).await));
    assert_eq!(received, expected, "each once, in order");
    inbox.stays_empty().await;
}

#[tokio::test]
async fn a_halted_source_says_why_everywhere_and_parks_after_a_restart_with_that_policy() {
    let mut stage = Stage::shared("halted_then_parked").await;
    stage.source = "delivery.backoff_min_ms = 20\ndelivery.backoff_max_ms = 100\n".to_owned();
    stage.consume_only("OrderChanged").await;
    let mut daemon = stage.relay_as_printed_role().await;
    stage.write_row("a", 1, "OrderChanged").await;
    stage.verdict().await.assert_delivered(0);
    let id = stage.write_unseen("a", "OrderCreated").await;
    let reason = until_state(&daemon, "orders", "halted").await;
    for part in [&*id, "bind one and outboxd goes on by itself", "\"park\""] {
        assert!(reason.contains(part), "{part}: {reason}");
    }
    let (status, ready) = daemon.readyz().await;
    assert!(status == 503 && ready.contains(&reason), "{status} {ready}");
    let shown = say(&daemon, &["status"]).await;
    assert!(shown.stdout.contains("halted") && shown.stdout.contains(&reason), "{}", shown.stdout);
    let halted = daemon.metric("outboxd_source_state{source=\"orders\",state=\"halted\"}").await;
    assert_eq!(halted, Some(1.0));
    assert!(daemon.log().contains("source is halted") && daemon.log().contains(&id), "{}", daemon.log());
    stage.write_row("a", 2, "OrderChanged").await;

    assert!(daemon.sigterm(PATIENCE).await.success());
    let config = std::fs::read_to_string(daemon.config_file()).unwrap();
    std::fs::write(
        daemon.config_file(),
        config
            .replace("delivery.backoff_min_ms", "delivery.on_unroutable = \"park\"\ndelivery.backoff_min_ms"),
    )
    .unwrap();
    stage.source = format!("delivery.on_unroutable = \"park\"\n{}", stage.source);
    stage.run_printed_sql().await;
    daemon.start_again();
    daemon.wait_ready(PATIENCE).await;
    stage.verdict().await.assert_delivered(0);
    until_parked(&stage, 1).await;
    assert_eq!(parked_rows(&stage.client().await).await[0].0, Some(id));
    // `teardown` drops the slot, and parked rows stay.
    assert!(daemon.sigterm(PATIENCE).await.success());
    let said = say(&daemon, &["teardown", "--source", "orders"]).await;
    assert!(
        said.status == 0 && said.stdout.contains("parked messages: 1 stay in outboxd_parked"),
        "{}",
        said.stdout
    );
    let said = say(&daemon, &["status"]).await;
    assert!(said.stdout.contains("PARKED") && said.status == 1, "{}", said.stdout);
}

#[tokio::test]
async fn the_printed_role_may_park_and_what_it_lacks_is_told_with_a_cure() {
    let mut stage = Stage::shared("park_role").await;
    stage.source = format!("{PARK}postgres.create = false\nbacklog = \"skip\"\n");
    let role = unique("outboxd");
    let superuser = stage.postgres_url.clone();
    stage.postgres_url = superuser.replace("postgres@", &format!("{role}@"));
    let mut daemon = Daemon::prepare(&stage.config());
    stage.postgres_url = superuser;
    let script = say(&daemon, &["setup", "--print-sql"]).await.stdout;
    stage.sql("REVOKE ALL ON SCHEMA public FROM public").await;
    // The statement that creates the slot needs its own transaction.
    let (statements, slot) = script.split_once("SELECT pg_catalog.pg_create").unwrap();
    stage.sql(statements).await;
    stage.sql(&format!("SELECT pg_catalog.pg_create{}", slot.lines().next().unwrap())).await;
    assert_eq!(say(&daemon, &["check"]).await.status, 0);

    stage.sql(&format!("REVOKE INSERT ON outboxd_parked FROM \"{role}\"")).await;
    let said = say(&daemon, &["check"]).await;
    let grant =
        format!("GRANT SELECT, INSERT, UPDATE, DELETE ON \"public\".\"outboxd_parked\" TO \"{role}\";");
    assert!(
        said.status == 1 && said.stdout.contains("may not read and write table outboxd_parked"),
        "{}",
        said.stdout
    );
    assert!(said.stdout.contains(&grant), "{}", said.stdout);
    daemon.start_again();
    until_alive(&daemon).await;
    until(&daemon, "orders", |shown| shown["reason"].to_string().contains("may not read and write")).await;
    stage.sql(&grant).await;
    daemon.wait_ready(PATIENCE).await;
    stage.write_unseen("a", "One").await;
    until_parked(&stage, 1).await;

    // The privilege is revoked while the daemon runs.
    stage.sql(&format!("REVOKE INSERT ON outboxd_parked FROM \"{role}\"")).await;
    stage.write_unseen("a", "Two").await;
    let reason = until_state(&daemon, "orders", "halted").await;
    assert!(
        reason.contains("42501") && reason.contains("`outboxd check` prints the missing GRANT"),
        "{reason}"
    );
    assert_eq!(daemon.readyz().await.0, 503);
    stage.sql(&grant).await;
    until_parked(&stage, 2).await;
    assert!(daemon.log().contains("permission denied"), "{}", daemon.log());
    assert_eq!(daemon.reconnects("orders", "postgres").await, 0);
    let _inbox = stage.inbox(&["Order.events"]).await;
    assert_eq!(parked(&daemon, &["requeue", "--all"]).await.status, 0);
    assert!(daemon.sigterm(PATIENCE).await.success());
    assert_eq!(say(&daemon, &["teardown", "--source", "orders"]).await.status, 0);
    stage.sql(&format!("DROP OWNED BY \"{role}\"; DROP ROLE \"{role}\"")).await;
}
