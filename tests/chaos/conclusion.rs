//! The end of a run: every message arrives, the slot's position follows, outboxd drains, and the table's rows are compared with
//! the messages.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use tokio::time::{sleep, timeout};
use tokio_postgres::Client;

use crate::{
    queues,
    report::{Report, Sums},
    run::Run,
    verdict::judge,
    world::PATIENCE,
    writers::Writers,
};

impl Run {
    /// Waits until every message has arrived, and compares the messages with the table.
    pub(crate) async fn conclude(&self, writers: Writers, report: &mut Report) {
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
        let witnessed = format!("type <> '{}'", queues::SOLE_TYPE);
        let (rows, steady_rows) = (count(&witnessed).await, count(&steady).await);
        let arrived = || {
            let (witness, service) = (self.witness.arrivals().distinct, self.service.arrivals().distinct);
            witness >= rows && service >= steady_rows
        };
        let deadline = Instant::now() + PATIENCE;
        while !arrived() && Instant::now() < deadline {
            sleep(Duration::from_millis(50)).await;
        }
        // Time for late copies, and for messages that should not come.
        sleep(Duration::from_secs(1)).await;
        if let Err(failure) = self.end_in_good_order(&client).await {
            report.failures.push(failure);
        }
        // Takes the arrivals without holding their locks: the consumers continue.
        let [witness, service] =
            [&self.witness, &self.service].map(|consumer| std::mem::take(&mut *consumer.arrivals()));
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
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
            tokio::join!(judge(&client, &witnessed, &witness), judge(&client, &steady, &service));
        for (queue, verdict) in [("witness", &report.witness), ("service", &report.service)] {
            report.failures.extend(verdict.failure().map(|failure| format!("{queue}: {failure}")));
        }
    }

    /// Checks that the slot's position follows, and that the instances drain.
    async fn end_in_good_order(&self, client: &Client) -> Result<(), String> {
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
