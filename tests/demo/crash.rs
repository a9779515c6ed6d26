//! The case that counts: the daemon is killed while messages are under way.

use super::{
    LIMIT, Outcome, SILENCE, ensure,
    orders::{self, ORDERS, TRANSACTIONS, WRITERS},
    screen::{Screen, counted},
    stage::Stage,
    step,
    support::{Oracle, Verdict},
};
use std::{
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant},
};
use tokio::{task::JoinSet, time::sleep};

/// How many messages the consumer has when the daemon is killed: a good part, and far from all.
const KILLED_AFTER: usize = 4_000;
/// How long the daemon stays dead.
const DEAD_FOR: Duration = Duration::from_secs(1);

/// Has several writers at work, kills the daemon, starts it again, and judges what arrived.
pub(crate) async fn kill_in_mid_stream(screen: Screen, stage: &mut Stage, oracle: &Oracle) -> Outcome<()> {
    step(
        screen,
        5,
        "Kill outboxd in mid-stream with kill -9",
        &format!(
            "{WRITERS} connections run {} transactions on {ORDERS} orders, as fast as they can, and roll some back. \
             The daemon gets no chance to save anything: it has nothing to save, because PostgreSQL's slot knows \
             what RabbitMQ has confirmed.",
            counted(TRANSACTIONS as usize)
        ),
    );
    orders::open(&stage.client().await).await?;
    let begin = Instant::now();
    let at = || format!("after {:.1} s", begin.elapsed().as_secs_f64());
    let mut writers = JoinSet::new();
    let next = Arc::new(AtomicU64::new(0));
    for writer in 0..WRITERS {
        writers.spawn(orders::hurry(stage.client().await, writer, next.clone(), oracle.clone()));
    }

    wait_until(&format!("{KILLED_AFTER} messages have been received"), || {
        oracle.received_count() >= KILLED_AFTER
    })
    .await?;
    let pid = stage.daemon.pid();
    stage.daemon.kill9().await;
    let (received_then, committed_then) = (oracle.received_count(), oracle.committed_count());
    screen.fact(
        &at(),
        &format!(
            "kill -9 {pid}: the consumer has {} messages of {} committed rows",
            counted(received_then),
            counted(committed_then)
        ),
    );
    sleep(DEAD_FOR).await;
    let meanwhile = oracle.committed_count() - committed_then;
    stage.daemon.start_again();
    screen.fact(
        &at(),
        &format!(
            "outboxd is started again; the writers have committed {} rows without it",
            counted(meanwhile)
        ),
    );
    stage.daemon.wait_ready(LIMIT).await;
    screen.fact(&at(), "it is ready: PostgreSQL sends again what was not confirmed");
    let mut rolled_back = 0;
    while let Some(writer) = writers.join_next().await {
        rolled_back += writer??;
    }
    wait_until("every committed row has been received", || oracle.is_complete()).await?;
    screen.fact(&at(), "the last message arrives");
    ensure(received_then < oracle.committed_count(), || {
        "the daemon was killed after everything had been delivered: nothing was shown".to_owned()
    })?;

    let verdict = oracle.settle(Duration::ZERO, SILENCE).await;
    let client = stage.client().await;
    let in_table: i64 = client.query_one("SELECT count(*) FROM outbox", &[]).await?.get(0);
    ensure(verdict.keeps_promises(), || verdict.to_string())?;
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

async fn wait_until(what: &str, holds: impl Fn() -> bool) -> Outcome<()> {
    let begin = Instant::now();
    while !holds() {
        ensure(begin.elapsed() < LIMIT, || format!("waited {LIMIT:?} in vain until {what}"))?;
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
