//! Takeover by a standby after a kill -9: from the kill to the first message of a row committed after it, which only
//! the standby can have published.

use crate::{
    arrivals::Arrivals,
    contender::Contender,
    figures::{Column, Table},
    stage::{OUTBOX, Stage},
};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);
/// Interval between rows.
const EVERY: Duration = Duration::from_millis(10);
/// Time after which the standby has long been waiting for the slot.
const SETTLED: Duration = Duration::from_secs(3);

/// Kills the streaming instance, `rounds` times. The other one becomes the next to be killed.
pub async fn run(stage: &Stage, rounds: u32) -> Vec<Table> {
    let columns = [Column { name: "ms", decimals: 0 }];
    let title = "kill -9 of the instance that streams to the first message of its standby";
    let mut table = Table::new(title, &columns);
    let mut pair = [(); 2].map(|()| Contender::outboxd(stage, "per-aggregate"));
    pair[0].prepare().await.expect("outboxd is set up");
    let _queue = stage.fresh_queue().await;
    let mut arrivals = Arrivals::of(&stage.amqp_url()).await;
    let mut n = 1;
    pair[0].start();
    stage.write_one(OUTBOX, n).await;
    wait_for(&mut arrivals, n).await;
    for round in 0..rounds as usize {
        let [streams, standby] = [round % 2, (round + 1) % 2];
        pair[standby].start();
        let until = Instant::now() + SETTLED;
        while Instant::now() < until {
            n += 1;
            stage.write_one(OUTBOX, n).await;
            tokio::time::sleep(EVERY).await;
        }
        pair[streams].kill9().await;
        let killed = Instant::now();
        n += 1;
        stage.write_one(OUTBOX, n).await;
        let took = wait_for(&mut arrivals, n).await - killed;
        table.add("outboxd", &[took.as_secs_f64() * 1e3]);
        println!("{}", table.last_as_text("outboxd"));
    }
    pair[rounds as usize % 2].stop().await;
    vec![table]
}

/// Waits for an event, and returns its time of arrival.
async fn wait_for(arrivals: &mut Arrivals, n: u32) -> Instant {
    loop {
        let arrival = arrivals.next(PATIENCE).await.expect("the standby goes on");
        if arrival.n == n {
            return arrival.at;
        }
    }
}
