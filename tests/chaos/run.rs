//! A run: peace, a fault or two, recovery, again and again; then the verdict.

use std::{
    path::Path,
    sync::{Arc, Mutex, atomic::Ordering},
    time::{Duration, Instant},
};

use tokio::time::{sleep, timeout};

use crate::{
    plan::{Plan, Round, Strike},
    queues::{self, Consumer},
    report::{Allowed, Outcome, Report, Setting, Sums},
    verdict::{Verdict, judge},
    watch::Watch,
    world::{IN_FLIGHT_MAX, PATIENCE, World},
    writers::{self, PROBE, ROWS_MAX, Writers},
};

/// Of an instance, whatever happens: in flight are at most 16 MB, and batches of rows, frames and confirms come on top.
const MEMORY_MAX_MB: u64 = 120;

/// PostgreSQL saves a slot's position when its `restart_lsn` moves, for which the background writer logs something every
/// 15 s, and at checkpoints; one that restarts has forgotten what came after. Twice that is allowed.
const SLOT_SAVED_EVERY: Duration = Duration::from_secs(30);

/// When a run is over.
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

    /// A short run has no time for long peace.
    fn calm_ms_max(self) -> u64 {
        match self {
            Extent::Rounds(_) => 800,
            Extent::Time(_) => 3_000,
        }
    }
}

/// A world under faults, and who looks on.
struct Run {
    world: World,
    watch: Watch,
    witness: Consumer,
    service: Consumer,
    began: Instant,
    outcomes: Mutex<Vec<Outcome>>,
}

/// Runs to the end, or to the first broken promise; then the logs are in `logs`.
pub(crate) async fn run(seed: u64, extent: Extent, logs: &Path) -> Report {
    let world = World::create().await;
    let setting = setting(seed, &world).await;
    let writers = Writers::start(&world.postgres_url, seed);
    let run = Arc::new(Run {
        watch: Watch::start(world.instances.clone()),
        witness: queues::witness(&world.amqp_url),
        service: queues::service(&world.amqp_url),
        world,
        began: Instant::now(),
        outcomes: Mutex::default(),
    });
    // A task of its own, so that a panic leaves the logs behind, too.
    let rounds = tokio::spawn({
        let run = run.clone();
        async move { run.rounds(seed, extent).await }
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
    // A world that was left in mid-fault has no end worth looking at.
    if !broken {
        run.conclude(writers, &mut report).await;
    }
    if !report.failures.is_empty() {
        run.world.keep_logs(logs);
    }
    report
}

impl Run {
    async fn rounds(&self, seed: u64, extent: Extent) -> Result<(), String> {
        let mut plan = Plan::new(seed, extent.calm_ms_max());
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
        let recent = self.watch.confirmed_within(SLOT_SAVED_EVERY);
        let reconnects_before = self.watch.totals().reconnects;

        self.world.begin(&round.first, leader).await;
        if let Some((second, after_ms)) = &round.second {
            sleep(Duration::from_millis(*after_ms)).await;
            self.world.begin(second, leader).await;
        }
        let mut over = Instant::now();
        // A leader that is gone is started again once its standby has taken over.
        let is_taken_over = |strike: &&Strike| round.standby && strike.kind.fault.ends_leader();
        for strike in round.strikes().filter(|strike| !is_taken_over(strike)) {
            if *strike.kind.lasts_ms.end() > 0 {
                sleep(Duration::from_millis(strike.lasts_ms)).await;
                self.world.end(strike, leader).await;
                over = Instant::now();
            }
        }
        self.probe().await?;
        let recovery = over.elapsed();
        for strike in round.strikes().filter(is_taken_over) {
            self.world.end(strike, leader).await;
        }
        self.world.settled().await?;
        // For the watch to have seen the last reconnect.
        sleep(Duration::from_millis(500)).await;

        let duplicates = self.witness.arrivals().duplicates - duplicates_before;
        let reconnects = self.watch.totals().reconnects - reconnects_before;
        let allowed = self.allowed(round, reconnects, recent);
        let outcome =
            Outcome { name: round.name(), faults: round.strikes().count(), recovery, duplicates, allowed };
        match self.broken_promise(&outcome) {
            Some(broken) => Err(broken),
            None => Ok(outcome),
        }
    }

    /// Commits a row and waits until it has arrived.
    async fn probe(&self) -> Result<(), String> {
        let number = timeout(PATIENCE, writers::probe(&self.world.postgres_url))
            .await
            .map_err(|_| "PostgreSQL takes no row".to_owned())?;
        let deadline = Instant::now() + PATIENCE;
        while self.witness.arrivals().first(PROBE, number).is_none() {
            if Instant::now() > deadline {
                return Err(format!(
                    "a row committed after the fault has not arrived within {PATIENCE:?}\n{}",
                    self.world.shown().await
                ));
            }
            sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// What the promise allows: what was in flight, for each lost connection; after the loss of a process also what was
    /// confirmed in the last 100 ms (a second, as the machine is busy) and the beginning of a transaction that was not
    /// whole. A server that restarts has forgotten some seconds of its slot's position, which the process that has the slot
    /// knows: only when that one is lost, too, or another gets the slot, are those seconds repeated.
    fn allowed(&self, round: &Round, reconnects: u64, recent: u64) -> Allowed {
        let totals = self.watch.totals().clone();
        let lossy = round.strikes().filter(|strike| !strike.kind.fault.repeats_nothing()).count() as u64;
        let process_lost =
            lossy > 0 && (round.standby || round.strikes().any(|strike| strike.kind.fault.ends_leader()));
        let slot_set_back =
            process_lost && round.strikes().any(|strike| strike.kind.fault.forgets_slot_position());
        let duplicates = (reconnects + lossy) * IN_FLIGHT_MAX
            + if process_lost { totals.rate_peak + ROWS_MAX as u64 } else { 0 }
            + if slot_set_back { recent + totals.rate_peak } else { 0 };
        Allowed { duplicates, slot_set_back }
    }

    fn broken_promise(&self, outcome: &Outcome) -> Option<String> {
        let few = |sentences: &[String]| sentences.iter().take(5).cloned().collect::<Vec<_>>().join("\n");
        for (queue, consumer) in [("witness", &self.witness), ("service", &self.service)] {
            let arrivals = consumer.arrivals();
            if !arrivals.out_of_order.is_empty() {
                return Some(format!("out of order at {queue}: {}", few(&arrivals.out_of_order)));
            }
            if !arrivals.unlike.is_empty() {
                return Some(format!("unlike at {queue}: {}", few(&arrivals.unlike)));
            }
        }
        let witness = self.witness.arrivals();
        if witness.missing > 0 {
            return Some(format!("{} rows overtaken or lost: {}", witness.missing, few(&witness.gaps())));
        }
        if outcome.duplicates > outcome.allowed.duplicates {
            return Some(format!(
                "{} duplicates, {} allowed",
                outcome.duplicates, outcome.allowed.duplicates
            ));
        }
        let totals = self.watch.totals();
        if totals.memory_peak_mb > MEMORY_MAX_MB {
            return Some(format!("an instance took {} MB of memory", totals.memory_peak_mb));
        }
        totals.deaths.first().cloned()
    }

    /// Lets everything arrive and compares it with the table.
    async fn conclude(&self, writers: Writers, report: &mut Report) {
        let written = match timeout(PATIENCE, writers.stop()).await {
            Ok(written) => written,
            Err(_) => return report.failures.push("the writers do not come to an end".to_owned()),
        };
        let client = self.world.client().await;
        let count = async |condition: &str| -> u64 {
            let sql = format!("SELECT count(*) FROM outbox WHERE {condition}");
            client.query_one(&sql, &[]).await.expect("rows counted").get::<_, i64>(0) as u64
        };
        let steady = format!("type = '{}'", queues::STEADY);
        let (rows, steady_rows) = (count("true").await, count(&steady).await);
        let arrived = || {
            let (witness, service) = (self.witness.arrivals().distinct, self.service.arrivals().distinct);
            witness >= rows && service >= steady_rows
        };
        let deadline = Instant::now() + PATIENCE;
        while !arrived() && Instant::now() < deadline {
            sleep(Duration::from_millis(50)).await;
        }
        // Late copies, and what should not come at all.
        sleep(Duration::from_secs(1)).await;
        if let Err(failure) = self.end_in_good_order(&client).await {
            report.failures.push(failure);
        }
        // Taken, not locked: the consumers go on.
        let [witness, service] =
            [&self.witness, &self.service].map(|consumer| std::mem::take(&mut *consumer.arrivals()));
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        report.sums = Sums {
            transactions: load(&written.committed),
            rolled_back: load(&written.rolled_back),
            savepoints: load(&written.savepoints),
            unknown: load(&written.unknown),
            broken: load(&written.broken),
            duplicates: witness.duplicates,
            redelivered: service.redelivered,
            out_of_order: (witness.out_of_order.len() + service.out_of_order.len()) as u64,
            unlike: (witness.unlike.len() + service.unlike.len()) as u64,
        };
        report.totals = self.watch.totals().clone();
        (report.witness, report.service) =
            tokio::join!(judge(&client, "true", &witness), judge(&client, &steady, &service));
        for (queue, verdict) in [("witness", &report.witness), ("service", &report.service)] {
            report.failures.extend(verdict.failure().map(|failure| format!("{queue}: {failure}")));
        }
    }

    /// The slot follows, and the instances drain.
    async fn end_in_good_order(&self, client: &tokio_postgres::Client) -> Result<(), String> {
        let leader = self.world.set_standby(false).await?;
        let wal_end: String =
            client.query_one("SELECT pg_current_wal_lsn()::text", &[]).await.expect("asked").get(0);
        let follows = "SELECT confirmed_flush_lsn >= $1::text::pg_lsn FROM pg_replication_slots";
        let deadline = Instant::now() + PATIENCE;
        while !client.query_one(follows, &[&wal_end]).await.expect("one slot").get::<_, bool>(0) {
            if Instant::now() > deadline {
                return Err(format!("the slot does not follow to {wal_end}"));
            }
            sleep(Duration::from_millis(50)).await;
        }
        let status = self.world.instances[leader].daemon.lock().await.sigterm(PATIENCE).await;
        if status.success() { Ok(()) } else { Err(format!("in the end outboxd exits with {status}")) }
    }
}

async fn setting(seed: u64, world: &World) -> Setting {
    let sql = "SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI \"UTC\"'), current_setting('server_version')";
    let row = world.client().await.query_one(sql, &[]).await.expect("asked");
    let overview = world.broker.api(hyper::Method::GET, "/api/overview", serde_json::Value::Null).await;
    let version = |name: &str| overview[name].as_str().unwrap_or("?").to_owned();
    Setting {
        seed,
        began: row.get(0),
        postgres: row.get(1),
        rabbitmq: format!("{} on Erlang {}", version("rabbitmq_version"), version("erlang_version")),
        clocks: world.clocks.is_some(),
    }
}
