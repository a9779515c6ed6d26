//! The world of one simulation: two servers, the oracle, one random generator and one clock.

use std::{
    collections::BTreeMap,
    ops::RangeInclusive,
    sync::{Arc, Mutex},
    task::Waker,
    time::Duration,
};

use tokio::{
    sync::{Notify, futures::OwnedNotified},
    time::Instant,
};

use crate::{broker::state::Broker, link::Said, oracle::Oracle, postgres::state::Server, scenario::Scenario};

/// Handle to the world, shared by the simulated connections of every process.
#[derive(Clone)]
pub(crate) struct World {
    state: Arc<Mutex<WorldState>>,
    changed: Arc<Notify>,
}

pub(crate) struct WorldState {
    pub(crate) rng: fastrand::Rng,
    pub(crate) scenario: Arc<Scenario>,
    pub(crate) postgres: Server,
    pub(crate) broker: Broker,
    pub(crate) oracle: Oracle,
    /// Frozen processes, with their wakers.
    pub(crate) frozen: BTreeMap<u64, Option<Waker>>,
    pub(crate) began: Instant,
    /// Faults have ended.
    pub(crate) peace: bool,
    /// Trace of events, if wanted.
    pub(crate) trace: Option<Vec<String>>,
}

impl World {
    pub(crate) fn new(scenario: Arc<Scenario>, trace: bool) -> Self {
        let state = WorldState {
            rng: fastrand::Rng::with_seed(scenario.seed ^ 0x5EED),
            postgres: Server::default(),
            broker: Broker::default(),
            oracle: Oracle::new(&scenario),
            frozen: BTreeMap::new(),
            scenario,
            began: Instant::now(),
            peace: false,
            trace: trace.then(Vec::new),
        };
        Self { state: Arc::new(Mutex::new(state)), changed: Arc::default() }
    }

    /// Brings the world up to date and looks at it.
    pub(crate) fn look<T>(&self, at: impl FnOnce(&mut WorldState) -> T) -> T {
        let mut state = self.state.lock().expect("nothing panics under the lock");
        state.reap();
        state.arrive();
        at(&mut state)
    }

    /// Changes the world and wakes everybody who waits.
    pub(crate) fn change<T>(&self, how: impl FnOnce(&mut WorldState) -> T) -> T {
        let changed = self.look(how);
        self.changed.notify_waiters();
        changed
    }

    /// Waits until there is an answer. Cancel-safe.
    pub(crate) async fn hear<T>(&self, mut ask: impl FnMut(&mut WorldState) -> Said<T>) -> T {
        loop {
            let changed: OwnedNotified = self.changed.clone().notified_owned();
            match self.look(&mut ask) {
                Said::This(this) => return this,
                Said::NothingBefore(None) => changed.await,
                Said::NothingBefore(Some(time)) => tokio::select! {
                    biased;
                    () = changed => {}
                    () = tokio::time::sleep_until(time) => {}
                },
            }
        }
    }

    /// Waits for a random time.
    pub(crate) async fn pause(&self, millis: RangeInclusive<u64>) {
        let pause = self.look(|state| state.millis(millis));
        tokio::time::sleep(pause).await;
    }
}

impl WorldState {
    pub(crate) fn now(&self) -> Instant {
        Instant::now()
    }

    pub(crate) fn millis(&mut self, range: RangeInclusive<u64>) -> Duration {
        Duration::from_millis(self.rng.u64(range))
    }

    /// True once in `n` calls on average.
    pub(crate) fn one_in(&mut self, n: u32) -> bool {
        n > 0 && self.rng.u32(0..n) == 0
    }

    pub(crate) fn note(&mut self, what: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>9.3} s  {}", self.began.elapsed().as_secs_f64(), what()));
        }
    }
}
