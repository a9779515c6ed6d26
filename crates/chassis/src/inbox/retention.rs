//! Retention of the inbox: a row is removed when no copy of its message can arrive any more.
//!
//! A copy may wait in the queue, or a relay may still send it. The queue is checked, however long the service was
//! away: a row is removed only if it was too old when the queue was last seen empty. The retention covers the relay.
//! A queue that is empty now and then keeps the inbox small, however busy it is.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::ProgressReader;
use crate::{
    database::{Database, DatabaseError},
    metrics::Metrics,
};
use process::shutdown::Shutdown;

/// Interval of removing old rows.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Rows removed by one statement: few enough for a short statement and few locks.
const BATCH_ROWS: u64 = 1000;

/// Rows of one consumer.
pub(crate) struct Retention {
    pub(crate) queue: String,
    /// Age at which a row is removed.
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
                tracing::warn!(queue = retention.queue, %error, "old rows of the inbox could not be removed; trying again");
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
            // Pauses as long as the statement took, so that the handling of messages goes first.
            sleep(begin.elapsed()).await;
        }
    }
}
