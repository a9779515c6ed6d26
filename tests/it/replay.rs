//! `outboxd replay`: the same messages again, marked, in order, beside a running relay.

use lapin::{message::Delivery, types::AMQPValue};

use crate::{
    inbox::{Inbox, header, text, text_header},
    stage::{PATIENCE, Said, Stage, eventually, say, source},
};
use testkit::{Daemon, Proxy, process};

const REPLAY: &[&str] = &["replay", "--source", "orders"];

/// Relays rows of two aggregates, a day apart, whose `seq` runs against their order in the table.
async fn relayed(test: &str, rows: i64) -> (Stage, Daemon, Inbox) {
    let mut stage = Stage::shared(test).await;
    stage.with_printed_role().await;
    let mut inbox = stage.inbox(&["Order.events"]).await;
    let daemon = stage.relay_as_printed_role().await;
    stage
        .sql(&format!(
            "INSERT INTO outbox (aggregatetype, aggregateid, type, payload, headers, seq, created_at)
             OVERRIDING SYSTEM VALUE
             SELECT 'Order', 'a/' || n % 2, 'OrderCreated', to_jsonb(n), '{{\"tenant\": \"t\"}}', n,
                    timestamptz '2026-01-01T00:00:00Z' + n * interval '1 day'
             FROM generate_series({rows}, 1, -1) n"
        ))
        .await;
    for _ in 0..rows {
        assert_eq!(header(&inbox.next().await, "outbox-replayed"), None);
    }
    (stage, daemon, inbox)
}

/// The next messages as numbers; each must be marked as replayed.
async fn replayed(inbox: &mut Inbox, count: usize) -> Vec<(i64, Delivery)> {
    let mut deliveries = Vec::new();
    while deliveries.len() < count {
        let delivery = inbox.next().await;
        assert_eq!(header(&delivery, "outbox-replayed"), Some(AMQPValue::Boolean(true)));
        deliveries.push((text(&delivery).parse().unwrap(), delivery));
    }
    deliveries
}

fn numbers(deliveries: &[(i64, Delivery)]) -> Vec<i64> {
    deliveries.iter().map(|(number, _)| *number).collect()
}

#[tokio::test]
async fn rows_come_again_marked_and_in_sequence_while_outboxd_runs() {
    let (stage, daemon, mut inbox) = relayed("replay", 20).await;
    let slot = "SELECT confirmed_flush_lsn::text, active_pid FROM pg_replication_slots WHERE slot_name = $1";
    let client = stage.client().await;
    let pid: Option<i32> = client.query_one(slot, &[&stage.slot()]).await.unwrap().get(1);
    let said = say(&daemon, REPLAY).await;
    assert_eq!(said.status, 0);
    assert_eq!(said.stdout, "rows published again and confirmed: 20 (order: by the sequence column)\n");
    let all = replayed(&mut inbox, 20).await;
    assert_eq!(numbers(&all), (1..=20).collect::<Vec<_>>());
    let id = "SELECT id::text FROM outbox WHERE seq = 7";
    let id: String = client.query_one(id, &[]).await.unwrap().get(0);
    let (_, seventh) = &all[6];
    assert_eq!(seventh.properties.message_id().as_ref().map(ToString::to_string), Some(id));
    assert_eq!(seventh.routing_key.as_str(), "OrderCreated");
    for (name, value) in [
        ("tenant", "t"),
        ("aggregate-id", "a/1"),
        ("outbox-source", "orders"),
        ("event-type", "OrderCreated"),
    ] {
        assert_eq!(text_header(seventh, name), value);
    }
    let positions: Vec<String> = all.iter().map(|(_, d)| text_header(d, "outbox-position")).collect();
    assert!(positions.is_sorted() && positions[0] < positions[19], "{positions:?}");

    // The relay was not disturbed.
    assert_eq!(client.query_one(slot, &[&stage.slot()]).await.unwrap().get::<_, Option<i32>>(1), pid);
    assert_eq!(source(&daemon, "orders").await["confirmed"], 20);
    stage
        .sql(
            "INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES ('Order', 'b', 'E', '21')",
        )
        .await;
    let live = inbox.next().await;
    assert_eq!((text(&live).as_str(), header(&live, "outbox-replayed")), ("21", None));
    assert!(text_header(&live, "outbox-position") > positions[19], "what commits later sorts behind");
    inbox.stays_empty().await;
}

/// Could fail only on an idle server, so it is best run alone.
#[tokio::test]
async fn two_replays_have_different_positions_although_nothing_was_written_between_them() {
    let (_stage, daemon, mut inbox) = relayed("replay_twice", 1).await;
    let mut positions = Vec::new();
    for _ in 0..2 {
        assert_eq!(say(&daemon, REPLAY).await.status, 0);
        positions.push(text_header(&replayed(&mut inbox, 1).await[0].1, "outbox-position"));
    }
    assert!(positions[0] < positions[1], "a consumer would take one for a copy of the other: {positions:?}");
}

#[tokio::test]
async fn since_and_aggregate_select_and_nothing_is_no_failure() {
    let (_stage, daemon, mut inbox) = relayed("select", 20).await;
    let replay = async |more: &[&str]| say(&daemon, &[REPLAY, more].concat()).await;
    let since = ["--since", "2026-01-19T01:00:00+01:00"];
    let aggregate = ["--aggregate", "Order/a/1"];
    for (options, expected) in [
        (since.to_vec(), vec![18, 19, 20]),
        ([since, aggregate].concat(), vec![19]),
        (aggregate.to_vec(), (1..=19).step_by(2).collect()),
        (vec!["--aggregate", "Order/it's"], vec![]),
        (vec!["--since", "2027-01-01T00:00:00Z"], vec![]),
    ] {
        let said = replay(&options).await;
        let count = expected.len();
        assert!(said.stdout.starts_with(&format!("rows published again and confirmed: {count} ")));
        assert_eq!((said.status, numbers(&replayed(&mut inbox, count).await)), (0, expected));
    }
    for bad in [["--since", "yesterday"], ["--aggregate", "Order"], ["--source", "order"]] {
        let said =
            say(&daemon, &[if bad[0] == "--source" { &REPLAY[..1] } else { REPLAY }, &bad].concat()).await;
        assert_eq!((said.status, said.stdout.as_str()), (2, ""), "{}", said.stderr);
    }
    inbox.stays_empty().await;
}

#[tokio::test]
async fn without_a_sequence_created_at_orders_and_without_both_it_says_so() {
    let (stage, daemon, mut inbox) = relayed("order", 10).await;
    stage.sql("ALTER TABLE outbox DROP COLUMN seq").await;
    assert!(say(&daemon, REPLAY).await.stdout.contains("by created_at"));
    assert_eq!(numbers(&replayed(&mut inbox, 10).await), (1..=10).collect::<Vec<_>>());
    stage.sql("ALTER TABLE outbox DROP COLUMN created_at").await;
    assert!(say(&daemon, REPLAY).await.stdout.contains("neither a sequence nor a created_at column"));
    assert_eq!(replayed(&mut inbox, 10).await.len(), 10);
    let said = say(&daemon, &[REPLAY, &["--since", "2026-01-01T00:00:00Z"]].concat()).await;
    assert!(said.status == 1 && said.stderr.contains("outbox.columns.created_at"), "{}", said.stderr);
    inbox.stays_empty().await;
}

#[tokio::test]
async fn sigterm_ends_a_replay_in_order_and_it_says_how_far_it_came() {
    const ROWS: i64 = 5000;
    let (stage, daemon, mut inbox) = relayed("sigterm", ROWS).await;
    let broker = stage.amqp_url.rsplit_once(':').unwrap().1.split_once('/').unwrap().0.to_owned();
    let proxy = Proxy::start(broker.parse().unwrap());
    proxy.throttle(200_000);
    let config = format!("drain_timeout_s = {}\n{}", PATIENCE.as_secs(), stage.config());
    let slow = Daemon::prepare(&config.replace(&format!(":{broker}/"), &format!(":{}/", proxy.port())));
    let replaying = slow.begin_command(REPLAY);
    let pid = replaying.id().expect("it runs");
    let first = replayed(&mut inbox, 100).await;
    process::signal(&[pid], "TERM");
    let said = Said::from(replaying.wait_with_output().await.unwrap());
    println!("{}{}", said.stdout, said.stderr);
    assert_eq!(said.status, 1);
    let count: usize = said.stdout.split_whitespace().nth(5).and_then(|count| count.parse().ok()).unwrap();
    assert!((100..ROWS as usize).contains(&count), "{count} rows");
    assert!(said.stderr.contains(&format!(": the first {count} are confirmed;")), "{}", said.stderr);
    // Exactly the rest.
    let rest = replayed(&mut inbox, count - 100).await;
    assert_eq!([numbers(&first), numbers(&rest)].concat(), (1..=count as i64).collect::<Vec<_>>());
    inbox.stays_empty().await;
    eventually("the relay goes on", async || daemon.readyz().await.0 == 200).await;
}
