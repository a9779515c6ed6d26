//! The slot while a source has no attempt: the broker is down, or the source is halted. Just then WAL grows, and somebody has to
//! see it. Nobody streams from the slot, and PostgreSQL 18 may invalidate one that nobody uses: it is used now and then.

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

/// For all hosts together; each has `postgres.connect_timeout_ms`.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);

/// Shows how the slot is, now and then, until it is dropped: a connection of its own, as long as nobody else has one. Keeps the slot
/// in use if `is_right`. Cancel-safe.
pub(in crate::relay) async fn look_on(
    database: &impl Database,
    report: &Reporter,
    is_right: bool,
) -> Infallible {
    loop {
        let Err(error) = look(database, report, is_right).await;
        tracing::debug!(source = report.name(), %error, "the slot could not be looked at; trying again");
        tokio::time::sleep(INTERVAL).await;
    }
}

async fn look(database: &impl Database, report: &Reporter, is_right: bool) -> Result<Infallible, Unwatched> {
    let sql = within(CONNECT_TIMEOUT, database.connect_sql("outboxd monitor")).await?;
    // A server that is merely slow should not go on with what nobody waits for any more.
    within(INTERVAL, sql.limit_statements(INTERVAL)).await?;
    loop {
        let slot = within(INTERVAL, show_slot(&sql, database.options(), report)).await?;
        if is_right && slot.is_some_and(|slot| slot.wants_use()) {
            keep_in_use(database, report).await;
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Uses the slot for a moment, which wants to be used.
pub(in crate::relay) async fn keep_in_use(database: &impl Database, report: &Reporter) {
    let source = report.name();
    let used = match within(CONNECT_TIMEOUT, use_slot(database).map(Ok::<_, CatalogError>)).await {
        Ok(used) => used.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    match used {
        Ok(()) => tracing::info!(
            source,
            "used the slot for a moment, as idle_replication_slot_timeout would have PostgreSQL invalidate it"
        ),
        Err(error) => tracing::warn!(
            source,
            error,
            "the slot could not be used, and idle_replication_slot_timeout may have PostgreSQL invalidate it"
        ),
    }
}

/// Streams for a moment and confirms nothing, which moves nothing. A standby may have the slot before and after.
async fn use_slot<D: Database>(database: &D) -> Result<(), ReplicationError> {
    let SourceDatabase { slot, publication, .. } = database.options();
    let connection = database.connect_replication("outboxd monitor").await?;
    match connection.start(slot, publication, Lsn::ZERO).await {
        Ok(stream) => stream.finish(None).await,
        // Somebody uses it by now.
        Err((_, error)) if error.sqlstate() == Some(OBJECT_IN_USE) => Ok(()),
        Err((_, error)) => Err(error),
    }
}
