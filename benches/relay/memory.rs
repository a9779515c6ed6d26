//! Resident memory of outboxd with default settings: idle, draining, in one huge transaction, and without the broker.

use crate::{
    backlog::Backlog,
    contender::Contender,
    figures::{Column, Series, Table},
    queue::Queue,
    stage::{OUTBOX, Stage},
    usage,
};
use std::time::{Duration, Instant};

const SAMPLE_EVERY: Duration = Duration::from_millis(50);
/// Time of idleness, and of the broker's absence.
const WHILE_IDLE: Duration = Duration::from_secs(10);
const WHILE_AWAY: Duration = Duration::from_secs(20);
const PATIENCE: Duration = Duration::from_secs(300);

const COLUMNS: &[Column] =
    &[Column { name: "resident MB", decimals: 1 }, Column { name: "peak MB", decimals: 1 }];

/// Observed memory of a process.
struct Watch {
    pid: u32,
    begun: Instant,
    points: Vec<(f64, f64)>,
}

impl Watch {
    fn of(contender: &Contender) -> Self {
        Self { pid: contender.pid(), begun: Instant::now(), points: Vec::new() }
    }

    /// Samples until the queue holds this many messages, or for `limit`.
    async fn until(&mut self, queue: Option<(&Queue, u32)>, limit: Duration) {
        let end = Instant::now() + limit;
        while Instant::now() < end {
            let at = self.begun.elapsed().as_secs_f64();
            self.points.push((at, usage::resident_mb(self.pid).expect("it runs")));
            if let Some((queue, wanted)) = queue
                && queue.count().await >= wanted
            {
                return;
            }
            tokio::time::sleep(SAMPLE_EVERY).await;
        }
        assert!(queue.is_none(), "the drain takes longer than {limit:?}");
    }

    /// Returns the present and the peak memory.
    fn figures(&self) -> [f64; 2] {
        [self.points.last().expect("a look").1, usage::peak_mb(self.pid).expect("it runs")]
    }
}

/// Measures each state `rounds` times. The charts show the last round.
pub async fn run(stage: &Stage, rounds: u32) -> (Vec<Table>, Vec<Series>) {
    let mut table = Table::new("Memory of outboxd, default settings", COLUMNS);
    let mut contender = Contender::outboxd(stage, "per-aggregate");
    contender.prepare().await.expect("outboxd is set up");
    let one = Backlog { rows: 1_000_000, per_transaction: 1_000_000, ..Default::default() };
    let mut series = Vec::new();
    for _ in 0..rounds {
        series.clear();
        let mut note = |name: &str, watch: Watch| {
            table.add(name, &watch.figures());
            println!("{}", table.last_as_text(name));
            series.push(Series::new(name, watch.points));
        };
        contender.start();
        let mut watch = Watch::of(&contender);
        watch.until(None, WHILE_IDLE).await;
        note("idle", watch);
        contender.stop().await;

        for (name, backlog) in [
            ("draining 100,000 transactions", Backlog::default()),
            ("one transaction of 1,000,000 rows", one),
        ] {
            let queue = stage.fresh_queue().await;
            backlog.write(&stage.client).await;
            contender.start();
            let mut watch = Watch::of(&contender);
            watch.until(Some((&queue, backlog.rows)), PATIENCE).await;
            note(name, watch);
            contender.stop().await;
            stage.clear(OUTBOX).await;
        }

        let backlog = Backlog::default();
        stage.fresh_queue().await;
        backlog.write(&stage.client).await;
        stage.broker.stop().await;
        contender.start();
        let mut watch = Watch::of(&contender);
        watch.until(None, WHILE_AWAY).await;
        stage.broker.start_again().await;
        let queue = Queue::existing(&stage.amqp_url()).await;
        watch.until(Some((&queue, backlog.rows)), PATIENCE).await;
        note("broker away, then draining 100,000", watch);
        contender.stop().await;
        stage.clear(OUTBOX).await;
    }
    (vec![table], series)
}
