//! The slot while a source has no attempt: the broker is down, or the source is halted. WAL grows meanwhile, so the slot's figures
//! are reported. Nobody streams from the slot, and PostgreSQL 18 may invalidate an unused one, so outboxd uses it now and then.

use std::{convert::Infallible, time::Duration};

use futures_util::FutureExt;

use super::{INTERVAL, Unwatched, show_slot, within};
use crate::{
    admin::Reporter,
    position::Lsn,
    postgres::{SourceDatabase, sqlstate::OBJECT_IN_USE, statement::CatalogError},
    relay::database::{Database, Replication, Sql, Stream},
};
use pg_replication::ReplicationError;

/// Longest wait for a connection, all hosts together. Each host has `postgres.connect_timeout_ms`.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);

/// Reports the slot's figures until dropped, on a connection of its own. Keeps the slot in use if `is_right`. Cancel-safe.
pub(in crate::relay) async fn look_on(
    database: &impl Database,
    report: &Reporter,
    is_right: bool,
) -> Infallible {
    loop {
        let Err(error) = look(database, report, is_right).await;
        tracing::debug!(source = report.name(), %error, "the slot could not be checked; trying again");
        tokio::time::sleep(INTERVAL).await;
    }
}

async fn look(database: &impl Database, report: &Reporter, is_right: bool) -> Result<Infallible, Unwatched> {
    let sql = within(CONNECT_TIMEOUT, database.connect_sql("outboxd monitor")).await?;
    // A slow server then does not continue with statements that nobody waits for any more.
    within(INTERVAL, sql.limit_statements(INTERVAL)).await?;
    loop {
        let slot = within(INTERVAL, show_slot(&sql, database.options(), report)).await?;
        if is_right && slot.is_some_and(|slot| slot.wants_use()) {
            keep_in_use(database, report).await;
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Uses a slot for a moment, so that PostgreSQL does not invalidate it.
pub(in crate::relay) async fn keep_in_use(database: &impl Database, report: &Reporter) {
    let source = report.name();
    let used = match within(CONNECT_TIMEOUT, use_slot(database).map(Ok::<_, CatalogError>)).await {
        Ok(used) => used.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    match used {
        Ok(()) => tracing::info!(
            source,
            "used the slot for a moment, so that PostgreSQL does not invalidate it (idle_replication_slot_timeout)"
        ),
        Err(error) => tracing::warn!(
            source,
            error,
            "the slot could not be used: PostgreSQL may invalidate it (idle_replication_slot_timeout), and its rows then need `outboxd recover`"
        ),
    }
}

/// Streams for a moment and confirms nothing, so the slot does not move. A standby may take the slot before and after.
async fn use_slot<D: Database>(database: &D) -> Result<(), ReplicationError> {
    let SourceDatabase { slot, publication, .. } = database.options();
    let connection = database.connect_replication("outboxd monitor").await?;
    match connection.start(slot, publication, Lsn::ZERO).await {
        Ok(stream) => stream.finish(None).await,
        // Another process uses the slot by now.
        Err((_, error)) if error.sqlstate() == Some(OBJECT_IN_USE) => Ok(()),
        Err((_, error)) => Err(error),
    }
}
