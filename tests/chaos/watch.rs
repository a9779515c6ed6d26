//! Watches the instances during faults: counters, memory, unexpected ends.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::task::JoinHandle;

use crate::world::{INSTANCES, Instance, SOURCE};
use testkit::http;

const INTERVAL: Duration = Duration::from_millis(200);

/// Sums over all runs of all instances, without the last moments before a kill.
#[derive(Clone, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) published: u64,
    pub(crate) confirmed: u64,
    pub(crate) reconnects: u64,
    pub(crate) in_flight_peak: u64,
    /// Most messages confirmed in a second.
    pub(crate) rate_peak: u64,
    pub(crate) memory_peak_mb: u64,
    /// Instances that ended by themselves.
    pub(crate) deaths: Vec<String>,
    /// Confirmed messages over time.
    history: Vec<(Instant, u64)>,
}

/// The running watch. Ends when dropped.
pub(crate) struct Watch {
    totals: Arc<Mutex<Totals>>,
    task: JoinHandle<()>,
}

impl Watch {
    pub(crate) fn start(instances: Arc<[Instance; INSTANCES]>) -> Self {
        let totals = Arc::<Mutex<Totals>>::default();
        let shared = totals.clone();
        let task = tokio::spawn(async move {
            let mut before = [Counters::default(); INSTANCES];
            loop {
                for (instance, before) in instances.iter().zip(&mut before) {
                    look(instance, before, &shared).await;
                }
                tokio::time::sleep(INTERVAL).await;
            }
        });
        Self { totals, task }
    }

    /// Messages confirmed within the last `time`.
    pub(crate) fn confirmed_within(&self, time: Duration) -> u64 {
        let totals = self.totals();
        let before = totals.history.iter().rev().find(|(at, _)| at.elapsed() > time);
        totals.confirmed - before.map_or(0, |(_, confirmed)| *confirmed)
    }

    pub(crate) fn totals(&self) -> MutexGuard<'_, Totals> {
        lock(&self.totals)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Last counters of an instance.
#[derive(Clone, Copy, Debug, Default)]
struct Counters {
    at: Option<Instant>,
    published: u64,
    confirmed: u64,
    reconnects: u64,
}

async fn look(instance: &Instance, before: &mut Counters, totals: &Mutex<Totals>) {
    // The lock is taken while the instance is started or stopped.
    if let Ok(mut daemon) = instance.daemon.try_lock() {
        match daemon.ended() {
            Some(status) => {
                let death = format!("an instance ended by itself: {status}");
                let deaths = &mut lock(totals).deaths;
                if !deaths.contains(&death) {
                    deaths.push(death);
                }
            }
            None if daemon.is_wanted() => {
                let peak = daemon.memory_peak_mb();
                let mut totals = lock(totals);
                totals.memory_peak_mb = totals.memory_peak_mb.max(peak);
            }
            None => return,
        }
    }
    let asked = http::get(instance.admin_port, "/metrics");
    let Ok(Ok((_, metrics))) = tokio::time::timeout(Duration::from_secs(1), asked).await else { return };
    let value = |name: &str| {
        let sum = |line: &str| line.rsplit(' ').next()?.parse::<f64>().ok();
        metrics.lines().filter(|line| line.starts_with(name)).filter_map(sum).sum::<f64>() as u64
    };
    let of_source = |name: &str| value(&format!("outboxd_{name}{{source=\"{SOURCE}\"}}"));
    let now = Counters {
        at: Some(Instant::now()),
        published: of_source("messages_published_total"),
        confirmed: of_source("messages_confirmed_total"),
        reconnects: value("outboxd_reconnects_total{"),
    };
    // A restarted instance counts from 0.
    let more = |now: u64, before: u64| if now >= before { now - before } else { now };
    let confirmed = more(now.confirmed, before.confirmed);
    let mut totals = lock(totals);
    totals.published += more(now.published, before.published);
    totals.confirmed += confirmed;
    let reached = (Instant::now(), totals.confirmed);
    totals.history.push(reached);
    totals.reconnects += more(now.reconnects, before.reconnects);
    totals.in_flight_peak = totals.in_flight_peak.max(of_source("in_flight_messages"));
    if let Some(elapsed) = before.at.map(|at| at.elapsed().as_secs_f64()).filter(|elapsed| *elapsed > 0.1) {
        totals.rate_peak = totals.rate_peak.max((confirmed as f64 / elapsed) as u64);
    }
    *before = now;
}

fn lock(totals: &Mutex<Totals>) -> MutexGuard<'_, Totals> {
    totals.lock().unwrap_or_else(PoisonError::into_inner)
}
