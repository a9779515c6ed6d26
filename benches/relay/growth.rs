//! Growth: throughput, CPU per message and memory with more sources, backlog, payload, transactions, aggregates,
//! queues or distance.

use crate::{
    backlog::{Aggregates, Backlog},
    contender::Contender,
    distance::Distance,
    figures::{Column, Table},
    queue::Queue,
    stage::{DATABASE, OUTBOX, Stage, VHOST},
    usage,
};
use std::time::{Duration, Instant};
use testkit::{create_outbox, unique};

const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Share of a drain after which all sources have long been connected.
const UNDER_WAY: f64 = 0.25;
const PATIENCE: Duration = Duration::from_secs(120);

const COLUMNS: &[Column] = &[
    Column { name: "msg/s", decimals: 0 },
    Column { name: "MB/s", decimals: 1 },
    Column { name: "CPU us/message", decimals: 1 },
    Column { name: "under way", decimals: 1 },
    Column { name: "peak RSS MB", decimals: 1 },
];

/// Case of one drain.
struct Case {
    name: String,
    backlog: Backlog,
    sources: u32,
    queues: u32,
    queue_kind: &'static str,
    ordering: &'static str,
    in_flight_max: Option<u32>,
    to_postgres: Duration,
    to_broker: Duration,
}

impl Case {
    fn named(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            backlog: Backlog { rows: 50_000, ..Default::default() },
            sources: 1,
            queues: 1,
            queue_kind: "quorum",
            ordering: "per-aggregate",
            in_flight_max: None,
            to_postgres: Duration::ZERO,
            to_broker: Duration::ZERO,
        }
    }
}

/// Measures every case of a dimension, `rounds` times.
pub async fn run(stage: &Stage, dimension: &str, rounds: u32) -> Vec<Table> {
    let mut table = Table::new(dimension, COLUMNS);
    for _ in 0..rounds {
        for case in cases(dimension) {
            let samples = drain(stage, &case).await;
            table.add(&case.name, &samples);
            println!("{}", table.last_as_text(&case.name));
        }
    }
    vec![table]
}

fn cases(dimension: &str) -> Vec<Case> {
    let orderings = ["per-aggregate", "pipelined"];
    let ms = Duration::from_millis;
    let backlog_max = std::env::var("BACKLOG_MAX").ok().and_then(|max| max.parse().ok()).unwrap_or(1_000_000);
    let rows = |rows, per_transaction| Backlog { rows, per_transaction, ..Default::default() };
    match dimension {
        "sources" => [1, 4, 16, 32]
            .map(|sources| Case {
                sources,
                backlog: rows(320_000 / sources, 1),
                ..Case::named(format!("{sources} sources"))
            })
            .into(),
        "backlog" => [10_000, 100_000, 1_000_000, 10_000_000]
            .into_iter()
            .filter(|count| *count <= backlog_max)
            .map(|count| Case { backlog: rows(count, 1), ..Case::named(format!("{count} rows")) })
            .collect(),
        "payload" => [(100, 50_000), (1_000, 50_000), (10_000, 10_000), (100_000, 1_000), (1_000_000, 100)]
            .map(|(payload_bytes, rows)| Case {
                backlog: Backlog { rows, payload_bytes, ..Default::default() },
                ..Case::named(format!("{payload_bytes} bytes"))
            })
            .into(),
        "transactions" => {
            [(1, 100_000), (10, 100_000), (1_000, 100_000), (100_000, 100_000), (1_000_000, 1_000_000)]
                .map(|(each, all)| Case {
                    backlog: rows(all, each),
                    ..Case::named(format!("{each} rows each"))
                })
                .into()
        }
        "aggregates" => orderings
            .into_iter()
            .flat_map(|ordering| {
                let kinds = [
                    ("1", Aggregates::Uniform(1)),
                    ("10", Aggregates::Uniform(10)),
                    ("10,000", Aggregates::Uniform(10_000)),
                    ("Zipf over 10,000", Aggregates::Zipf(10_000)),
                ];
                kinds.map(|(name, aggregates)| Case {
                    ordering,
                    backlog: Backlog { rows: 20_000, aggregates, ..Default::default() },
                    ..Case::named(format!("{ordering}, {name}"))
                })
            })
            .collect(),
        "queues" => {
            [1, 4, 16].map(|queues| Case { queues, ..Case::named(format!("{queues} queues")) }).into()
        }
        "kinds" => ["classic", "quorum", "stream"]
            .map(|queue_kind| Case { queue_kind, ..Case::named(queue_kind) })
            .into(),
        "distance" => orderings
            .into_iter()
            .flat_map(|ordering| {
                let ways = [(0, 0), (0, 1), (0, 10), (0, 50), (1, 0), (10, 0), (50, 0), (10, 10)];
                ways.map(|(postgres, broker)| Case {
                    ordering,
                    to_postgres: ms(postgres),
                    to_broker: ms(broker),
                    ..Case::named(format!("{ordering}, PostgreSQL {postgres} ms, broker {broker} ms"))
                })
            })
            .collect(),
        "window" => orderings
            .into_iter()
            .flat_map(|ordering| {
                [64, 256, 1024, 4096, 16_384, 65_536].map(|max| Case {
                    ordering,
                    to_broker: ms(10),
                    in_flight_max: Some(max),
                    ..Case::named(format!("{ordering}, {max} in flight"))
                })
            })
            .collect(),
        other => unreachable!("{other} is no dimension"),
    }
}

async fn drain(stage: &Stage, case: &Case) -> [f64; 5] {
    let mut databases = vec![DATABASE.to_owned()];
    for _ in 1..case.sources {
        let name = unique("growth");
        stage.postgres.create_database(&name).await;
        create_outbox(&stage.postgres.client(&name).await, OUTBOX).await;
        databases.push(name);
    }
    let far_postgres = Distance::to(stage.postgres.port(), case.to_postgres);
    let far_broker = Distance::to(stage.broker.port(), case.to_broker);
    let postgres_port = if case.to_postgres.is_zero() { stage.postgres.port() } else { far_postgres.port() };
    let broker_port = if case.to_broker.is_zero() { stage.broker.port() } else { far_broker.port() };
    let mut config = format!("[rabbitmq]\nurl = \"amqp://guest:guest@127.0.0.1:{broker_port}/{VHOST}\"\n");
    for database in &databases {
        let name = unique("growth");
        config += &format!(
            "[sources.{name}]\npostgres.url = \"postgresql://postgres@127.0.0.1:{postgres_port}/{database}\"\n\
             delivery.ordering = \"{}\"\n",
            case.ordering
        );
        if let Some(max) = case.in_flight_max {
            config += &format!("delivery.in_flight_max = {max}\n");
        }
    }
    let mut contender = Contender::configured(&case.name, &config);
    contender.prepare().await.expect("outboxd is set up");

    let mut queues = vec![Queue::fresh(&stage.amqp_url(), case.queue_kind).await];
    for number in 1..case.queues {
        let name = format!("bench-{number}");
        queues.push(Queue::named(&stage.amqp_url(), &name, case.queue_kind).await);
    }
    for database in &databases {
        case.backlog.write(&stage.postgres.client(database).await).await;
    }
    let samples = watch(&mut contender, case, &queues[0]).await;
    for queue in queues {
        queue.delete().await;
    }
    // Nobody reads these slots again, and they would retain WAL.
    let drop = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots";
    stage.client.batch_execute(drop).await.expect("slots dropped");
    stage.clear(OUTBOX).await;
    for database in &databases[1..] {
        let drop = format!("DROP DATABASE {database} WITH (FORCE)");
        stage.client.batch_execute(&drop).await.expect("database dropped");
    }
    samples
}

/// Messages are counted in the queue, because a request costs outboxd CPU, more with more sources. For a stream the
/// broker reports no number of messages.
async fn watch(contender: &mut Contender, case: &Case, queue: &Queue) -> [f64; 5] {
    let rows = f64::from(case.backlog.rows * case.sources);
    contender.start();
    let cpu = |contender: &Contender| usage::cpu(contender.pid()).expect("it runs").as_secs_f64();
    let (mut first, mut under_way, mut last, mut progress) = (None, None, 0.0, Instant::now());
    let ended = loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let count = match case.queue_kind {
            "stream" => contender.confirmed().await,
            _ => f64::from(queue.count().await),
        };
        let now = Instant::now();
        if count > last {
            first.get_or_insert((now, count));
            (last, progress) = (count, now);
        }
        if count > rows * UNDER_WAY {
            under_way.get_or_insert_with(|| (count, cpu(contender)));
        }
        if count >= rows {
            break now;
        }
        assert!(progress.elapsed() < PATIENCE, "{} is stuck:\n{}", case.name, contender.log_tail());
    };
    let all = cpu(contender);
    let peak_mb = usage::peak_mb(contender.pid()).expect("it runs");
    contender.stop().await;
    let (begun, before) = first.expect("seen before the end");
    let per_second = (rows - before) / (ended - begun).as_secs_f64();
    let (before, cpu_before) = under_way.expect("seen before the end");
    let under_way = (all - cpu_before) / (rows - before);
    [
        per_second,
        per_second * f64::from(case.backlog.payload_bytes) / 1e6,
        all * 1e6 / rows,
        under_way * 1e6,
        peak_mb,
    ]
}
