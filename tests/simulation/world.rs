//! Everything of one simulation that is not the product: two servers, an oracle, one source of chance and one clock.

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

use crate::{broker::Broker, oracle::Oracle, postgres::Server, scenario::Scenario};

/// Shared by the simulated connections of every process.
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
    /// Processes that were stopped, and what lets them go on.
    pub(crate) frozen: BTreeMap<u64, Option<Waker>>,
    pub(crate) began: Instant,
    /// Nothing goes wrong any more.
    pub(crate) peace: bool,
    /// What happened, when somebody wants to know.
    pub(crate) trace: Option<Vec<String>>,
}

/// The way to a server, or a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    Up,
    /// Both ends know.
    Cut,
    /// Nothing passes, and nobody knows. Since when.
    Hung(Instant),
}

/// What a simulated connection has to say.
pub(crate) enum Said<T> {
    This(T),
    /// Nothing before this time, unless something changes.
    NothingBefore(Option<Instant>),
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

    /// Looks at the world, which then is up to date: what had to happen by now has happened.
    pub(crate) fn look<T>(&self, at: impl FnOnce(&mut WorldState) -> T) -> T {
        let mut state = self.state.lock().expect("nothing panics under the lock");
        state.reap();
        state.arrive();
        at(&mut state)
    }

    /// Changes the world, and lets everybody who waits look again.
    pub(crate) fn change<T>(&self, how: impl FnOnce(&mut WorldState) -> T) -> T {
        let changed = self.look(how);
        self.changed.notify_waiters();
        changed
    }

    /// Waits until something is said. Cancel-safe.
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

    /// A wait of random length.
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

    /// One in `n`.
    pub(crate) fn one_in(&mut self, n: u32) -> bool {
        n > 0 && self.rng.u32(0..n) == 0
    }

    pub(crate) fn note(&mut self, what: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>9.3} s  {}", self.began.elapsed().as_secs_f64(), what()));
        }
    }
}
