//! Does what a fault is, and mends it.

use crate::{
    faults::{Fault, Trouble},
    plan::Strike,
    queues,
    support::{Direction, Proxy},
    world::{Instance, PATIENCE, World},
};

/// How far a clock jumps, in seconds.
const JUMPS_S: [i64; 8] = [-86_400, -3_600, -60, -5, 5, 60, 3_600, 86_400];
/// A watermark that is always passed, the one of the private nodes, and a limit that no disk satisfies.
const NO_MEMORY: [&str; 3] = ["set_vm_memory_high_watermark", "absolute", "1MB"];
const MEMORY: [&str; 3] = ["set_vm_memory_high_watermark", "absolute", "1GB"];
const NO_DISK: [&str; 2] = ["set_disk_free_limit", "100000GB"];
const DISK: [&str; 2] = ["set_disk_free_limit", "50MB"];

impl World {
    /// Begins a fault; `leader` is the instance that it hits, where it hits one. An error when that does not end as it
    /// should in peace.
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
            Fault::QueueDeleted => queues::delete_fragile(&self.amqp_url).await.expect("queue deleted"),
            Fault::PostgresLink(trouble) => disturb(&hit.to_postgres, trouble, strike.dice),
            Fault::BrokerLink(trouble) => disturb(&hit.to_broker, trouble, strike.dice),
        }
        Ok(())
    }

    /// Ends it; nothing to do for a fault without duration.
    pub(crate) async fn end(&self, strike: &Strike, leader: usize) {
        let hit = &self.instances[leader];
        match strike.kind.fault {
            Fault::RelayKilled | Fault::RelayRestarted => hit.daemon.lock().await.start_again(),
            Fault::RelaySuspended => hit.daemon.lock().await.resume(),
            Fault::RelayLogFull => {
                // Something else may be broken by now.
                let _undrained = hit.end().await;
                hit.daemon.lock().await.start_again();
            }
            Fault::RelayClock | Fault::PostgresClock | Fault::BrokerClock => self.jump(strike.kind.fault, 0),
            Fault::PostgresKilled | Fault::PostgresStoppedFast | Fault::PostgresStoppedImmediate => {
                self.postgres.start_again().await;
            }
            Fault::BrokerKilled | Fault::BrokerRestarted => self.broker.start_again().await,
            Fault::BrokerSuspended => self.broker.resume().await,
            Fault::MemoryAlarm => drop(self.broker.ctl(&MEMORY).await),
            Fault::DiskAlarm => drop(self.broker.ctl(&DISK).await),
            Fault::QueueDeleted => queues::make_fragile(&self.amqp_url).await.expect("queue made"),
            Fault::PostgresLink(_) => hit.to_postgres.resume(),
            Fault::BrokerLink(_) => hit.to_broker.resume(),
            Fault::WalsenderTerminated | Fault::ConnectionsClosed => {}
        }
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
    /// Asks it to end and waits until it has drained. What it cannot drain its successor repeats.
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
                link.delay(direction, std::time::Duration::from_millis(20 + dice % 280));
            }
        }
        Trouble::Throttled => link.throttle(10_000 + dice % 90_000),
    }
}
