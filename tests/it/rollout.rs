//! What Kubernetes does to the stream with the chart's Deployment: rolling updates and drains of nodes, imitated with processes.
//!
//! A pod is a process of outboxd. [`Deployment::roll_out`] does what the Deployment's controller does with `maxUnavailable` 0 and
//! `maxSurge` 1: a new pod is started, and an old one gets SIGTERM when the new one is ready. Pods that are not ready go first.
//! [`Deployment::drain_nodes`] does what evictions do under the chart's PodDisruptionBudget: one pod at a time.

use std::time::{Duration, Instant};

use crate::{
    recovery::IN_FLIGHT_MAX,
    stage::{PATIENCE, Stage, alive, eventually, source, until, until_state},
};
use testkit::{
    Daemon, Direction, Postgres, PostgresOptions, Proxy, RabbitMq, RabbitMqOptions, shared_postgres,
    shared_rabbitmq,
};

/// Messages that arrive between two events.
const FLOW: usize = 100;

/// Pods of one Deployment.
struct Deployment {
    pods: Vec<Daemon>,
}

impl Deployment {
    /// Starts so many pods, and waits until they are ready.
    async fn start(config: &str, replicas: usize) -> Self {
        let mut pods = Vec::new();
        for _ in 0..replicas {
            let mut pod = Daemon::start(config);
            pod.wait_ready(PATIENCE).await;
            pods.push(pod);
        }
        Self { pods }
    }

    /// Replaces every pod by one with `config`. Returns the exit statuses of the old ones.
    async fn roll_out(&mut self, config: &str, order: Order) -> Vec<Option<i32>> {
        let mut ended = Vec::new();
        for left in (1..=self.pods.len()).rev() {
            let mut new = Daemon::start(config);
            new.wait_ready(PATIENCE).await;
            self.pods.push(new);
            let next = self.next_to_end(left, order).await;
            ended.push(end(self.pods.remove(next)).await);
        }
        ended
    }

    /// Index of the next one of the first `old` pods: one that is not ready, or else the one that `order` names.
    async fn next_to_end(&self, old: usize, order: Order) -> usize {
        let mut next = 0;
        for (index, pod) in self.pods[..old].iter().enumerate() {
            if pod.readyz().await.0 != 200 {
                return index;
            }
            let publishes = source(pod, "orders").await["state"] == "streaming";
            if publishes == (order == Order::LeaderFirst) {
                next = index;
            }
        }
        next
    }

    /// Evicts every pod of the moment. The next one goes when the replacement of the one before is ready.
    async fn drain_nodes(&mut self, config: &str) -> Vec<Option<i32>> {
        let mut ended = Vec::new();
        for _ in 0..self.pods.len() {
            ended.push(end(self.pods.remove(0)).await);
            let mut replacement = Daemon::start(config);
            replacement.wait_ready(PATIENCE).await;
            self.pods.push(replacement);
        }
        ended
    }

    /// Waits until one pod publishes and the others stand by.
    async fn one_publishes(&self) {
        eventually("one pod publishes and the others stand by", async || {
            let mut publishing = 0;
            for pod in &self.pods {
                match source(pod, "orders").await["state"].as_str() {
                    Some("streaming") => publishing += 1,
                    Some("standby") => {}
                    _ => return false,
                }
            }
            publishing == 1
        })
        .await;
    }
}

/// The pod that a rollout ends first, where all are ready: Kubernetes does not know which one publishes.
#[derive(Clone, Copy, PartialEq)]
enum Order {
    LeaderFirst,
    StandbyFirst,
}

/// Ends a pod as the kubelet does.
async fn end(mut pod: Daemon) -> Option<i32> {
    pod.sigterm(PATIENCE).await.code()
}

#[tokio::test]
async fn a_rolling_update_publishes_every_row_once_and_in_order() {
    let mut stage = Stage::flowing("rollout").await;
    stage.consume().await;
    let config = stage.run_printed_sql().await;
    let mut deployment = Deployment::start(&config, 2).await;
    let writing = stage.keep_writing();
    for order in [Order::LeaderFirst, Order::StandbyFirst, Order::LeaderFirst] {
        stage.receive_more(FLOW).await;
        let began = Instant::now();
        assert_eq!(deployment.roll_out(&config, order).await, [Some(0); 2]);
        deployment.one_publishes().await;
        println!("two pods were replaced within {:?}", began.elapsed());
    }
    stage.receive_more(FLOW).await;
    writing.stop().await;
    stage.verdict().await.assert_delivered(0);
}

/// The chart is installed, and the DBA runs the script afterwards, which a pod has printed.
#[tokio::test]
async fn pods_that_start_before_the_database_is_prepared_become_ready_by_themselves() {
    let mut stage = Stage::flowing("rollout_first").await;
    stage.consume().await;
    stage.write_row("a", 1, "OrderCreated").await;
    let config = stage.config_as(&stage.printed_role());
    let mut deployment = Deployment { pods: vec![alive(&config).await, alive(&config).await] };
    for pod in &deployment.pods {
        until_state(pod, "orders", "halted").await;
        assert_eq!(pod.readyz().await.0, 503);
    }
    stage.run_printed_sql().await;
    for pod in &mut deployment.pods {
        pod.wait_ready(PATIENCE).await;
    }
    deployment.one_publishes().await;
    stage.write_row("a", 2, "OrderCreated").await;
    stage.verdict().await.assert_delivered(0);
}

#[tokio::test]
async fn a_rolling_update_of_a_single_pod_makes_no_gap_either() {
    let mut stage = Stage::flowing("rollout_single").await;
    stage.consume().await;
    let config = stage.run_printed_sql().await;
    let mut deployment = Deployment::start(&config, 1).await;
    let writing = stage.keep_writing();
    stage.receive_more(FLOW).await;
    assert_eq!(deployment.roll_out(&config, Order::LeaderFirst).await, [Some(0)]);
    stage.receive_more(FLOW).await;
    writing.stop().await;
    stage.verdict().await.assert_delivered(0);
}

#[tokio::test]
async fn a_drain_of_both_nodes_publishes_every_row_once_and_in_order() {
    let mut stage = Stage::flowing("rollout_nodes").await;
    stage.consume().await;
    let config = stage.run_printed_sql().await;
    let mut deployment = Deployment::start(&config, 2).await;
    let writing = stage.keep_writing();
    stage.receive_more(FLOW).await;
    assert_eq!(deployment.drain_nodes(&config).await, [Some(0); 2]);
    stage.receive_more(FLOW).await;
    deployment.one_publishes().await;
    writing.stop().await;
    stage.verdict().await.assert_delivered(0);
}

/// A pod with a bad configuration ends with 78 again and again. It is never ready, so that no old pod ends.
#[tokio::test]
async fn a_configuration_that_is_refused_leaves_the_old_pods_alone() {
    let mut stage = Stage::flowing("rollout_78").await;
    stage.consume().await;
    let config = stage.run_printed_sql().await;
    let mut deployment = Deployment::start(&config, 2).await;
    let writing = stage.keep_writing();
    let mut new = Daemon::start(&config.replace("delivery.in_flight_max", "delivery.in_flight_maximum"));
    for restart in 0..3 {
        if restart > 0 {
            new.start_again();
        }
        assert_eq!(new.wait(PATIENCE).await.code(), Some(78), "{}", new.log());
        stage.receive_more(FLOW).await;
    }
    assert!(new.log().contains("delivery.in_flight_maximum"), "{}", new.log());
    // `helm rollback`, or the corrected file.
    assert_eq!(deployment.roll_out(&config, Order::LeaderFirst).await, [Some(0); 2]);
    writing.stop().await;
    stage.verdict().await.assert_delivered(0);
}

/// A configuration that outboxd accepts and that does not work: the new pod is never ready, and does no harm to the old ones.
#[tokio::test]
async fn a_configuration_that_does_not_work_is_never_ready_and_the_old_pods_go_on() {
    let mut stage = Stage::flowing("rollout_wrong").await;
    stage.consume().await;
    let config = stage.run_printed_sql().await;
    let deployment = Deployment::start(&config, 2).await;
    let leader = &deployment.pods[0];
    until_state(leader, "orders", "streaming").await;
    let writing = stage.keep_writing();
    let in_source = |line: &str| config.replace("[sources.orders]\n", &format!("[sources.orders]\n{line}\n"));
    for (what, changed) in [
        ("a wrong password for RabbitMQ", config.replace("guest:guest@", "guest:wrong@")),
        (
            "a virtual host that is not there",
            config.replace(&stage.amqp_url, &format!("{}-nowhere", stage.amqp_url)),
        ),
        ("a database that is not there", config.replacen(&format!("/{}", stage.name), "/nowhere", 1)),
        ("a role that is not there", config.replace("//role_", "//no_role_")),
        ("a column that is not there", in_source("outbox.columns.id = 'no_id'")),
        ("a table that is not there", in_source("outbox.table = 'no_outbox'")),
    ] {
        assert_ne!(changed, config, "{what}");
        let mut new = alive(&changed).await;
        let shown = until(&new, "orders", |shown| {
            let state = shown["state"].as_str().unwrap_or_default();
            let reason = shown["reason"].as_str().unwrap_or_default();
            matches!(state, "halted" | "connecting") && reason != "starting"
        })
        .await;
        println!("{what}: {} {}", shown["state"], shown["reason"]);
        for _ in 0..20 {
            assert_eq!(new.readyz().await.0, 503, "{what}");
            assert_eq!(leader.readyz().await.0, 200, "{what}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        stage.receive_more(FLOW).await;
        assert_eq!(source(leader, "orders").await["state"], "streaming", "{what}");
        assert!(new.sigterm(PATIENCE).await.success(), "{what}: {}", new.log());
    }
    writing.stop().await;
    stage.verdict().await.assert_delivered(0);
}

/// Nobody is ready while the broker is away. The rollout waits, and goes on by itself; the drain of a node does not wait.
#[tokio::test]
async fn a_rollout_waits_for_a_broker_that_is_away_and_a_drain_does_not() {
    let broker = RabbitMq::start(RabbitMqOptions::default()).await;
    let mut stage = Stage::on("rollout_broker", shared_postgres().await, &broker).await;
    stage.workload.pause = Duration::from_millis(10);
    stage.source = format!("delivery.in_flight_max = {IN_FLIGHT_MAX}\ndelivery.backoff_max_ms = 500");
    stage.consume().await;
    let config = stage.run_printed_sql().await;
    let mut deployment = Deployment::start(&config, 2).await;
    let writing = stage.keep_writing();
    stage.receive_more(FLOW).await;
    // Each of both instances that publish repeats at most what was in flight, and what was confirmed and not yet told.
    let before = stage.oracle.distinct_count();
    tokio::time::sleep(Duration::from_secs(1)).await;
    broker.stop().await;
    let allowed = 2 * IN_FLIGHT_MAX + stage.oracle.distinct_count() - before;
    for pod in &deployment.pods {
        until_state(pod, "orders", "connecting").await;
    }
    let new = alive(&config).await;
    for _ in 0..30 {
        for pod in deployment.pods.iter().chain([&new]) {
            assert_eq!(pod.readyz().await.0, 503);
            // The kubelet restarts none of them.
            assert_eq!(pod.get_text("/healthz").await.0, 200);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // A node is drained meanwhile: pods that are not ready may be evicted. The pod ends at once, and nothing is lost.
    let began = Instant::now();
    let status = end(deployment.pods.remove(0)).await;
    println!("a pod without a broker ended with {status:?} after {:?}", began.elapsed());
    assert!(matches!(status, Some(0 | 1)) && began.elapsed() < Duration::from_secs(20), "{status:?}");
    deployment.pods.push(alive(&config).await);

    broker.start_again().await;
    deployment.pods.push(new);
    deployment.one_publishes().await;
    stage.receive_more(FLOW).await;
    // The new pod is ready: the rollout goes on.
    assert_eq!(end(deployment.pods.remove(0)).await, Some(0));
    deployment.one_publishes().await;
    stage.receive_more(FLOW).await;
    writing.stop().await;
    let verdict = stage.verdict().await;
    assert!(verdict.keeps_promises());
    assert!(verdict.duplicates <= allowed, "{} repeated, {allowed} allowed", verdict.duplicates);
}

/// The same without PostgreSQL. A pod that ends meanwhile cannot tell its position, so that its successor repeats a little.
#[tokio::test]
async fn a_rollout_waits_for_a_database_that_is_away() {
    let postgres = Postgres::start(PostgresOptions::default()).await;
    let mut stage = Stage::on("rollout_database", &postgres, shared_rabbitmq().await).await;
    stage.workload.pause = Duration::from_millis(5);
    stage.source = format!("delivery.in_flight_max = {IN_FLIGHT_MAX}\ndelivery.backoff_max_ms = 500");
    stage.consume().await;
    let config = stage.run_printed_sql().await;
    let mut deployment = Deployment::start(&config, 2).await;
    let writing = stage.keep_writing();
    stage.receive_more(FLOW).await;
    // A successor repeats at most what was in flight, and about a second of confirmed traffic.
    let before = stage.oracle.distinct_count();
    tokio::time::sleep(Duration::from_secs(1)).await;
    postgres.stop_fast().await;
    let allowed = IN_FLIGHT_MAX + stage.oracle.distinct_count() - before;
    for pod in &deployment.pods {
        until_state(pod, "orders", "connecting").await;
    }
    let new = alive(&config).await;
    for _ in 0..20 {
        for pod in deployment.pods.iter().chain([&new]) {
            assert_eq!(pod.readyz().await.0, 503);
            assert_eq!(pod.get_text("/healthz").await.0, 200);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let status = end(deployment.pods.remove(0)).await;
    println!("a pod without a database ended with {status:?}");
    postgres.start_again().await;
    deployment.pods.push(new);
    deployment.one_publishes().await;
    assert_eq!(deployment.roll_out(&config, Order::LeaderFirst).await, [Some(0); 2]);
    stage.receive_more(FLOW).await;
    writing.stop().await;
    let verdict = stage.verdict().await;
    assert!(verdict.keeps_promises());
    assert!(verdict.duplicates <= allowed, "{} repeated, {allowed} allowed", verdict.duplicates);
}

/// A rollout has one pod more than the Deployment. Its walsender has to be there, too.
#[tokio::test]
async fn a_server_without_a_walsender_to_spare_holds_a_rollout_up() {
    let settings = vec![("max_wal_senders".to_owned(), "2".to_owned())];
    let postgres = Postgres::start(PostgresOptions { settings, ..Default::default() }).await;
    let mut stage = Stage::on("rollout_senders", &postgres, shared_rabbitmq().await).await;
    stage.workload.pause = Duration::from_millis(5);
    stage.source = format!("delivery.in_flight_max = {IN_FLIGHT_MAX}\ndelivery.backoff_max_ms = 500");
    stage.consume().await;
    let config = stage.run_printed_sql().await;
    let mut deployment = Deployment::start(&config, 2).await;
    let writing = stage.keep_writing();
    stage.receive_more(FLOW).await;
    let mut new = alive(&config).await;
    let named = |shown: &serde_json::Value| {
        shown["reason"].as_str().is_some_and(|reason| reason.contains("max_wal_senders"))
    };
    let shown = until(&new, "orders", named).await;
    println!("{} {}", shown["state"], shown["reason"]);
    for _ in 0..20 {
        assert_eq!(new.readyz().await.0, 503);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    stage.receive_more(FLOW).await;
    // An old pod that is deleted by hand makes room.
    assert_eq!(end(deployment.pods.remove(1)).await, Some(0));
    new.wait_ready(PATIENCE).await;
    deployment.pods.push(new);
    stage.receive_more(FLOW).await;
    deployment.one_publishes().await;
    writing.stop().await;
    stage.verdict().await.assert_delivered(0);
}

/// Nobody knows before the first row that a template has no value for it, so that the rollout goes through. Taking it back is enough.
#[tokio::test]
async fn a_configuration_that_no_row_fits_halts_and_is_taken_back() {
    let mut stage = Stage::flowing("rollout_unfit").await;
    stage.consume().await;
    let config = stage.run_printed_sql().await;
    let mut deployment = Deployment::start(&config, 2).await;
    stage.write_row("a", 1, "OrderCreated").await;
    let unfit =
        config.replace("[sources.orders]\n", "[sources.orders]\nmessage.routing_key = '{header:nope}'\n");
    assert_eq!(deployment.roll_out(&unfit, Order::LeaderFirst).await, [Some(0); 2]);
    deployment.one_publishes().await;
    stage.write_row("a", 2, "OrderCreated").await;
    eventually("no pod is ready", async || {
        for pod in &deployment.pods {
            if pod.readyz().await.0 == 200 {
                return false;
            }
        }
        true
    })
    .await;
    let reason = until_state(&deployment.pods[0], "orders", "halted").await;
    println!("{reason}");
    // The rollback: its first pod has the slot as soon as an old one gives it up, and is ready.
    deployment.roll_out(&config, Order::LeaderFirst).await;
    deployment.one_publishes().await;
    stage.write_row("a", 3, "OrderCreated").await;
    stage.verdict().await.assert_delivered(0);
}

/// The cure of a halted source may be a new configuration. The rollout brings it in, whoever has the slot.
#[tokio::test]
async fn a_rollout_brings_the_cure_of_a_halted_source() {
    let mut stage = Stage::flowing("rollout_halted").await;
    stage.consume_only("OrderCreated").await;
    let config = stage.run_printed_sql().await;
    let mut deployment = Deployment::start(&config, 2).await;
    stage.write_row("a", 1, "OrderCreated").await;
    stage.write_unseen("b", "NobodyWantsThis").await;
    let leader = &deployment.pods[0];
    until_state(leader, "orders", "halted").await;
    assert_eq!(leader.readyz().await.0, 503);
    let cure = config.replace("[sources.orders]\n", "[sources.orders]\ndelivery.on_unroutable = 'drop'\n");
    let statuses = deployment.roll_out(&cure, Order::LeaderFirst).await;
    println!("the old pods ended with {statuses:?}");
    deployment.one_publishes().await;
    stage.write_row("a", 2, "OrderCreated").await;
    stage.verdict().await.assert_delivered(0);
}

/// A pod that publishes the rows of the table is not ready, and ends first, when its drain times out. Its successor publishes them
/// from the beginning.
#[tokio::test]
async fn a_rollout_during_a_backlog_repeats_its_rows_and_loses_none() {
    const ROWS: usize = 200;
    let mut stage = Stage::flowing("rollout_backlog").await;
    stage.workload.pause = Duration::ZERO;
    stage.workload.transactions = ROWS;
    stage.write().await;
    stage.consume().await;
    stage.source = "delivery.in_flight_max = 1".to_owned();
    let proxy = Proxy::start(shared_rabbitmq().await.port());
    proxy.delay(Direction::ToClient, Duration::from_millis(50));
    let postgres = Proxy::start(shared_postgres().await.port());
    let through = stage.config_through(&postgres, &proxy);
    stage.run_printed_sql().await;
    let config = through.replace("//postgres@", &format!("//{}@", stage.printed_role()));
    let config = format!("drain_timeout_s = 2\n{config}");
    let mut deployment = Deployment { pods: vec![alive(&config).await] };
    until_state(&deployment.pods[0], "orders", "backlog").await;
    stage.receive_more(20).await;
    // The second one stands by, and is ready.
    let mut standby = alive(&config).await;
    standby.wait_ready(PATIENCE).await;
    deployment.pods.push(standby);
    let rolling = deployment.roll_out(&config, Order::LeaderFirst);
    let statuses = tokio::time::timeout(PATIENCE, rolling).await.expect("the rollout comes to its end");
    println!("the old pods ended with {statuses:?}");
    proxy.delay(Direction::ToClient, Duration::ZERO);
    deployment.one_publishes().await;
    let mut verdict = stage.verdict().await;
    println!("{} rows of the backlog were repeated", verdict.duplicates);
    assert!(verdict.duplicates > 0, "the successor begins anew");
    // Each snapshot has a position of its own.
    verdict.unrecognisable.clear();
    assert!(verdict.keeps_promises());
}
