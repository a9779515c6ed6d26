//! Reads slots together with their holders, and tells an outboxd from other programs.
//!
//! All databases of a server share the names of slots, so another database or program may have the name. An instance checks this
//! before it stands by. [`preflight`](crate::preflight) judges the result.

use tokio_postgres::Client;

use super::{
    facts::{self, SlotFacts},
    holder::Holder,
    record,
    temporary::temporary_name,
};
use crate::postgres::{
    sql_text::literal,
    statement::{CatalogError, text_rows},
};
use pg_replication::{ReplicationConnection, ReplicationError};

const DOING: &str = "reading the holders of the replication slots";

/// Reads all slots of the server, ordered by name. `slot` is the source's, whose record is in `schema`.
///
/// # Errors
/// [`CatalogError`].
pub(crate) async fn read_all(
    client: &Client,
    schema: &str,
    slot: &str,
) -> Result<Vec<SlotFacts>, CatalogError> {
    read_where(client, schema, slot, "ORDER BY s.slot_name").await
}

/// Reads the slot and its temporary slot. A free name is left out. The slot's record is in `schema`.
///
/// # Errors
/// [`CatalogError`].
pub async fn read(client: &Client, schema: &str, slot: &str) -> Result<Vec<SlotFacts>, CatalogError> {
    read_where(client, schema, slot, &both(slot)).await
}

/// Reads the holder of a slot. Its application name alone tells whether it is an outboxd.
///
/// # Errors
/// [`CatalogError`].
pub(crate) async fn holder(client: &Client, slot: &str) -> Result<Option<Holder>, CatalogError> {
    let slots = facts::read(
        client,
        DOING,
        &facts::sql_with_holders(&format!("WHERE s.slot_name = {}", literal(slot))),
    )
    .await?;
    Ok(slots.into_iter().find_map(|one| one.holder))
}

/// [`read`] over a replication connection.
///
/// # Errors
/// [`ReplicationError::Command`].
pub(crate) async fn read_by_replication(
    connection: &mut ReplicationConnection,
    schema: &str,
    slot: &str,
) -> Result<Vec<SlotFacts>, ReplicationError> {
    let rows = connection.query(&facts::sql_with_holders(&both(slot))).await?;
    let unexpected = || ReplicationError::unexpected_answer(DOING, "a slot and its holder");
    let mut slots = facts::parse(&rows).ok_or_else(unexpected)?;
    recognise_maker(&mut slots, slot);
    if has_stranger(&slots, slot) {
        match connection.query(&record::application_sql(schema, slot)).await {
            Ok(rows) => recognise(&mut slots, slot, &rows),
            Err(error) if error.sqlstate().is_some() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(slots)
}

async fn read_where(
    client: &Client,
    schema: &str,
    slot: &str,
    condition: &str,
) -> Result<Vec<SlotFacts>, CatalogError> {
    let mut slots = facts::read(client, DOING, &facts::sql_with_holders(condition)).await?;
    recognise_maker(&mut slots, slot);
    if has_stranger(&slots, slot) {
        match text_rows(client, DOING, &record::application_sql(schema, slot)).await {
            Ok(rows) => recognise(&mut slots, slot, &rows),
            // There is no record, or the role may not read it.
            Err(error) if error.sqlstate().is_some() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(slots)
}

fn both(slot: &str) -> String {
    format!("WHERE s.slot_name IN ({}, {})", literal(slot), literal(&temporary_name(slot)))
}

fn has_stranger(slots: &[SlotFacts], slot: &str) -> bool {
    slots.iter().any(|one| one.is_of(slot) && one.stranger().is_some())
}

/// Recognises the holder of the temporary slot, which only outboxd creates.
fn recognise_maker(slots: &mut [SlotFacts], slot: &str) {
    for one in slots.iter_mut().filter(|one| one.temporary && one.is_of(slot) && one.name != slot) {
        if let Some(holder) = &mut one.holder {
            holder.is_outboxd = true;
        }
    }
}

/// Recognises a holder by the application name in the record, which outboxd writes before it confirms anything. Another program
/// that gets the slot later has another name.
fn recognise(slots: &mut [SlotFacts], slot: &str, recorded: &[Vec<Option<String>>]) {
    let Some(Some(recorded)) = recorded.first().and_then(|row| row.first()) else { return };
    for holder in slots.iter_mut().filter(|one| one.is_of(slot)).filter_map(|one| one.holder.as_mut()) {
        holder.is_outboxd |= !recorded.is_empty() && holder.application == *recorded;
    }
}
