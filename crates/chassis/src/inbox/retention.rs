//! Rows of the inbox end when no copy of their message can come any more.
//!
//! A copy waits in the queue, or a relay has yet to send it. The first is ruled out by looking at the queue, however long the
//! service was away: a row is removed only when it was too old at a time at which the queue was seen empty. The second is what
//! the retention is for. A queue that is empty now and then keeps the inbox small, however busy it is.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::ProgressReader;
use crate::{
    database::{Database, DatabaseError},
    metrics::Metrics,
};
use process::shutdown::Shutdown;

/// Interval of the look for old rows.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Rows removed by one statement: so few that it is short, and that few locks are held.
const BATCH_ROWS: u64 = 1000;

/// The rows of one consumer.
pub(crate) struct Retention {
    pub(crate) queue: String,
    /// Age from which on a row is removed.
    pub(crate) age: Duration,
    pub(crate) database: Database,
    pub(crate) metrics: Metrics,
    pub(crate) progress: ProgressReader,
}

/// Removes old rows until `shutdown`.
pub(crate) async fn retain(retention: Retention, mut shutdown: Shutdown) {
    let pruning = async {
        loop {
            sleep(LOOK_EVERY).await;
            if let Err(error) = retention.prune().await {
                tracing::warn!(queue = retention.queue, %error, "old rows of the inbox stay for now; trying again");
            }
        }
    };
    tokio::select! {
        _ = shutdown.requested() => {}
        () = pruning => {}
    }
}

impl Retention {
    /// Removes every row that was too old when the queue was last seen empty.
    async fn prune(&self) -> Result<(), DatabaseError> {
        let delete = "DELETE FROM public.inbox WHERE ctid = ANY (ARRAY(SELECT ctid FROM public.inbox WHERE consumer = $1 \
                      AND received_at < clock_timestamp() - make_interval(secs => $2) \
                      ORDER BY received_at LIMIT 1000 FOR UPDATE SKIP LOCKED))";
        let Some(empty_at) = self.progress.borrow().empty_at else { return Ok(()) };
        loop {
            let begin = Instant::now();
            let client = self.database.connection().await?;
            let age = self.age + empty_at.elapsed();
            let removed = client.execute(delete, &[&self.queue, &age.as_secs_f64()]).await?;
            drop(client);
            self.metrics.pruned(&self.queue, removed);
            if removed < BATCH_ROWS {
                return Ok(());
            }
            // The messages' own work goes first.
            sleep(begin.elapsed()).await;
        }
    }
}
