//! A run: calm, a fault or two, recovery, in a loop; then the verdict.

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::time::{sleep, timeout};

use crate::{
    plan::{Plan, Round, Strike},
    promises::RECORD_BEHIND,
    queues::{self, Consumer},
    report::{Outcome, Report, Setting, Sums},
    verdict::Verdict,
    watch::Watch,
    world::{PATIENCE, World},
    writers::{self, PROBE, Writers},
};

/// Length of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Extent {
    Rounds(usize),
    Time(Duration),
}

impl Extent {
    fn is_over(self, rounds: usize, elapsed: Duration) -> bool {
        match self {
            Extent::Rounds(wanted) => rounds >= wanted,
            Extent::Time(wanted) => elapsed >= wanted,
        }
    }

    /// Longest calm: a short run has no time for a long one.
    fn calm_ms_max(self) -> u64 {
        match self {
            Extent::Rounds(_) => 800,
            Extent::Time(_) => 3_000,
        }
    }
}

/// Nodes under faults, with writers, consumers and the watch.
pub(crate) struct Run {
    pub(crate) world: World,
    pub(crate) watch: Watch,
    pub(crate) witness: Consumer,
    pub(crate) service: Consumer,
    pub(crate) began: Instant,
    outcomes: Mutex<Vec<Outcome>>,
}

/// Runs to the end, or to the first broken promise, and then keeps the logs in `logs`.
pub(crate) async fn run(seed: u64, only: &str, extent: Extent, logs: &Path) -> Report {
    let world = World::create().await;
    let setting = setting(seed, only, &world).await;
    let writers = Writers::start(&world.postgres_url, seed);
    let run = Arc::new(Run {
        watch: Watch::start(world.instances.clone()),
        witness: queues::witness(&world.amqp_url),
        service: queues::service(&world.amqp_url),
        world,
        began: Instant::now(),
        outcomes: Mutex::default(),
    });
    // A separate task, so that the logs are kept after a panic, too.
    let plan = Plan::new(seed, only, extent.calm_ms_max());
    let rounds = tokio::spawn({
        let run = run.clone();
        async move { run.rounds(plan, extent).await }
    });
    let mut failures = Vec::new();
    let broken = match rounds.await {
        Ok(Ok(())) => false,
        Ok(Err(failure)) => {
            failures.push(failure);
            false
        }
        Err(panic) => {
            failures.push(panic.to_string());
            true
        }
    };
    let took = run.began.elapsed();
    let mut report = Report {
        setting,
        took,
        outcomes: run.outcomes.lock().expect("outcomes").clone(),
        sums: Sums::default(),
        witness: Verdict::default(),
        service: Verdict::default(),
        totals: run.watch.totals().clone(),
        failures,
    };
    // A run that stopped within a fault has no end worth checking.
    if !broken {
        run.conclude(writers, &mut report).await;
    }
    if !report.failures.is_empty() {
        run.world.keep_logs(logs);
    }
    report
}

impl Run {
    async fn rounds(&self, mut plan: Plan, extent: Extent) -> Result<(), String> {
        let mut number = 0;
        while !extent.is_over(number, self.began.elapsed()) {
            let round = plan.next().expect("a plan has no end");
            if self.world.clocks.is_none() && round.strikes().any(|strike| strike.kind.fault.is_clock()) {
                continue;
            }
            number += 1;
            let result = self.round(&round).await;
            let minutes = self.began.elapsed().as_secs_f64() / 60.0;
            match result {
                Ok(outcome) => {
                    let Outcome { name, recovery, duplicates, allowed, .. } = &outcome;
                    let rows = self.witness.arrivals().distinct;
                    println!(
                        "{minutes:5.1} min  {number:4}  {:6.2} s to recover, {duplicates:4} duplicates of {} allowed, \
                         {rows} rows: {name}{}",
                        recovery.as_secs_f64(),
                        allowed.duplicates,
                        if round.standby { " [standby]" } else { "" }
                    );
                    self.outcomes.lock().expect("outcomes").push(outcome);
                }
                Err(failure) => {
                    return Err(format!("round {number}, after {minutes:.1} minutes, {round:?}: {failure}"));
                }
            }
        }
        Ok(())
    }

    async fn round(&self, round: &Round) -> Result<Outcome, String> {
        sleep(Duration::from_millis(round.calm_ms)).await;
        let leader = self.world.set_standby(round.standby).await?;
        let duplicates_before = self.witness.arrivals().duplicates;
        self.witness.arrivals().begin_round();
        let recent = self.watch.confirmed_within(RECORD_BEHIND);
        let reconnects_before = self.watch.totals().reconnects;

        self.world.begin(&round.first, leader).await?;
        if let Some((second, after_ms)) = &round.second {
            sleep(Duration::from_millis(*after_ms)).await;
            // A drain may fail during the first fault.
            let _undrained = self.world.begin(second, leader).await;
        }
        // With a second fault, the reason may name that one.
        if round.second.is_none() {
            self.world.says(round.first.kind.fault).await?;
        }
        let mut over = Instant::now();
        // A lost leader is started again after its standby has taken over.
        let is_taken_over = |strike: &&Strike| round.standby && strike.kind.fault.ends_leader();
        for strike in round.strikes().filter(|strike| !is_taken_over(strike)) {
            if *strike.kind.lasts_ms.end() > 0 {
                sleep(Duration::from_millis(strike.lasts_ms)).await;
                self.world.end(strike, leader).await;
                over = Instant::now();
            }
        }
        let probe = self.probe().await?;
        self.arrives(probe, "witness", &self.witness).await?;
        for strike in round.strikes() {
            self.world.mended(strike.kind.fault).await?;
        }
        let recovery = over.elapsed();
        for strike in round.strikes().filter(is_taken_over) {
            self.world.end(strike, leader).await;
        }
        self.world.settled().await?;
        self.arrives(probe, "service", &self.service).await?;
        // Time for the watch to count the last reconnect.
        sleep(Duration::from_millis(500)).await;

        let duplicates = self.witness.arrivals().duplicates - duplicates_before;
        let reconnects = self.watch.totals().reconnects - reconnects_before;
        let allowed = self.allowed(round, reconnects, recent);
        let outcome =
            Outcome { name: round.name(), faults: round.strikes().count(), recovery, duplicates, allowed };
        match self.broken_promise(round, &outcome) {
            Some(broken) => Err(broken),
            None => Ok(outcome),
        }
    }

    /// Commits a probe row and returns its number.
    async fn probe(&self) -> Result<u64, String> {
        let probing = writers::probe(&self.world.postgres_url);
        timeout(PATIENCE, probing).await.map_err(|_| "PostgreSQL takes no row".to_owned())
    }

    /// Waits until that row has arrived at the consumer of `queue`.
    async fn arrives(&self, probe: u64, queue: &str, consumer: &Consumer) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        while consumer.arrivals().first(PROBE, probe).is_none() {
            if Instant::now() > deadline {
                return Err(format!(
                    "a row committed after the fault has not come out of {queue} within {PATIENCE:?}\n{}",
                    self.world.shown().await
                ));
            }
            sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }
}

async fn setting(seed: u64, only: &str, world: &World) -> Setting {
    let sql = "SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI \"UTC\"'), current_setting('server_version')";
    let row = world.client().await.query_one(sql, &[]).await.expect("asked");
    let overview = world.broker.api(hyper::Method::GET, "/api/overview", serde_json::Value::Null).await;
    let version = |name: &str| overview[name].as_str().unwrap_or("?").to_owned();
    Setting {
        seed,
        only: only.to_owned(),
        began: row.get(0),
        postgres: row.get(1),
        rabbitmq: format!("{} on Erlang {}", version("rabbitmq_version"), version("erlang_version")),
        clocks: world.clocks.is_some(),
    }
}
