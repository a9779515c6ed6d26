//! The record of a slot, kept in the source's own database: that there is such a slot, on which server, and how far it was
//! confirmed when that was last written down.
//!
//! The record tells whether the slot is the one that was there before ([`continuity`](super::continuity) judges), and how
//! large a gap is if it is not. It lies beside the outbox table, or in a schema of its own (`postgres.schema`), so that whatever
//! happens to the rows happens to it too: a dump of the database, a backup and a replica take it along.
//!
//! The record also keeps the slot's own position: a PostgreSQL that crashes forgets positions which the slot had confirmed.
//! So while messages are confirmed, the slot's holder copies that position into the record once a second. A copy never says
//! more than the slot itself says on that server at that time. [`SlotHistory::settled`](super::continuity::SlotHistory::settled) decides whether to use it.
//!
//! Writing makes WAL. An idle database stays idle: nothing is written unless another row was confirmed.

use tokio_postgres::{Client, SimpleQueryMessage, types::Type};

use super::publication::PublishedBy;
use crate::{
    message::Timestamp,
    position::{Lsn, Position},
    postgres::{
        SourceDatabase,
        own_table::{self, made},
        sql_text::{identifier, literal},
        sqlstate::UNDEFINED_TABLE,
        statement::{CatalogError, failed},
    },
};

/// The table, by default in the schema of the outbox table; one row for each slot.
pub const TABLE: &str = "outboxd_state";

/// [`SlotRecord::is_torn_down`], of the row that is there.
pub(crate) const TORN_DOWN: &str =
    "outboxd_state.confirmed_flush = '0/0' AND outboxd_state.holder IS NULL AND outboxd_state.gap IS NULL";

/// [`SlotRecord::unproven`] of a slot that was made while the table had rows, with `backlog = "skip"`.
pub(crate) const LEFT_OUT: &str =
    "the table had rows when the slot was made, which backlog = \"skip\" left out";

/// In the column `holder`, after the holder: before the name by which its sessions go. [`slot_use`](super::usage) recognises an
/// instance by that. 0.1.0 writes none.
const CALLED: &str = ", application ";

/// A record that a crash takes away would leave an older one as the last word. A commit that waits for a synchronous standby
/// would wait for ever while the standby is away.
const DURABLE: &str = "SET synchronous_commit = local";

/// The record of a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotRecord {
    /// System identifier of the server that had the slot.
    pub system_id: String,
    /// Its timeline then.
    pub timeline: u32,
    /// Everything that commits before is confirmed. Without a holder the slot stands exactly here, unless the server crashed
    /// and forgot.
    pub confirmed_flush: Lsn,
    /// When the last confirmed message was committed, by the server's clock, or when the slot was made; `None` when
    /// neither is known.
    pub confirmed_until: Option<Timestamp>,
    /// Who has the slot, and may have confirmed more since; `None` after a release in good order.
    pub holder: Option<String>,
    /// A gap that somebody found, which stays until it is recovered from: what proved it may not be there for ever.
    pub gap: Option<String>,
    /// By what the outbox table is published; `None` when that is not known.
    pub published_by: Option<PublishedBy>,
    /// The reason for which it is not proven that all rows of the table were published, although there is no gap: rows may be older than
    /// a slot made by hand. While it is set, clean-up removes nothing. Column
    /// `unaccounted`: operators clear it by that name, so it keeps it.
    pub unproven: Option<String>,
    /// Grows with every write, a teardown's too, so that an older state of the database shows.
    pub version: i64,
    /// The row is as outboxd wrote it on this server: no dump and no hand has put it there, and 0.1.0 has not written it.
    /// Not written; the row's version and its `xmin` tell, see `next_version`.
    pub as_written: bool,
}

impl SlotRecord {
    /// Tells whether it is of no slot: nothing is confirmed, nobody holds it, and no gap was found. `outboxd teardown` leaves it so; a slot
    /// that is there has confirmed something, if only what was before it.
    pub fn is_torn_down(&self) -> bool {
        self.confirmed_flush == Lsn::ZERO && self.holder.is_none() && self.gap.is_none()
    }
}

/// The progress of a slot, to be written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confirmed {
    /// What PostgreSQL is told.
    pub flush: Lsn,
    /// The last confirmed row.
    pub position: Option<Position>,
    /// When it was committed.
    pub until: Option<Timestamp>,
}

/// The low half of a version.
const LOW: u32 = u32::MAX;

/// The version after `version`, both as SQL. The high half counts; the low half names the transaction that writes, inverted.
/// A row that a dump, a subscription or a hand puts into the table has another `xmin`. So has one that 0.1.0 writes: its next
/// version is the old one plus 1, which names an earlier transaction, as the number is inverted.
fn next_version(version: &str) -> String {
    format!("(((({version})::bigint >> 32) + 1) << 32) | (~ pg_current_xact_id()::text::bigint & {LOW})")
}

fn table(database: &SourceDatabase) -> String {
    own_table::name(database, TABLE).quoted()
}

fn timestamp(time: Option<Timestamp>) -> String {
    match time {
        Some(Timestamp(micros)) => format!("timestamptz 'epoch' + {micros} * interval '1 microsecond'"),
        None => "NULL::timestamptz".to_owned(),
    }
}

/// The statement that makes the table.
pub(crate) fn create_table_sql(database: &SourceDatabase) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {} (slot text PRIMARY KEY, system_identifier text NOT NULL, timeline bigint NOT NULL, \
         confirmed_flush pg_lsn NOT NULL, confirmed_until timestamptz, holder text, gap text, published_by text, unaccounted text, version bigint NOT NULL, \
         written_at timestamptz NOT NULL DEFAULT clock_timestamp())",
        table(database)
    )
}

/// The statement that reads by what name the sessions of the slot's holder go.
pub(crate) fn application_sql(schema: &str, slot: &str) -> String {
    format!(
        "SELECT split_part(holder, '{CALLED}', 2) FROM ONLY {}.{} WHERE slot = {}",
        identifier(schema),
        identifier(TABLE),
        literal(slot)
    )
}

/// The statement by which somebody says that every row of the table is published, or need not be: what
/// [`unproven`](SlotRecord::unproven) speaks of is seen to.
pub(crate) fn declare_published_sql(database: &SourceDatabase) -> String {
    format!("UPDATE ONLY {} SET unaccounted = NULL WHERE slot = {}", table(database), literal(&database.slot))
}

/// The statement that lets the source's role use the table, once somebody else has made it.
pub(crate) fn grant_sql(database: &SourceDatabase, role: &str) -> String {
    own_table::grant_sql(database, TABLE, role)
}

/// Makes the table if it is not there.
///
/// # Errors
/// [`CatalogError::Statement`].
pub async fn create_table(client: &Client, database: &SourceDatabase) -> Result<(), CatalogError> {
    let create = create_table_sql(database);
    made(client, "creating the table of slot records", &database.schema, TABLE, &create).await
}

/// The slot's record; `None` when there is none, or no table.
///
/// # Errors
/// [`CatalogError::Statement`].
pub async fn read(client: &Client, database: &SourceDatabase) -> Result<Option<SlotRecord>, CatalogError> {
    let select = format!(
        "SELECT system_identifier, timeline, (confirmed_flush - '0/0')::int8, \
         (extract(epoch FROM confirmed_until) * 1000000)::int8, split_part(holder, '{CALLED}', 1), gap, version, published_by, \
         unaccounted, (version & {LOW}) = (~ xmin::text::bigint & {LOW}) FROM ONLY {} WHERE slot = $1",
        table(database)
    );
    let row = match client.query_typed_opt(&select, &[(&database.slot, Type::TEXT)]).await {
        Ok(row) => row,
        Err(error) if error.code().is_some_and(|code| code.code() == UNDEFINED_TABLE) => return Ok(None),
        Err(error) => return Err(failed("reading the slot's record")(error)),
    };
    Ok(row.map(|row| SlotRecord {
        system_id: row.get(0),
        timeline: u32::try_from(row.get::<_, i64>(1)).unwrap_or_default(),
        confirmed_flush: Lsn(row.get::<_, i64>(2).cast_unsigned()),
        confirmed_until: row.get::<_, Option<i64>>(3).map(Timestamp),
        holder: row.get(4),
        gap: row.get(5),
        published_by: row.get::<_, Option<&str>>(7).and_then(|by| by.parse().ok()),
        unproven: row.get(8),
        version: row.get(6),
        as_written: row.get(9),
    }))
}

/// Writes the record, whatever was there. For whoever has the slot, or is about to make it.
///
/// # Errors
/// [`CatalogError::Statement`].
pub async fn write(
    client: &Client,
    database: &SourceDatabase,
    record: &SlotRecord,
) -> Result<(), CatalogError> {
    insert(client, database, record, "true", OVERWRITE).await?;
    Ok(())
}

/// Writes the record for whoever streams from the slot as server process `pid`; `false`, and nothing is written, when that
/// is no longer so. An instance that was frozen just after it had got the slot must not put its name over its successor's.
///
/// # Errors
/// [`CatalogError::Statement`].
pub async fn claim(
    client: &Client,
    database: &SourceDatabase,
    record: &SlotRecord,
    pid: i32,
) -> Result<bool, CatalogError> {
    let streams = format!(
        "EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = {} AND active_pid = {pid})",
        literal(&database.slot)
    );
    // Once more under the row's lock, for which the statement may have waited.
    insert(client, database, record, &streams, &format!("{OVERWRITE} WHERE {streams}")).await
}

/// Writes the first record of a slot, unless whoever has acquired it by now has done so; also the first after a teardown.
///
/// # Errors
/// [`CatalogError::Statement`].
pub(crate) async fn write_first(
    client: &Client,
    database: &SourceDatabase,
    record: &SlotRecord,
) -> Result<(), CatalogError> {
    let update = format!(
        "DO UPDATE SET system_identifier = excluded.system_identifier, timeline = excluded.timeline, \
         confirmed_flush = excluded.confirmed_flush, confirmed_until = excluded.confirmed_until, \
         published_by = excluded.published_by, unaccounted = excluded.unaccounted, version = {}, written_at = clock_timestamp() \
         WHERE {TORN_DOWN}",
        next_version(&format!("{TABLE}.version"))
    );
    insert(client, database, record, "true", &update).await?;
    Ok(())
}

const OVERWRITE: &str = "DO UPDATE SET system_identifier = excluded.system_identifier, timeline = excluded.timeline, \
                         confirmed_flush = excluded.confirmed_flush, confirmed_until = excluded.confirmed_until, \
                         holder = excluded.holder, gap = excluded.gap, published_by = excluded.published_by, \
                         unaccounted = excluded.unaccounted, version = excluded.version, \
                         written_at = clock_timestamp()";

/// Tells whether something was written: nothing unless `condition`, and where a record is, what `if_there` says.
async fn insert(
    client: &Client,
    database: &SourceDatabase,
    record: &SlotRecord,
    condition: &str,
    if_there: &str,
) -> Result<bool, CatalogError> {
    let SlotRecord { system_id, timeline, confirmed_flush, confirmed_until, holder, gap, .. } = record;
    // At least the record's own, which is greater than the one that it follows.
    let version = next_version(&record.version.to_string());
    let published_by = record.published_by.map(|by| by.to_string());
    let text = |text: &Option<String>| text.as_deref().map_or_else(|| "NULL".to_owned(), literal);
    // As the server shows the name: shortened, and without what it does not take in names.
    let holder = format!("{} || '{CALLED}' || current_setting('application_name')", text(holder));
    let insert = format!(
        "{DURABLE}; INSERT INTO {} (slot, system_identifier, timeline, confirmed_flush, confirmed_until, holder, \
         gap, published_by, unaccounted, version) SELECT {}, {}, {timeline}, pg_lsn '{confirmed_flush}', {}, {}, {}, {}, {}, \
         {version} WHERE {condition} \
         ON CONFLICT (slot) {if_there}",
        table(database),
        literal(&database.slot),
        literal(system_id),
        timestamp(*confirmed_until),
        holder,
        text(gap),
        text(&published_by),
        text(&record.unproven),
    );
    let answers = written(client, &insert).await?;
    let written =
        answers.last().is_some_and(|answer| matches!(answer, SimpleQueryMessage::CommandComplete(1..)));
    Ok(written)
}

async fn written(client: &Client, statement: &str) -> Result<Vec<SimpleQueryMessage>, CatalogError> {
    let doing = "writing the slot's record";
    pg_replication::simple_answer(client, statement)
        .await
        .map_err(|cause| CatalogError::Statement { doing, cause })
}

/// Writes down a gap that was found when the record was of version `found`, or when there was none; nothing if it has been
/// written since.
///
/// # Errors
/// [`CatalogError::Statement`].
pub async fn mark(
    client: &Client,
    database: &SourceDatabase,
    found: Option<i64>,
    marked: &SlotRecord,
) -> Result<(), CatalogError> {
    let Some(version) = found else {
        create_table(client, database).await?;
        return insert(client, database, marked, "true", "DO NOTHING").await.map(drop);
    };
    let update = format!(
        "{DURABLE}; UPDATE ONLY {} SET confirmed_flush = '{}', holder = NULL, gap = {}, version = {}, \
         written_at = clock_timestamp() WHERE slot = {} AND version = {version}",
        table(database),
        marked.confirmed_flush,
        marked.gap.as_deref().map_or_else(|| "NULL".to_owned(), literal),
        marked.version,
        literal(&database.slot),
    );
    client.batch_execute(&update).await.map_err(failed("marking the slot's record"))
}

/// Copies the slot's position into the record, but none beyond `confirmed`; nothing if another has taken over. `true` when the
/// record says `confirmed` now. The slot may still be on its way there.
///
/// # Errors
/// [`CatalogError::Statement`].
pub async fn note(
    client: &Client,
    database: &SourceDatabase,
    holder: &str,
    confirmed: Confirmed,
) -> Result<bool, CatalogError> {
    update(client, database, holder, confirmed, "").await
}

/// Writes down where `holder` has left the slot; nothing if another has taken over.
///
/// # Errors
/// [`CatalogError::Statement`].
pub async fn release(
    client: &Client,
    database: &SourceDatabase,
    holder: &str,
    confirmed: Confirmed,
) -> Result<(), CatalogError> {
    update(client, database, holder, confirmed, "holder = NULL, ").await.map(drop)
}

/// No more than the slot says, by the same server in the same statement: after a failover this connection may lead to another
/// server than the stream. And never back, which also keeps a position that is not to be trusted from becoming one that is.
async fn update(
    client: &Client,
    database: &SourceDatabase,
    holder: &str,
    Confirmed { flush, until, .. }: Confirmed,
    more: &str,
) -> Result<bool, CatalogError> {
    let update = format!(
        "{DURABLE}; UPDATE ONLY {} SET {more}confirmed_flush = LEAST('{flush}', s.confirmed_flush_lsn), \
         confirmed_until = COALESCE({}, confirmed_until), version = {}, written_at = clock_timestamp() \
         FROM pg_replication_slots s WHERE {TABLE}.slot = {slot} AND split_part(holder, '{CALLED}', 1) = {} AND s.slot_name = {slot} \
         AND LEAST('{flush}', s.confirmed_flush_lsn) >= confirmed_flush AND s.confirmed_flush_lsn IS NOT NULL \
         RETURNING confirmed_flush = '{flush}'",
        table(database),
        timestamp(until),
        next_version("version"),
        literal(holder),
        slot = literal(&database.slot),
    );
    let answers = written(client, &update).await?;
    Ok(answers.iter().any(|answer| matches!(answer, SimpleQueryMessage::Row(row) if row.get(0) == Some("t"))))
}

/// Writes down that there is no slot any more, on purpose: the next one of this name is a first one; `false` when there was
/// no record. The row stays: were it gone, a process that remembers the slot could not tell a teardown from an older
/// state of the database.
///
/// # Errors
/// [`CatalogError::Statement`].
pub async fn tear_down(client: &Client, database: &SourceDatabase) -> Result<bool, CatalogError> {
    let update = format!(
        "UPDATE ONLY {} SET confirmed_flush = '0/0', confirmed_until = NULL, holder = NULL, gap = NULL, \
         published_by = NULL, unaccounted = NULL, version = version + 1, written_at = clock_timestamp() \
         WHERE slot = $1 AND NOT ({TORN_DOWN})",
        table(database)
    );
    match client.execute_typed(&update, &[(&database.slot, Type::TEXT)]).await {
        Ok(rows) => Ok(rows > 0),
        Err(error) if error.code().is_some_and(|code| code.code() == UNDEFINED_TABLE) => Ok(false),
        Err(error) => Err(failed("clearing the slot's record")(error)),
    }
}
