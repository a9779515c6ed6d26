//! Two instances of one source: one publishes, the other waits and takes over, and never do both publish.
//!
//! Each instance logs in as its own user, and the broker's trace shows whose messages it accepted, in which order.

use std::time::{Duration, Instant};

use hyper::Method;
use serde_json::json;

use crate::{
    recovery::{IN_FLIGHT_MAX, kill_9},
    stage::{PATIENCE, Stage, alive, eventually, say, source, until, until_alive, until_state},
    trace::Trace,
};
use testkit::{Daemon, Direction, Proxy, RabbitMq, RabbitMqOptions, shared_postgres, shared_rabbitmq};

const FLOW: usize = 100;
const USERS: [&str; 2] = ["first", "second"];
/// Permission for everything but the fence.
const NO_FENCE: &str = r"^(?!outboxd\.publisher\.).*";

/// Two instances with different users at the broker. The links of the first can be disturbed.
struct Pair {
    stage: Stage,
    trace: Trace,
    first: Daemon,
    second: Daemon,
    postgres: Proxy,
    broker: Proxy,
}

impl Pair {
    /// Starts both: the first streams, the second stands by. `configure` is the configure permission of both users.
    async fn start(test: &str, heartbeat_s: u32, configure: &str, change: impl FnOnce(&mut Stage)) -> Self {
        let node = shared_rabbitmq().await;
        let mut stage = Stage::shared(test).await;
        // Few aggregates, and a distant broker: the leader always holds messages that wait for their turn.
        stage.workload.aggregates = 3;
        stage.workload.pause = Duration::from_millis(5);
        stage.source = format!(
            "delivery.in_flight_max = {IN_FLIGHT_MAX}\npostgres.wal_sender_timeout_ms = 1500\n\
             delivery.backoff_max_ms = 500"
        );
        stage.rabbitmq = format!("heartbeat_s = {heartbeat_s}\nconfirm_timeout_ms = 3000");
        change(&mut stage);
        stage.with_printed_role().await;
        for user in USERS {
            let user = format!("{user}_{}", stage.name);
            node.create_user(&user, "secret").await;
            node.allow(&user, &stage.name, [configure, ".*", ".*"]).await;
        }
        let trace = Trace::start(node, &stage.name).await;
        let (postgres, broker) = (Proxy::start(shared_postgres().await.port()), Proxy::start(node.port()));
        let login =
            |config: String, user| config.replace("guest:guest", &format!("{user}_{}:secret", stage.name));
        let first = Daemon::start(&login(stage.config_through(&postgres, &broker), "first"));
        until_alive(&first).await;
        until_state(&first, "orders", "streaming").await;
        let second = alive(&login(stage.config(), "second")).await;
        let reason = until_state(&second, "orders", "standby").await;
        assert!(reason.contains("another instance has the slot"), "{reason}");
        assert_eq!(second.readyz().await.0, 200);
        Self { stage, trace, first, second, postgres, broker }
    }

    /// Waits until the broker accepts a message of the second instance. Returns the time since `since`.
    async fn second_publishes(&self, since: Instant) -> Duration {
        let began = || {
            let turns = self.trace.turns();
            turns.iter().rfind(|turn| turn.user.starts_with("second")).map(|turn| turn.began)
        };
        eventually("the second publishes", async || began().is_some_and(|began| began >= since)).await;
        began().expect("a publish of the second instance").saturating_duration_since(since)
    }

    /// Drains and ends the second instance, so that the first takes over, and starts the second again.
    async fn hand_back(&mut self) {
        assert!(self.second.sigterm(PATIENCE).await.success());
        until_state(&self.first, "orders", "streaming").await;
        self.second.start_again();
        until_alive(&self.second).await;
        until_state(&self.second, "orders", "standby").await;
    }
}

async fn pair(test: &str, heartbeat_s: u32) -> Pair {
    Pair::start(test, heartbeat_s, ".*", |_| ()).await
}

#[tokio::test]
async fn a_standby_takes_over_from_a_killed_leader_and_from_one_that_drains() {
    let mut stage = Stage::shared("standby").await;
    stage.workload.pause = Duration::from_millis(5);
    stage.source = format!("delivery.in_flight_max = {IN_FLIGHT_MAX}");
    stage.consume().await;
    let mut first = stage.relay_as_printed_role().await;
    let mut second = stage.relay_as_printed_role().await;
    let standby = until(&second, "orders", |shown| shown["state"] == "standby").await;
    assert!(standby["reason"].as_str().unwrap().contains("another instance has the slot"), "{standby}");
    assert_eq!(second.readyz().await.0, 200);
    assert_eq!(source(&first, "orders").await["state"], "streaming");

    let writing = stage.keep_writing();
    stage.receive_more(300).await;
    let allowed = kill_9(&stage, &mut first).await;
    let killed = Instant::now();
    until(&second, "orders", |shown| shown["state"] == "streaming").await;
    let took = killed.elapsed();
    println!("taken over within {took:?}");
    assert!(took < Duration::from_secs(5), "the standby took over after {took:?}");
    stage.receive_more(300).await;
    let repeated = stage.oracle.verdict().duplicates;
    println!("{repeated} repeated, {allowed} allowed");
    assert!(repeated <= allowed, "{repeated} repeated, {allowed} allowed");

    first.start_again();
    first.wait_ready(PATIENCE).await;
    until(&first, "orders", |shown| shown["state"] == "standby").await;
    stage.receive_more(200).await;
    assert!(second.sigterm(PATIENCE).await.success());
    until(&first, "orders", |shown| shown["state"] == "streaming").await;
    stage.receive_more(200).await;
    writing.stop().await;
    stage.verdict().await.assert_delivered(repeated);
}

#[tokio::test]
async fn of_two_instances_started_at_once_one_publishes_the_backlog() {
    let mut stage = Stage::shared("two").await;
    stage.workload.transactions = 800;
    stage.write().await;
    stage.source = "delivery.in_flight_max = 32".to_owned();
    stage.consume().await;
    let config = stage.run_printed_sql().await;
    let mut daemons = [Daemon::start(&config), Daemon::start(&config)];
    for daemon in &mut daemons {
        daemon.wait_ready(PATIENCE).await;
    }
    stage.verdict().await.assert_delivered(0);
    let [one, other] = &daemons;
    eventually("one streams and the other stands by", async || one_streams(one, other).await).await;

    // The instance that waited does not publish the backlog when it takes over.
    let leader = usize::from(source(other, "orders").await["state"] == "streaming");
    daemons[leader].kill9().await;
    until(&daemons[1 - leader], "orders", |shown| shown["state"] == "streaming").await;
    stage.write_row("late", 1, "OrderCreated").await;
    stage.verdict().await.assert_delivered(0);
}

#[tokio::test]
async fn a_killed_leader_is_followed_at_once() {
    let mut pair = pair("followed", 10).await;
    pair.stage.consume().await;
    let writing = pair.stage.keep_writing();
    let mut took = Vec::new();
    for _ in 0..5 {
        pair.stage.receive_more(FLOW).await;
        let killed = Instant::now();
        pair.first.kill9().await;
        took.push(pair.second_publishes(killed).await);
        pair.first.start_again();
        until_alive(&pair.first).await;
        until_state(&pair.first, "orders", "standby").await;
        pair.hand_back().await;
    }
    took.sort();
    println!("kill -9 to the successor's first message: median {:?} of {took:?}", took[2]);
    writing.stop().await;
    assert!(pair.stage.verdict().await.keeps_promises());
    pair.trace.assert_one_at_a_time();
}

#[tokio::test]
async fn a_frozen_leader_publishes_nothing_after_its_successor() {
    let mut pair = pair("frozen", 1).await;
    pair.stage.consume().await;
    pair.broker.delay(Direction::ToClient, Duration::from_millis(20));
    let writing = pair.stage.keep_writing();
    let mut took = Vec::new();
    for _ in 0..3 {
        pair.stage.receive_more(FLOW).await;
        let frozen = Instant::now();
        pair.first.suspend();
        took.push(pair.second_publishes(frozen).await);
        pair.stage.receive_more(FLOW).await;
        pair.first.resume();
        until_state(&pair.first, "orders", "standby").await;
        pair.stage.receive_more(FLOW).await;
        pair.hand_back().await;
    }
    took.sort();
    println!("SIGSTOP to the successor's first message: median {:?} of {took:?}", took[1]);
    writing.stop().await;
    // The verdict need not wait for messages behind the slow link.
    pair.broker.delay(Direction::ToClient, Duration::ZERO);
    assert!(pair.stage.verdict().await.keeps_promises());
    pair.trace.assert_one_at_a_time();
}

/// The slot is free long before the broker misses the first heartbeat.
#[tokio::test]
async fn a_leader_that_goes_on_before_the_broker_gave_it_up_is_waited_for() {
    let mut pair = pair("goeson", 20).await;
    pair.stage.consume().await;
    pair.broker.delay(Direction::ToClient, Duration::from_millis(50));
    let writing = pair.stage.keep_writing();
    pair.stage.receive_more(FLOW).await;
    pair.first.suspend();
    let waits = until(&pair.second, "orders", |shown| {
        shown["state"] == "standby"
            && shown["reason"].as_str().is_some_and(|reason| reason.contains("RESOURCE_LOCKED"))
    })
    .await;
    let queue = format!("outboxd.publisher.{}.", pair.stage.slot());
    assert!(waits["reason"].as_str().unwrap().contains(&queue), "{waits}");
    // Longer than the server tolerates silence of the instance that has the slot and waits for the fence.
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(pair.second.reconnects("orders", "postgres").await, 0);
    assert_eq!(pair.second.count("orders", "messages_published_total").await, 0);
    assert_eq!(pair.second.readyz().await.0, 200);

    pair.first.resume();
    until_state(&pair.second, "orders", "streaming").await;
    until_state(&pair.first, "orders", "standby").await;
    pair.stage.receive_more(FLOW).await;
    writing.stop().await;
    // The verdict need not wait for messages behind the slow link.
    pair.broker.delay(Direction::ToClient, Duration::ZERO);
    assert!(pair.stage.verdict().await.keeps_promises());
    pair.trace.assert_one_at_a_time();
}

/// Deleted by hand, or by a program that removes queues.
#[tokio::test]
async fn a_fence_that_is_deleted_under_way_is_taken_anew() {
    let mut pair = pair("swept", 10).await;
    pair.stage.consume().await;
    let node = shared_rabbitmq().await;
    let fences = async || -> Vec<String> {
        let listed = node.ctl(&["list_queues", "-q", "-p", &pair.stage.name, "name", "pid"]).await;
        listed.lines().filter(|line| line.starts_with("outboxd.publisher.")).map(str::to_owned).collect()
    };
    let before = fences().await;
    assert_eq!(before.len(), 1, "{before:?}");
    let queue = before[0].split_whitespace().next().unwrap();
    // A message in the queue does no harm.
    let path = format!("/api/exchanges/{}/amq.default/publish", pair.stage.name);
    let message =
        json!({ "routing_key": queue, "payload": "x", "payload_encoding": "string", "properties": {} });
    assert_eq!(node.api(Method::POST, &path, message).await["routed"], true);
    pair.stage.write_row("before", 1, "OrderCreated").await;
    eventually("the first row arrives", async || pair.stage.oracle.distinct_count() == 1).await;
    let delete = format!(
        "{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<\"{}\">>, queue, <<\"{queue}\">>)), \
         rabbit_amqqueue:delete(Q, false, false, <<\"test\">>).",
        pair.stage.name
    );
    println!("{}", node.eval(&delete).await);
    eventually("the fence is taken anew", async || {
        let now = fences().await;
        now.len() == 1 && now != before
    })
    .await;
    let log = pair.first.log() + &pair.second.log();
    assert!(log.contains("which keeps other instances from publishing, was deleted"), "{log}");
    pair.stage.write_row("after", 1, "OrderCreated").await;
    assert!(pair.stage.verdict().await.keeps_promises());
    pair.trace.assert_one_at_a_time();
}

/// The same without the permission for the fence: proves that the trace sees overlapping publishers.
#[tokio::test]
async fn without_a_fence_two_publish_at_the_same_time() {
    let mut pair = Pair::start("unfenced", 20, NO_FENCE, |_| ()).await;
    pair.stage.consume().await;
    pair.broker.delay(Direction::ToClient, Duration::from_millis(50));
    let writing = pair.stage.keep_writing();
    for _ in 0..10 {
        pair.stage.receive_more(FLOW).await;
        let frozen = Instant::now();
        pair.first.suspend();
        pair.second_publishes(frozen).await;
        pair.first.resume();
        until_state(&pair.first, "orders", "standby").await;
        pair.hand_back().await;
        if pair.trace.overlaps() > 0 {
            break;
        }
    }
    assert!(pair.trace.overlaps() > 0, "the trace shows no overlap: {:#?}", pair.trace.turns());
    writing.stop().await;
    // The verdict need not wait for messages behind the slow link.
    pair.broker.delay(Direction::ToClient, Duration::ZERO);
    assert!(pair.stage.verdict().await.keeps_promises());

    let warnings = pair.first.log().matches("publishing without a fence").count();
    assert_eq!(warnings, 1, "{}", pair.first.log());
    let checked = say(&pair.second, &["check"]).await;
    assert_eq!(checked.status, 0, "{}", checked.stdout);
    assert!(checked.stdout.contains("  warning  queue 'outboxd.publisher."), "{}", checked.stdout);
    assert!(checked.stdout.contains("rabbitmqctl set_permissions"), "{}", checked.stdout);
}

#[tokio::test]
async fn a_leader_that_is_cut_off_makes_way() {
    let mut pair = pair("cutoff", 1).await;
    pair.stage.consume().await;
    let writing = pair.stage.keep_writing();
    for (what, postgres, broker) in
        [("PostgreSQL", true, false), ("RabbitMQ", false, true), ("both", true, true)]
    {
        pair.stage.receive_more(FLOW).await;
        let cut = Instant::now();
        if postgres {
            pair.postgres.stall();
        }
        if broker {
            pair.broker.stall();
        }
        let took = pair.second_publishes(cut).await;
        println!("link to {what} dropped to the successor's first message: {took:?}");
        pair.stage.receive_more(FLOW).await;
        pair.postgres.resume();
        pair.broker.resume();
        until_state(&pair.first, "orders", "standby").await;
        pair.hand_back().await;
    }
    writing.stop().await;
    assert!(pair.stage.verdict().await.keeps_promises());
    pair.trace.assert_one_at_a_time();
}

/// The successor publishes the lost messages in flight, so the former leader ends like a standby, with exit status 0.
#[tokio::test]
async fn a_standby_that_lost_the_slot_with_messages_in_flight_has_nothing_left_to_drain() {
    let mut pair = pair("lostit", 1).await;
    pair.stage.consume().await;
    let writing = pair.stage.keep_writing();
    pair.stage.receive_more(FLOW).await;
    // First the broker's answers stop, so that messages are unconfirmed when the slot is lost.
    pair.broker.stall_only(Direction::ToClient);
    let in_flight = async || pair.first.count("orders", "in_flight_messages").await;
    eventually("messages are in flight", async || in_flight().await > 0).await;
    let cut = Instant::now();
    pair.postgres.stall();
    pair.second_publishes(cut).await;
    pair.postgres.resume();
    pair.broker.resume();
    until_state(&pair.first, "orders", "standby").await;
    let status = pair.first.sigterm(PATIENCE).await;
    assert!(status.success(), "{status}: {}", pair.first.log());
    pair.stage.receive_more(FLOW).await;
    writing.stop().await;
    assert!(pair.stage.verdict().await.keeps_promises());
    pair.trace.assert_one_at_a_time();
}

/// The leader does not read, so it does not notice the silence, and still must not keep the fence for ever.
#[tokio::test]
async fn a_leader_that_is_cut_off_from_postgresql_while_it_holds_all_it_may_makes_way() {
    let mut pair = Pair::start("full", 1, ".*", |stage| {
        stage.source = "delivery.in_flight_max = 4\npostgres.wal_sender_timeout_ms = 1500".to_owned();
        stage.workload.transactions = 50;
    })
    .await;
    pair.stage.write().await;
    until_state(&pair.first, "orders", "halted").await;
    pair.postgres.stall();
    let reason = until_state(&pair.first, "orders", "connecting").await;
    assert!(reason.contains("silent"), "{reason}");
    until_state(&pair.second, "orders", "halted").await;
    pair.stage.consume().await;
    // The queue may be bound while messages are on their way: then the first ones are returned, and the last ones are not.
    assert!(pair.stage.verdict().await.of_each_aggregate().keeps_promises());
    pair.postgres.resume();
    until_state(&pair.first, "orders", "standby").await;
    pair.trace.assert_one_at_a_time();
}

#[tokio::test]
async fn a_broker_restarts_under_two_instances() {
    let broker = RabbitMq::start(RabbitMqOptions::default()).await;
    let mut stage = Stage::on("both", shared_postgres().await, &broker).await;
    stage.workload.pause = Duration::from_millis(10);
    stage.consume().await;
    let (first, second) = (stage.relay_as_printed_role().await, stage.relay_as_printed_role().await);
    let writing = stage.keep_writing();
    stage.receive_more(FLOW).await;
    broker.restart().await;
    eventually("one streams and the other stands by", async || one_streams(&first, &second).await).await;
    stage.receive_more(FLOW).await;
    broker.kill9().await;
    broker.start_again().await;
    stage.receive_more(FLOW).await;
    eventually("one streams and the other stands by", async || one_streams(&first, &second).await).await;
    writing.stop().await;
    assert!(stage.verdict().await.keeps_promises());
}

async fn one_streams(one: &Daemon, other: &Daemon) -> bool {
    let state =
        async |daemon| source(daemon, "orders").await["state"].as_str().unwrap_or_default().to_owned();
    let mut states = [state(one).await, state(other).await];
    states.sort();
    states == ["standby", "streaming"]
}
