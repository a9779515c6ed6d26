//! Drain of a backlog in WAL: throughput as a share of the broker's ceiling, CPU per message, peak memory, and time
//! to the first message.

use crate::{
    backlog::Backlog,
    ceilings,
    contender::Contender,
    figures::{Column, Table},
    queue::Queue,
    stage::{NodesCpu, OUTBOX, Stage},
    usage,
};
use std::time::{Duration, Instant};

/// Interval of queries to the queue.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Time without progress after which a relay is stuck.
const PATIENCE: Duration = Duration::from_secs(60);

const COLUMNS: &[Column] = &[
    Column { name: "share of ceiling", decimals: 2 },
    Column { name: "msg/s", decimals: 0 },
    Column { name: "CPU us/message", decimals: 1 },
    Column { name: "without start-up", decimals: 1 },
    Column { name: "server's", decimals: 1 },
    Column { name: "broker's", decimals: 1 },
    Column { name: "peak RSS MB", decimals: 1 },
    Column { name: "first after ms", decimals: 0 },
];

const CEILINGS: &[Column] = &[
    Column { name: "per second", decimals: 0 },
    Column { name: "server's CPU us", decimals: 1 },
    Column { name: "broker's", decimals: 1 },
];

/// Result of one drain.
struct Drain {
    per_second: f64,
    cpu_us: f64,
    cpu_us_without_start: f64,
    /// CPU of server and broker.
    nodes_us: [f64; 2],
    peak_mb: f64,
    first_ms: f64,
}

impl Drain {
    const NOT_MEASURED: Self = Self {
        per_second: f64::NAN,
        cpu_us: f64::NAN,
        cpu_us_without_start: f64::NAN,
        nodes_us: [f64::NAN; 2],
        peak_mb: f64::NAN,
        first_ms: f64::NAN,
    };
}

/// Drains the same rows by each contender in turn. The broker's ceiling is measured before and after each.
pub async fn run(stage: &Stage, contenders: &mut Vec<Contender>, rounds: u32) -> Vec<Table> {
    let backlog = Backlog::default();
    let mut raw = Table::new(
        format!("Ceilings: {} single-row transactions, {}-byte payload", backlog.rows, backlog.payload_bytes),
        CEILINGS,
    );
    let mut drains = Table::new(
        format!(
            "Drain of {} single-row transactions over 10,000 random aggregates, {}-byte payload, one quorum queue",
            backlog.rows, backlog.payload_bytes
        ),
        COLUMNS,
    );
    drains.notes = prepare(stage, contenders).await;
    ceilings::prepare_decoding(stage).await;
    for round in 0..rounds as usize {
        // The first pass moves the slot's confirmed position, only the second its start of reading: a `restart_lsn`
        // that waits for its confirm keeps later ones out.
        for _ in 0..2 {
            drains.notes.extend(catch_up(stage, contenders).await);
        }
        ceilings::catch_up(stage).await;
        backlog.write(&stage.client).await;
        raw.add("decoding alone", &decoding(stage, &backlog).await);
        raw.add("broker alone, all of outboxd's headers", &broker(stage, &backlog, true).await);
        let mut ceiling = broker(stage, &backlog, false).await;
        raw.add("broker alone", &ceiling);
        for turn in 0..contenders.len() {
            // The order rotates.
            let next = (turn + round) % contenders.len();
            let contender = &mut contenders[next];
            let drained = drain(stage, contender, backlog.rows).await;
            let drained = drained.unwrap_or_else(|problem| {
                println!("{problem}");
                drains.notes.push(format!("Round {}: {problem}", round + 1));
                Drain::NOT_MEASURED
            });
            let after = broker(stage, &backlog, false).await;
            raw.add("broker alone", &after);
            let ceiling_then = (ceiling[0] + after[0]) / 2.0;
            ceiling = after;
            let [server_us, broker_us] = drained.nodes_us;
            let samples: [f64; 8] = [
                drained.per_second / ceiling_then,
                drained.per_second,
                drained.cpu_us,
                drained.cpu_us_without_start,
                server_us,
                broker_us,
                drained.peak_mb,
                drained.first_ms,
            ];
            drains.add(&contender.name, &samples);
            println!("round {}: {}", round + 1, drains.last_as_text(&contender.name));
        }
        stage.clear(OUTBOX).await;
    }
    vec![raw, drains]
}

/// Sets up all contenders, and lets each drain a few rows without measuring. Omits those that fail, and returns the
/// reasons.
pub async fn prepare(stage: &Stage, contenders: &mut Vec<Contender>) -> Vec<String> {
    let mut problems = Vec::new();
    for contender in std::mem::take(contenders) {
        match contender.prepare().await {
            Ok(()) => contenders.push(contender),
            Err(problem) => problems.push(left_out(problem)),
        }
    }
    problems.extend(catch_up(stage, contenders).await);
    problems
}

/// Lets each contender drain a few rows without measuring, so that its slot is at the end of WAL and it does not
/// decode other contenders' tables. Omits those that fail.
async fn catch_up(stage: &Stage, contenders: &mut Vec<Contender>) -> Vec<String> {
    let few = Backlog { rows: 1_000, ..Default::default() };
    few.write(&stage.client).await;
    let mut problems = Vec::new();
    for mut contender in std::mem::take(contenders) {
        match drain(stage, &mut contender, few.rows).await {
            Ok(_) => contenders.push(contender),
            Err(problem) => problems.push(left_out(problem)),
        }
    }
    stage.clear(OUTBOX).await;
    problems
}

fn left_out(problem: String) -> String {
    println!("left out: {problem}");
    problem
}

/// Returns rows decoded per second, and the CPU of server and broker for each.
async fn decoding(stage: &Stage, backlog: &Backlog) -> [f64; 3] {
    with_cpu(stage, backlog, ceilings::decoding(stage, backlog.rows)).await
}

/// Returns messages confirmed per second, and the CPU of server and broker for each.
async fn broker(stage: &Stage, backlog: &Backlog, like_outboxd: bool) -> [f64; 3] {
    let _queue = stage.fresh_queue().await;
    let publishing = ceilings::broker(stage, backlog.rows, backlog.payload_bytes as usize, like_outboxd);
    with_cpu(stage, backlog, publishing).await
}

/// Returns a ceiling, and the CPU of server and broker for each row meanwhile.
async fn with_cpu(stage: &Stage, backlog: &Backlog, ceiling: impl Future<Output = f64>) -> [f64; 3] {
    let before = stage.cpu().await;
    let per_second = ceiling.await;
    let [server_us, broker_us] = stage.cpu().await.us_each(&before, backlog.rows);
    [per_second, server_us, broker_us]
}

async fn drain(stage: &Stage, contender: &mut Contender, rows: u32) -> Result<Drain, String> {
    let rows = contender.rows_of(rows);
    stage.fill(contender.table(), rows).await;
    let queue = stage.fresh_queue().await;
    let begun = Instant::now();
    let before = stage.cpu().await;
    contender.start();
    let drained = watch(stage, contender, &queue, (begun, before), rows).await;
    match &drained {
        Ok(_) => contender.stop().await,
        Err(problem) => {
            println!("{problem}:\n{}", contender.log_tail());
            contender.kill9().await;
        }
    }
    drained
}

async fn watch(
    stage: &Stage,
    contender: &Contender,
    queue: &Queue,
    (begun, nodes): (Instant, NodesCpu),
    rows: u32,
) -> Result<Drain, String> {
    let pid = contender.pid();
    let ended = || format!("{} ended by itself", contender.name);
    let mut first = None;
    let (mut last, mut progress) = (0, begun);
    let done = loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let count = queue.count().await;
        let now = Instant::now();
        if count > 0 && first.is_none() {
            first = Some((now, count, usage::cpu(pid).ok_or_else(ended)?));
        }
        if count >= rows {
            break now;
        }
        if count > last {
            (last, progress) = (count, now);
        }
        if progress.elapsed() > PATIENCE {
            return Err(format!("{} is stuck at {last} of {rows} rows", contender.name));
        }
    };
    let cpu = usage::cpu(pid).ok_or_else(ended)?;
    let peak_mb = usage::peak_mb(pid).ok_or_else(ended)?;
    let (first, before, cpu_before) = first.expect("seen before the end");
    let rest = f64::from(rows.saturating_sub(before).max(1));
    Ok(Drain {
        per_second: rest / (done - first).as_secs_f64(),
        cpu_us: cpu.as_secs_f64() * 1e6 / f64::from(rows),
        cpu_us_without_start: (cpu - cpu_before).as_secs_f64() * 1e6 / rest,
        nodes_us: stage.cpu().await.us_each(&nodes, rows),
        peak_mb,
        first_ms: (first - begun).as_secs_f64() * 1e3,
    })
}
