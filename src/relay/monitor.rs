//! Watches one source's slot from the outside, on an SQL connection of its own, for metrics and status only.

use std::time::Duration;

use tokio::task::JoinHandle;

use crate::{
    admin::Reporter,
    postgres::{SourceDatabase, catalog, endpoint::Endpoint},
};

const INTERVAL: Duration = Duration::from_secs(5);

/// Ends when dropped.
pub(super) struct Monitor(JoinHandle<()>);

impl Monitor {
    pub(super) fn start(database: &SourceDatabase, report: &Reporter) -> Self {
        let (endpoint, slot, report) = (database.endpoint.clone(), database.slot.clone(), report.clone());
        Self(tokio::spawn(async move {
            loop {
                if let Err(error) = watch(&endpoint, &slot, &report).await {
                    tracing::debug!(source = report.name(), %error, "the slot could not be looked at; trying again");
                }
                tokio::time::sleep(INTERVAL).await;
            }
        }))
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn watch(
    endpoint: &Endpoint,
    slot: &str,
    report: &Reporter,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let client = endpoint.connect_sql("outboxd monitor").await?;
    loop {
        if let Some(progress) = catalog::slot_progress(&client, slot).await? {
            let retained = progress.restart_lsn.map(|_| progress.retained_bytes);
            // Asked of the server: what the stream has brought so far says little while nobody reads it.
            report.lag(progress.lag_bytes);
            report.slot(retained, progress.wal_status.as_deref().unwrap_or("unknown"));
        }
        tokio::time::sleep(INTERVAL).await;
    }
}
