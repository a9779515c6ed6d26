//! Sagas without a reply for longer than a limit: counted and logged. They wait until the reply comes.

use std::time::Duration;

use tokio::time::sleep;

use crate::{
    database::{Database, DatabaseError},
    metrics::Metrics,
};
use process::shutdown::Shutdown;

const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Watch over the sagas of one service.
pub(crate) struct Silence {
    /// Longest wait for a reply that does not count.
    pub(crate) limit: Duration,
    pub(crate) saga_types: Vec<&'static str>,
    pub(crate) database: Database,
    pub(crate) metrics: Metrics,
}

/// Counts silent sagas until `shutdown`.
pub(crate) async fn watch(silence: Silence, mut shutdown: Shutdown) {
    let looking = async {
        let mut before = 0;
        loop {
            match silence.look().await {
                Ok((silent, oldest)) => {
                    if let Some(saga_id) = oldest.filter(|_| silent > before) {
                        tracing::warn!(
                            silent,
                            saga_id,
                            "sagas have had no reply for {} s; they keep waiting. Check that the participant runs, its dead letters, and \
                             the relay of both services. GET /sagas/{saga_id} shows the oldest saga's command",
                            silence.limit.as_secs()
                        );
                    }
                    before = silent;
                }
                Err(error) => tracing::debug!(%error, "silent sagas cannot be counted; trying again"),
            }
            sleep(LOOK_EVERY).await;
        }
    };
    tokio::select! {
        _ = shutdown.requested() => {}
        () = looking => {}
    }
}

impl Silence {
    /// Counts running and silent sagas. Returns the number of the silent ones and the id of the oldest running one.
    async fn look(&self) -> Result<(i64, Option<i64>), DatabaseError> {
        let select = "SELECT type, count(*), count(*) FILTER (WHERE updated_at < clock_timestamp() - make_interval(secs => $1)), \
                        (array_agg(id ORDER BY updated_at))[1] \
                      FROM public.saga WHERE state = 'RUNNING' GROUP BY type ORDER BY min(updated_at)";
        let rows = self.database.connection().await?.query(select, &[&self.limit.as_secs_f64()]).await?;
        let mut silent = 0;
        for &saga_type in &self.saga_types {
            let row = rows.iter().find(|row| row.get::<_, &str>(0) == saga_type);
            let (running, waiting) = row.map_or((0, 0), |row| (row.get(1), row.get(2)));
            self.metrics.sagas(saga_type, running, waiting);
            silent += waiting;
        }
        Ok((silent, rows.first().map(|row| row.get(3))))
    }
}
