//! The critical case: the daemon is killed while messages are in flight.

use super::{
    SILENCE,
    orders::{self, ORDERS, ROWS_MAX, WRITERS},
    show::{
        LIMIT, Outcome, ensure,
        screen::{Screen, counted},
    },
    stage::Stage,
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use testkit::{Oracle, Verdict};
use tokio::{task::JoinSet, time::sleep};

/// Received messages at which the daemon is killed: many, and far from all.
const KILLED_AFTER: usize = 3_000;
/// Time for which the daemon stays dead.
const DEAD_FOR: Duration = Duration::from_secs(1);

/// Time for which the writers continue afterwards.
const ALIVE_FOR: Duration = Duration::from_secs(1);

/// Silence after which no more messages will arrive, even beside a compiler.
const PATIENCE: Duration = Duration::from_secs(15);

/// Runs several writers, kills the daemon, starts it again, and judges the deliveries.
pub(crate) async fn kill_in_mid_stream(screen: Screen, stage: &mut Stage, oracle: &Oracle) -> Outcome<()> {
    screen.step(
        5,
        "Kill outboxd in mid-stream with kill -9",
        &format!(
            "{WRITERS} connections keep changing {} orders, up to {ROWS_MAX} in a transaction, and roll some back; \
             they go on throughout. The daemon gets no chance to save anything, and has nothing to save: PostgreSQL's \
             slot knows what RabbitMQ has confirmed.",
            counted(ORDERS)
        ),
    );
    orders::open(&stage.client().await).await?;
    let begin = Instant::now();
    let at = || format!("after {:.1} s", begin.elapsed().as_secs_f64());
    let enough = Arc::new(AtomicBool::new(false));
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        writers.spawn(orders::hurry(stage.client().await, writer, enough.clone(), oracle.clone()));
    }

    let flowing = arrived(oracle, || oracle.received_count() >= KILLED_AFTER).await;
    ensure(flowing, || {
        format!("no message arrived for {PATIENCE:?} though rows are committed all the time")
    })?;
    let pid = stage.daemon.pid();
    stage.daemon.kill9().await;
    let (received_then, committed_then) = (oracle.received_count(), oracle.committed_count());
    let (received, committed) = (counted(received_then), counted(committed_then));
    screen
        .fact(&at(), &format!("kill -9 {pid}: {committed} rows are committed, {received} messages received"));
    sleep(DEAD_FOR).await;
    let meanwhile = counted(oracle.committed_count() - committed_then);
    screen.fact(&at(), &format!("start it again: the writers have committed {meanwhile} rows without it"));
    stage.daemon.start_again();
    stage.daemon.wait_ready(LIMIT).await;
    screen.fact(&at(), "ready: PostgreSQL sends again what was not confirmed, and then the rest");
    sleep(ALIVE_FOR).await;
    enough.store(true, Ordering::Relaxed);
    let mut rolled_back = 0;
    while let Some(writer) = writers.join_next().await {
        rolled_back += writer??;
    }
    screen.fact(&at(), &format!("the writers stop at {} rows", counted(oracle.committed_count())));
    if arrived(oracle, || oracle.is_complete()).await {
        screen.fact(&at(), "the last message arrives");
    }

    let verdict = oracle.settle(Duration::ZERO, SILENCE).await;
    ensure(verdict.keeps_promises(), || verdict.to_string())?;
    let client = stage.client().await;
    let in_table: i64 = client.query_one("SELECT count(*) FROM outbox", &[]).await?.get(0);
    ensure(in_table == verdict.committed as i64, || {
        format!("the table has {in_table} rows, but the writers committed {}", verdict.committed)
    })?;
    let distinct = verdict.received - verdict.duplicates - verdict.redelivered;
    ensure(distinct == verdict.committed, || format!("{distinct} messages for {} rows", verdict.committed))?;
    println!();
    judge(screen, &verdict, rolled_back);
    Ok(())
}

fn judge(screen: Screen, verdict: &Verdict, rolled_back: usize) {
    screen.checked(&format!(
        "Nothing was lost: {} rows are in the table, and each has been received.",
        counted(verdict.committed)
    ));
    screen.checked(&format!(
        "Nothing was invented: of {} transactions that rolled back, no row was received.",
        counted(rolled_back + 1)
    ));
    screen.checked(
        "Order held: each order's messages came in commit order, and each transaction's in insert order.",
    );
    screen.checked(&match verdict.duplicates {
        0 => "Duplicates: none this time. A crash may repeat what RabbitMQ had confirmed and PostgreSQL had not yet \
              been told of."
            .to_owned(),
        copies => format!(
            "Duplicates: {} of {} messages came twice, because RabbitMQ had them and PostgreSQL had not yet been told. \
             Each has the message_id, the position and the body of its first copy, so a consumer that notes what it \
             handled (the inbox table of `outboxd schema`) drops it.",
            counted(copies),
            counted(verdict.committed)
        ),
    });
}

/// Waits until `holds`, or until no message has arrived for [`PATIENCE`]. Returns which.
async fn arrived(oracle: &Oracle, holds: impl Fn() -> bool) -> bool {
    let (mut count, mut since) = (0, Instant::now());
    while !holds() {
        if oracle.received_count() != count {
            (count, since) = (oracle.received_count(), Instant::now());
        } else if since.elapsed() > PATIENCE {
            return false;
        }
        sleep(Duration::from_millis(20)).await;
    }
    true
}
