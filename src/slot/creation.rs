//! Creation and removal of the permanent slot by plain SQL.

use tokio_postgres::Client;

use super::{holder::Holder, usage};
use crate::postgres::{
    sql_text::literal,
    sqlstate,
    statement::{CatalogError, NO_TIMEOUTS, execute, failed},
};
use pg_replication::END_WITH_CLIENT;

/// Failure to create or to drop a slot.
#[derive(Debug, thiserror::Error)]
pub enum SlotError {
    /// A slot of this name exists already.
    #[error("slot {0} exists already")]
    Exists(String),
    /// A program streams from the slot.
    #[error(
        "slot {slot} is in use{}: stop the program that streams from it, then try again",
        holder.as_ref().map(|holder| format!(" by {holder}")).unwrap_or_default()
    )]
    InUse {
        /// Name of the slot.
        slot: String,
        /// Holder of the slot; `None` if it has ended just now.
        holder: Option<Box<Holder>>,
    },
    /// A statement failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

/// The statement that creates the permanent slot. `failover` needs PostgreSQL 17.
pub(crate) fn create_slot_sql(slot: &str, failover: bool) -> String {
    let failover = if failover { ", failover => true" } else { "" };
    format!("SELECT pg_catalog.pg_create_logical_replication_slot({}, 'pgoutput'{failover})", literal(slot))
}

/// Creates the permanent slot at once, for `backlog = "skip"`: rows committed before it are not published. PostgreSQL first waits
/// for all transactions that are open now, so the timeouts of role and database are switched off.
///
/// # Errors
/// [`SlotError::Exists`], or the server's.
pub async fn create_slot(client: &Client, slot: &str, failover: bool) -> Result<(), SlotError> {
    client.batch_execute(NO_TIMEOUTS).await.map_err(failed("switching timeouts off"))?;
    for setting in END_WITH_CLIENT {
        // Some operating systems do not support the check. The slot can be created without it.
        if let Err(error) = client.batch_execute(setting).await {
            tracing::debug!(%error, "PostgreSQL cannot watch the connection while it creates the slot");
        }
    }
    let sql = create_slot_sql(slot, failover);
    if !execute(client, "creating the replication slot", &sql, sqlstate::DUPLICATE_OBJECT).await? {
        return Err(SlotError::Exists(slot.to_owned()));
    }
    Ok(())
}

/// Drops the slot. Returns `false` if there was none.
///
/// # Errors
/// [`SlotError::InUse`], or the server's.
pub async fn drop_slot(client: &Client, slot: &str) -> Result<bool, SlotError> {
    let sql = format!("SELECT pg_drop_replication_slot({})", literal(slot));
    match execute(client, "dropping the replication slot", &sql, sqlstate::UNDEFINED_OBJECT).await {
        Err(error) if error.sqlstate() == Some(sqlstate::OBJECT_IN_USE) => {
            let holder = usage::holder(client, slot).await?.map(Box::new);
            Err(SlotError::InUse { slot: slot.to_owned(), holder })
        }
        outcome => Ok(outcome?),
    }
}
