//! The slot while a source has no attempt: the broker is down, or the source is halted. Just then WAL grows, and somebody has to
//! see it.

use std::{convert::Infallible, time::Duration};

use super::{INTERVAL, Unwatched, show_slot, within};
use crate::{
    admin::Reporter,
    relay::database::{Database, Sql},
};

/// For all hosts together; each has `postgres.connect_timeout_ms`.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);

/// Shows how the slot is, now and then, until it is dropped: a connection of its own, as long as nobody else has one.
/// Cancel-safe.
pub(in crate::relay) async fn look_on(database: &impl Database, report: &Reporter) -> Infallible {
    loop {
        let Err(error) = look(database, report).await;
        tracing::debug!(source = report.name(), %error, "the slot could not be looked at; trying again");
        tokio::time::sleep(INTERVAL).await;
    }
}

async fn look(database: &impl Database, report: &Reporter) -> Result<Infallible, Unwatched> {
    let sql = within(CONNECT_TIMEOUT, database.connect_sql("outboxd monitor")).await?;
    // A server that is merely slow should not go on with what nobody waits for any more.
    within(INTERVAL, sql.limit_statements(INTERVAL)).await?;
    loop {
        within(INTERVAL, show_slot(&sql, database.options(), report)).await?;
        tokio::time::sleep(INTERVAL).await;
    }
}
