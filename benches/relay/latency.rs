//! Latency from commit to consumer at 500 events per second, beside a service that publishes straight after its
//! commit.
//!
//! The time of an event starts when its service sends COMMIT, and stops when the consumer, in this process, has the
//! message. A service that publishes by itself writes the same row, so only the way after the commit differs.

use crate::{
    arrivals::Arrivals,
    contender::Contender,
    drain,
    figures::{Column, Series, Table},
    queue::EXCHANGE,
    stage::Stage,
    usage,
};
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use testkit::create_outbox;
use tokio::task::JoinSet;

const PER_SECOND: u32 = 500;
/// Events that are not counted: a virtual machine compiles meanwhile.
const WARM_UP: u32 = 5 * PER_SECOND;
const COUNTED: u32 = 20 * PER_SECOND;
/// Connections of the service, which events use in turn.
const WRITERS: u32 = 16;
/// Time after the last write after which an event is lost, or late beyond measure.
const PATIENCE: Duration = Duration::from_secs(20);
/// Limit for the start of a relay.
const START_LIMIT: Duration = Duration::from_secs(90);
/// Silence after which earlier events have arrived.
const QUIET: Duration = Duration::from_millis(500);
/// Numbers from here on are probes, which show that a relay has reached the end of WAL.
const PROBES: u32 = 1_000_000;
/// Table of the service's events when it publishes by itself.
const UNWATCHED_TABLE: &str = "outbox_unwatched";
const DIRECTLY: &str = "no relay: published after the commit";

const COLUMNS: &[Column] = &[
    Column { name: "p50 ms", decimals: 2 },
    Column { name: "p90 ms", decimals: 2 },
    Column { name: "p99 ms", decimals: 2 },
    Column { name: "max ms", decimals: 1 },
    Column { name: "p50 ratio", decimals: 2 },
    Column { name: "p99 ratio", decimals: 2 },
    Column { name: "CPU ms/s", decimals: 0 },
    Column { name: "missing", decimals: 0 },
];

/// Measures all in turn, `rounds` times.
pub async fn run(stage: &Stage, contenders: &mut Vec<Contender>, rounds: u32) -> (Vec<Table>, Vec<Series>) {
    let title = format!(
        "Commit to consumer at {PER_SECOND} events/s, one event a transaction, {WRITERS} connections"
    );
    let mut table = Table::new(title, COLUMNS);
    let mut all: Vec<(String, Vec<f64>)> = Vec::new();
    create_outbox(&stage.client, UNWATCHED_TABLE).await;
    table.notes = drain::prepare(stage, contenders).await;
    for round in 0..rounds as usize {
        let direct = measure(stage, None).await.expect("nothing but the nodes");
        let floor = [direct.at(0.5), direct.at(0.99)];
        add(&mut table, DIRECTLY, &direct, floor, &mut all);
        for turn in 0..contenders.len() {
            let next = (turn + round) % contenders.len();
            let contender = &mut contenders[next];
            match measure(stage, Some(contender)).await {
                Ok(latencies) => add(&mut table, &contender.name, &latencies, floor, &mut all),
                Err(problem) => {
                    println!("{problem}:\n{}", contender.log_tail());
                    contender.kill9().await;
                    table.notes.push(format!("Round {}: {problem}", round + 1));
                }
            }
            stage.clear(contender.table()).await;
        }
    }
    let series = all.into_iter().map(|(name, latencies)| distribution(name, latencies)).collect();
    (vec![table], series)
}

/// Latencies of a run, sorted, in ms.
struct Latencies {
    sorted: Vec<f64>,
    cpu_ms_per_s: f64,
}

impl Latencies {
    fn at(&self, share: f64) -> f64 {
        quantile(&self.sorted, share)
    }
}

fn quantile(sorted: &[f64], share: f64) -> f64 {
    if sorted.is_empty() { f64::NAN } else { sorted[((sorted.len() - 1) as f64 * share) as usize] }
}

fn add(table: &mut Table, name: &str, run: &Latencies, floor: [f64; 2], all: &mut Vec<(String, Vec<f64>)>) {
    let [p50, p99] = [0.5, 0.99].map(|share| run.at(share));
    let missing = COUNTED as usize - run.sorted.len();
    let samples = [
        p50,
        run.at(0.9),
        p99,
        run.at(1.0),
        p50 / floor[0],
        p99 / floor[1],
        run.cpu_ms_per_s,
        missing as f64,
    ];
    table.add(name, &samples);
    println!("{}", table.last_as_text(name));
    match all.iter_mut().find(|(known, _)| known == name) {
        Some((_, latencies)) => latencies.extend(&run.sorted),
        None => all.push((name.to_owned(), run.sorted.clone())),
    }
}

/// Returns the latency that a share of the events does not exceed. Shares are counted in nines: 2 is 0.99, 3 is
/// 0.999.
fn distribution(name: String, mut latencies: Vec<f64>) -> Series {
    latencies.sort_by(f64::total_cmp);
    let nines = (0..=60).map(|step| f64::from(step) / 20.0);
    let points = nines.map(|nines| (nines, quantile(&latencies, 1.0 - 10f64.powf(-nines))));
    Series::new(name, points.filter(|(_, ms)| ms.is_finite()))
}

async fn measure(stage: &Stage, contender: Option<&mut Contender>) -> Result<Latencies, String> {
    let _queue = stage.fresh_queue().await;
    let mut arrivals = Arrivals::of(&stage.amqp_url()).await;
    let total = WARM_UP + COUNTED;
    let service = Arc::new(Service::new(total));
    let Some(contender) = contender else {
        let writing = write(stage, &service, UNWATCHED_TABLE, true);
        let (sorted, ()) = tokio::join!(collect(&mut arrivals, &service, total), writing);
        return Ok(Latencies { sorted, cpu_ms_per_s: f64::NAN });
    };
    contender.start();
    // Its slot holds the events of other contenders' turns, too. The probe comes after them, except for a few that
    // wait for another of their aggregate. None of them may count in this turn.
    let probe = PROBES + fastrand::u32(..1_000_000);
    stage.write_one(contender.table(), probe).await;
    loop {
        match arrivals.next(START_LIMIT).await {
            Some(arrival) if arrival.n == probe => break,
            Some(_) => {}
            None => return Err(format!("{} publishes nothing", contender.name)),
        }
    }
    while arrivals.next(QUIET).await.is_some() {}
    let pid = contender.pid();
    let ended = || format!("{} ended by itself", contender.name);
    let before = usage::cpu(pid).ok_or_else(ended)?;
    let begun = Instant::now();
    let writing = async {
        write(stage, &service, contender.table(), false).await;
        usage::cpu(pid).map(|cpu| (cpu - before).as_secs_f64() * 1e3 / begun.elapsed().as_secs_f64())
    };
    let (sorted, cpu_ms_per_s) = tokio::join!(collect(&mut arrivals, &service, total), writing);
    let cpu_ms_per_s = cpu_ms_per_s.ok_or_else(ended)?;
    contender.stop().await;
    Ok(Latencies { sorted, cpu_ms_per_s })
}

/// Waits for all events and returns the latencies of the counted ones.
async fn collect(arrivals: &mut Arrivals, service: &Service, total: u32) -> Vec<f64> {
    let mut seen = vec![false; total as usize + 1];
    let (mut missing, mut sorted) = (total, Vec::with_capacity(COUNTED as usize));
    let until = Instant::now() + Duration::from_secs(u64::from(total / PER_SECOND)) + PATIENCE;
    while missing > 0 {
        let Some(arrival) = arrivals.next(until.saturating_duration_since(Instant::now())).await else {
            break;
        };
        let n = arrival.n as usize;
        if n == 0 || n >= seen.len() || std::mem::replace(&mut seen[n], true) {
            continue;
        }
        missing -= 1;
        if arrival.n > WARM_UP {
            sorted.push(service.since_commit(arrival.n, arrival.at).as_secs_f64() * 1e3);
        }
    }
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// Times at which COMMIT was sent.
struct Service {
    base: Instant,
    commits: Vec<AtomicU64>,
}

impl Service {
    fn new(events: u32) -> Self {
        let commits = (0..=events).map(|_| AtomicU64::new(0)).collect();
        Self { base: Instant::now(), commits }
    }

    fn commits_now(&self, n: u32) {
        self.commits[n as usize].store(self.base.elapsed().as_nanos() as u64, Ordering::SeqCst);
    }

    fn since_commit(&self, n: u32, at: Instant) -> Duration {
        let commit = Duration::from_nanos(self.commits[n as usize].load(Ordering::SeqCst));
        (at - self.base).saturating_sub(commit)
    }
}

/// Writes all events at their times, and publishes them if there is no relay.
async fn write(stage: &Stage, service: &Arc<Service>, table: &'static str, publish: bool) {
    let connection =
        Connection::connect(&stage.amqp_url(), ConnectionProperties::default()).await.expect("connected");
    let begin = Instant::now() + Duration::from_millis(100);
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let client = stage.postgres.client(crate::stage::DATABASE).await;
        let channel = connection.create_channel().await.expect("channel");
        channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
        let service = service.clone();
        writers.spawn(write_some(client, publish.then_some(channel), service, table, writer, begin));
    }
    while let Some(written) = writers.join_next().await {
        written.expect("a writer does not panic");
    }
}

async fn write_some(
    mut client: tokio_postgres::Client,
    channel: Option<Channel>,
    service: Arc<Service>,
    table: &str,
    writer: u32,
    begin: Instant,
) {
    let insert = format!(
        "INSERT INTO {table} (aggregatetype, aggregateid, type, payload) \
         VALUES ('Order', $1, 'OrderCreated', $2::text::jsonb)"
    );
    let insert = client.prepare(&insert).await.expect("prepared");
    let filler = "x".repeat(260);
    for n in (1 + writer..=WARM_UP + COUNTED).step_by(WRITERS as usize) {
        tokio::time::sleep_until((begin + Duration::from_secs(1) * n / PER_SECOND).into()).await;
        let aggregate = fastrand::u32(1..=10_000).to_string();
        let body = format!("{{\"n\": {n}, \"a\": \"{aggregate}\", \"filler\": \"{filler}\"}}");
        let transaction = client.transaction().await.expect("transaction");
        transaction.execute(&insert, &[&aggregate, &body]).await.expect("inserted");
        service.commits_now(n);
        transaction.commit().await.expect("committed");
        if let Some(channel) = &channel {
            publish(channel, &body).await.expect("published and confirmed");
        }
    }
}

async fn publish(channel: &Channel, body: &str) -> Result<(), lapin::Error> {
    let options = BasicPublishOptions { mandatory: true, ..Default::default() };
    let properties =
        BasicProperties::default().with_delivery_mode(2).with_content_type("application/json".into());
    let confirm = channel
        .basic_publish(EXCHANGE.into(), "OrderCreated".into(), options, body.as_bytes(), properties)
        .await?;
    confirm.await.map(|_| ())
}
