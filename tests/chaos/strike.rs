//! Starts and ends each fault.

use std::time::{Duration, Instant};

use hyper::Method;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{
    faults::{Fault, Trouble},
    plan::Strike,
    queues::{self, FRAGILE},
    world::{DATABASE, Instance, PASSWORD, PATIENCE, RELAY, World},
    writers,
};
use testkit::{Direction, Proxy};

/// Jumps of a clock, in seconds.
const JUMPS_S: [i64; 8] = [-86_400, -3_600, -60, -5, 5, 60, 3_600, 86_400];
/// Settings: a memory watermark that is always passed, that of the test nodes, and a disk limit that no disk satisfies.
const NO_MEMORY: [&str; 3] = ["set_vm_memory_high_watermark", "absolute", "1MB"];
const MEMORY: [&str; 3] = ["set_vm_memory_high_watermark", "absolute", "1GB"];
const NO_DISK: [&str; 2] = ["set_disk_free_limit", "100000GB"];
const DISK: [&str; 2] = ["set_disk_free_limit", "50MB"];

impl World {
    /// Starts a fault. `leader` is the instance that the fault hits, if it hits one. Fails when that instance does not end as it
    /// should without other faults.
    pub(crate) async fn begin(&self, strike: &Strike, leader: usize) -> Result<(), String> {
        let hit = &self.instances[leader];
        match strike.kind.fault {
            Fault::RelayKilled => hit.daemon.lock().await.kill9().await,
            Fault::RelayRestarted => hit.end().await?,
            Fault::RelaySuspended => hit.daemon.lock().await.suspend(),
            Fault::RelayLogFull => {
                let ended = hit.end().await;
                hit.daemon.lock().await.start_again_logging_to("/dev/full".as_ref());
                ended?;
            }
            Fault::RelayClock | Fault::PostgresClock | Fault::BrokerClock => {
                let jump = JUMPS_S[(strike.dice % JUMPS_S.len() as u64) as usize];
                self.jump(strike.kind.fault, jump);
            }
            Fault::PostgresKilled => self.postgres.kill9().await,
            Fault::PostgresStoppedFast => self.postgres.stop_fast().await,
            Fault::PostgresStoppedImmediate => self.postgres.stop_immediate().await,
            Fault::PostgresPassword => {
                self.set_postgres_password("another").await;
                let sql = format!(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{RELAY}'"
                );
                self.client().await.execute(&sql, &[]).await.expect("connections terminated");
            }
            Fault::WalsenderTerminated => {
                let sql = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active";
                self.client().await.execute(sql, &[]).await.expect("walsender terminated");
            }
            Fault::BrokerKilled => self.broker.kill9().await,
            Fault::BrokerRestarted => self.broker.stop().await,
            Fault::BrokerSuspended => self.broker.suspend().await,
            Fault::ConnectionsClosed => self.broker.close_all_connections().await,
            Fault::MemoryAlarm => drop(self.broker.ctl(&NO_MEMORY).await),
            Fault::DiskAlarm => drop(self.broker.ctl(&NO_DISK).await),
            Fault::BrokerPassword => {
                self.broker.create_user(RELAY, "another").await;
                self.close_relay_connections().await;
            }
            Fault::RowRefused => {
                self.broker
                    .allow_topics(RELAY, DATABASE, queues::EXCHANGE, &format!("^(?!{FRAGILE}$)"))
                    .await;
                // RabbitMQ caches permissions for each channel.
                self.close_relay_connections().await;
            }
            Fault::QueueFull => {
                let full = json!({ "max-length": 1, "overflow": "reject-publish" });
                self.broker.set_policy(DATABASE, queues::FRAGILE_QUEUE, full).await;
            }
            Fault::QueueDeleted => queues::delete_fragile(&self.amqp_url).await.expect("queue deleted"),
            Fault::SubscriptionDeleted => self.delete_queue(queues::SUBSCRIBED).await,
            Fault::SoleSubscriptionDeleted => self.delete_queue(queues::SOLE).await,
            Fault::PostgresLink(trouble) => disturb(&hit.to_postgres, trouble, strike.dice),
            Fault::BrokerLink(trouble) => disturb(&hit.to_broker, trouble, strike.dice),
        }
        Ok(())
    }

    /// Ends the fault. Does nothing for a fault without duration.
    pub(crate) async fn end(&self, strike: &Strike, leader: usize) {
        let hit = &self.instances[leader];
        match strike.kind.fault {
            Fault::RelayKilled | Fault::RelayRestarted => hit.daemon.lock().await.start_again(),
            Fault::RelaySuspended => hit.daemon.lock().await.resume(),
            Fault::RelayLogFull => {
                // A second fault may still last.
                let _undrained = hit.end().await;
                hit.daemon.lock().await.start_again();
            }
            Fault::RelayClock | Fault::PostgresClock | Fault::BrokerClock => self.jump(strike.kind.fault, 0),
            Fault::PostgresKilled | Fault::PostgresStoppedFast | Fault::PostgresStoppedImmediate => {
                self.postgres.start_again().await;
            }
            Fault::BrokerKilled | Fault::BrokerRestarted => self.broker.start_again().await,
            Fault::BrokerSuspended => self.broker.resume().await,
            Fault::PostgresPassword => self.set_postgres_password(PASSWORD).await,
            Fault::BrokerPassword => self.broker.create_user(RELAY, PASSWORD).await,
            Fault::RowRefused => self.broker.allow_all_topics(RELAY, DATABASE).await,
            Fault::QueueFull => self.broker.clear_policy(DATABASE, queues::FRAGILE_QUEUE).await,
            Fault::MemoryAlarm => drop(self.broker.ctl(&MEMORY).await),
            Fault::DiskAlarm => drop(self.broker.ctl(&DISK).await),
            Fault::QueueDeleted => queues::make_fragile(&self.amqp_url).await.expect("queue made"),
            Fault::PostgresLink(_) => hit.to_postgres.resume(),
            Fault::BrokerLink(_) => hit.to_broker.resume(),
            Fault::WalsenderTerminated
            | Fault::ConnectionsClosed
            | Fault::SubscriptionDeleted
            | Fault::SoleSubscriptionDeleted => {}
        }
    }

    /// Waits until an instance reports the fault's reason, if it must.
    pub(crate) async fn says(&self, fault: Fault) -> Result<(), String> {
        let Some(words) = fault.reason() else { return Ok(()) };
        let deadline = Instant::now() + PATIENCE;
        loop {
            for instance in self.instances.iter() {
                let shown = instance.shown().await.unwrap_or_default();
                if shown["reason"].as_str().is_some_and(|reason| reason.contains(words)) {
                    return Ok(());
                }
            }
            self.pause(deadline, &format!("no instance gives a reason with \"{words}\"")).await?;
        }
    }

    /// Waits until outboxd has repaired what only outboxd repairs: it declares its subscriptions again.
    pub(crate) async fn mended(&self, fault: Fault) -> Result<(), String> {
        let queue = match fault {
            Fault::SubscriptionDeleted => queues::SUBSCRIBED,
            Fault::SoleSubscriptionDeleted => {
                // The row is unroutable without that queue.
                writers::commit_one(&self.postgres_url, queues::SOLE, queues::SOLE_TYPE).await;
                queues::SOLE
            }
            _ => return Ok(()),
        };
        let deadline = Instant::now() + PATIENCE;
        while self.bound_keys(queue).await != queues::keys_of(queue) {
            self.pause(deadline, &format!("queue '{queue}' is not declared and bound again")).await?;
        }
        if fault == Fault::SoleSubscriptionDeleted {
            while queues::depth(&self.amqp_url, queue).await.unwrap_or(0) == 0 {
                self.pause(deadline, &format!("the row for queue '{queue}' has not come there")).await?;
            }
        }
        Ok(())
    }

    async fn pause(&self, deadline: Instant, otherwise: &str) -> Result<(), String> {
        if Instant::now() > deadline {
            return Err(format!("{otherwise} within {PATIENCE:?}\n{}", self.shown().await));
        }
        sleep(Duration::from_millis(50)).await;
        Ok(())
    }

    async fn bound_keys(&self, queue: &str) -> Vec<String> {
        let bindings = self.broker.api(Method::GET, &format!("/api/bindings/{DATABASE}"), Value::Null).await;
        let bindings = bindings.as_array().cloned().unwrap_or_default();
        let of_queue =
            |binding: &&Value| binding["destination"] == queue && binding["source"] == queues::EXCHANGE;
        let key = |binding: &Value| binding["routing_key"].as_str().map(str::to_owned);
        bindings.iter().filter(of_queue).filter_map(key).collect()
    }

    async fn delete_queue(&self, queue: &str) {
        queues::delete(&self.amqp_url, queue).await.expect("queue deleted");
    }

    async fn close_relay_connections(&self) {
        self.broker.ctl(&["close_all_user_connections", RELAY, "closed by a test"]).await;
    }

    async fn set_postgres_password(&self, password: &str) {
        let sql = format!("ALTER ROLE {RELAY} PASSWORD '{password}'");
        self.client().await.batch_execute(&sql).await.expect("password changed");
    }

    fn jump(&self, fault: Fault, seconds: i64) {
        let Some(clocks) = &self.clocks else { return };
        let clock = match fault {
            Fault::PostgresClock => &clocks.postgres,
            Fault::BrokerClock => &clocks.broker,
            _ => &clocks.relay,
        };
        clock.jump(seconds);
    }
}

impl Instance {
    /// Sends SIGTERM and waits for the drain. The successor repeats what was not drained.
    async fn end(&self) -> Result<(), String> {
        let status = self.daemon.lock().await.sigterm(PATIENCE).await;
        if status.success() { Ok(()) } else { Err(format!("outboxd, asked to end, does so with {status}")) }
    }
}

fn disturb(link: &Proxy, trouble: Trouble, dice: u64) {
    match trouble {
        Trouble::Cut => link.cut(),
        Trouble::CutInMessage => {
            let direction = if dice & 1 == 0 { Direction::ToServer } else { Direction::ToClient };
            link.cut_after(direction, 1 + (dice >> 1) % 500);
        }
        Trouble::Refused => link.refuse(),
        Trouble::Stalled => link.stall(),
        Trouble::StalledAnswers => link.stall_only(Direction::ToClient),
        Trouble::Slow => {
            for direction in [Direction::ToServer, Direction::ToClient] {
                link.delay(direction, Duration::from_millis(20 + dice % 280));
            }
        }
        Trouble::Throttled => link.throttle(10_000 + dice % 90_000),
    }
}
