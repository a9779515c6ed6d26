//! Effect of a kill -9 during a drain: messages lost, duplicated, or out of their aggregate's order.

use crate::{
    arrivals::Arrivals,
    backlog::Backlog,
    contender::Contender,
    drain,
    figures::{Column, Table},
    queue::Queue,
    stage::{OUTBOX, Stage},
};
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

const ROWS: u32 = 50_000;
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Silence after which a relay is done, when all rows have arrived.
const QUIET: Duration = Duration::from_secs(3);
/// Silence after which the rest is lost.
const PATIENCE: Duration = Duration::from_secs(60);

const COLUMNS: &[Column] = &[
    Column { name: "lost", decimals: 0 },
    Column { name: "duplicates", decimals: 0 },
    Column { name: "out of order", decimals: 0 },
];

/// Kills each contender in turn, `rounds` times.
pub async fn run(stage: &Stage, contenders: &mut Vec<Contender>, rounds: u32) -> Vec<Table> {
    let title = format!("kill -9 in the middle of a drain of {ROWS}, and a new start");
    let mut table = Table::new(title, COLUMNS);
    table.notes = drain::prepare(stage, contenders).await;
    for _ in 0..rounds {
        Backlog { rows: ROWS, ..Default::default() }.write(&stage.client).await;
        for contender in contenders.iter_mut() {
            let rows = contender.rows_of(ROWS);
            stage.fill(contender.table(), rows).await;
            let queue = stage.fresh_queue().await;
            contender.start();
            // The drain is at full speed.
            wait(&queue, contender, |count, _| count >= rows / 5 * 2).await;
            contender.kill9().await;
            contender.start();
            let count = wait(&queue, contender, |count, unchanged| count >= rows && unchanged >= QUIET).await;
            contender.stop().await;
            let verdict = judge(stage, rows, count.max(queue.count().await)).await;
            table.add(&contender.name, &verdict);
            println!("{}", table.last_as_text(&contender.name));
        }
        stage.clear(OUTBOX).await;
    }
    vec![table]
}

/// Waits until the queue's count, and the time since its last change, satisfy `enough`. Gives up after [`PATIENCE`]
/// without a change.
async fn wait(queue: &Queue, contender: &Contender, enough: impl Fn(u32, Duration) -> bool) -> u32 {
    let (mut last, mut since) = (0, Instant::now());
    loop {
        let count = queue.count().await;
        if count != last {
            (last, since) = (count, Instant::now());
        }
        if enough(count, since.elapsed()) {
            return count;
        }
        if since.elapsed() > PATIENCE {
            println!("{} makes no more of {count}:\n{}", contender.name, contender.log_tail());
            return count;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Reads the whole queue, and returns lost rows, repeated messages, and first copies after a later row of their
/// aggregate.
async fn judge(stage: &Stage, rows: u32, messages: u32) -> [f64; 3] {
    let mut arrivals = Arrivals::of(&stage.amqp_url()).await;
    let mut copies = vec![0u32; rows as usize + 1];
    let (mut latest, mut disorder) = (HashMap::<u32, u32>::new(), 0);
    for _ in 0..messages {
        let arrival = arrivals.next(PATIENCE).await.expect("the queue gives what it counted");
        let seen = &mut copies[arrival.n as usize];
        *seen += 1;
        if *seen > 1 {
            continue;
        }
        let latest = latest.entry(arrival.aggregate).or_default();
        if arrival.n < *latest {
            disorder += 1;
        }
        *latest = arrival.n.max(*latest);
    }
    let lost = copies.iter().skip(1).filter(|copies| **copies == 0).count();
    let duplicates: u32 = copies.iter().map(|copies| copies.saturating_sub(1)).sum();
    [lost as f64, f64::from(duplicates), f64::from(disorder)]
}
