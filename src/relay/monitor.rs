//! Watches one source's server from the outside, on an SQL connection of its own: for metrics and status, and to notice a
//! shutdown.

use std::{sync::Arc, time::Duration};

use tokio::{sync::Notify, task::JoinHandle};

use super::database::{Database, Sql};
use crate::{
    admin::Reporter,
    postgres::{catalog::CatalogError, error::ConnectError},
};

const INTERVAL: Duration = Duration::from_secs(5);
/// Sooner after a failure: it may be the server's shutdown.
const AFTER_FAILURE: Duration = Duration::from_millis(500);
/// SQLSTATE of "the database system is shutting down", and of "starting up".
const CANNOT_CONNECT_NOW: &str = "57P03";

/// Ends when dropped.
pub(super) struct Monitor {
    task: JoinHandle<()>,
    server_ending: Arc<Notify>,
}

impl Monitor {
    pub(super) fn start(database: &impl Database, report: &Reporter) -> Self {
        let server_ending = Arc::new(Notify::new());
        let task = watch(database.clone(), report.clone(), server_ending.clone());
        Self { task: tokio::spawn(task), server_ending }
    }

    /// Waits until the server shuts down. A fast shutdown waits for walsenders until all WAL is confirmed, and tells
    /// them nothing (`WalSndDone`, walsender.c): with a broker that takes nothing it would wait for ever, kept alive
    /// by our own status updates. Cancel-safe.
    pub(super) async fn server_ending(&self) {
        self.server_ending.notified().await;
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn watch(database: impl Database, report: Reporter, server_ending: Arc<Notify>) {
    loop {
        let Err(error) = report_slot(&database, &report).await;
        if matches!(&error, Unwatched::Connect(error) if error.sqlstate() == Some(CANNOT_CONNECT_NOW)) {
            server_ending.notify_one();
        }
        tracing::debug!(source = report.name(), %error, "the slot could not be looked at; trying again");
        tokio::time::sleep(AFTER_FAILURE).await;
    }
}

async fn report_slot(
    database: &impl Database,
    report: &Reporter,
) -> Result<std::convert::Infallible, Unwatched> {
    let sql = database.connect_sql("outboxd monitor").await?;
    loop {
        if let Some(progress) = sql.slot_progress(&database.options().slot).await? {
            let retained = progress.restart_lsn.map(|_| progress.retained_bytes);
            // Asked of the server: what the stream has brought so far says little while nobody reads it.
            report.lag(progress.lag_bytes);
            report.slot(retained, progress.wal_status.as_deref().unwrap_or("unknown"));
        }
        tokio::select! {
            biased;
            () = tokio::time::sleep(INTERVAL) => {}
            () = closed(&sql) => {}
        }
    }
}

/// Waits until the connection is closed, so that a shutdown is noticed at once.
async fn closed(sql: &impl Sql) {
    while !sql.is_closed() {
        tokio::time::sleep(AFTER_FAILURE).await;
    }
}

/// Why nothing can be seen.
#[derive(Debug, thiserror::Error)]
enum Unwatched {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}
