//! The record of a slot in the source's database: the server of the slot, its holder, and its last recorded position.
//!
//! The record shows whether the slot is still the same ([`continuity`](super::continuity) judges), and where a gap begins if it is
//! not. The table lies beside the outbox table, or in a schema of its own (`postgres.schema`), so that dumps, backups and replicas
//! of the rows contain the record, too.
//!
//! A crash of PostgreSQL may set the slot back to an earlier confirmed position. So while messages are confirmed, the holder copies
//! the slot's position into the record once a second. A copy is never ahead of the slot on that server at that time.
//! [`SlotHistory::settled`](super::continuity::SlotHistory::settled) decides whether to use it.
//!
//! Each write makes WAL. An idle database stays idle: nothing is written unless another row was confirmed.

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

/// The table, by default in the schema of the outbox table. It has one row for each slot.
pub const TABLE: &str = "outboxd_state";

/// [`SlotRecord::is_torn_down`] as an SQL condition on the existing row.
pub(crate) const TORN_DOWN: &str =
    "outboxd_state.confirmed_flush = '0/0' AND outboxd_state.holder IS NULL AND outboxd_state.gap IS NULL";

/// [`SlotRecord::unproven`] of a slot that was created while the table had rows, with `backlog = "skip"`.
pub(crate) const LEFT_OUT: &str =
    "the table had rows when the slot was created, and backlog = \"skip\" left them out";

/// Separator in the column `holder` between the holder and the application name of its sessions. [`usage`](super::usage)
/// recognises an instance by that name. 0.1.0 writes none.
const CALLED: &str = ", application ";

/// A write must survive a crash, or an older record would count. It must not wait for a synchronous standby, which may be down.
const DURABLE: &str = "SET synchronous_commit = local";

/// The record of a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotRecord {
    /// System identifier of the server that had the slot.
    pub system_id: String,
    /// Timeline of that server at the last write.
    pub timeline: u32,
    /// Everything that commits before this position is confirmed. Without a holder the slot stands exactly here, unless a crash of
    /// the server has set it back.
    pub confirmed_flush: Lsn,
    /// Commit time of the last confirmed message by the server's clock, or the time when the slot was created; `None` if neither
    /// is known.
    pub confirmed_until: Option<Timestamp>,
    /// Holder of the slot, which may have confirmed more since; `None` after a clean release.
    pub holder: Option<String>,
    /// A gap, kept until `recover`, because its proof may disappear.
    pub gap: Option<String>,
    /// Publication entry of the outbox table; `None` if unknown.
    pub published_by: Option<PublishedBy>,
    /// The reason why rows of the table may be unpublished although there is no gap, such as rows older than a slot created by
    /// hand. While it is set, clean-up removes nothing. The column is called `unaccounted`, as operators clear it by that name.
    pub unproven: Option<String>,
    /// Number that grows with every write, `teardown` included, so that an older state of the database is recognised.
    pub version: i64,
    /// Set if outboxd wrote the row on this server: no dump, no person and not version 0.1.0. Not a column: the version and
    /// `xmin` of the row tell, see `next_version`.
    pub as_written: bool,
}

impl SlotRecord {
    /// Tells whether the record is one that `outboxd teardown` has cleared: no position, no holder and no gap. Every slot has a
    /// confirmed position above zero.
    pub fn is_torn_down(&self) -> bool {
        self.confirmed_flush == Lsn::ZERO && self.holder.is_none() && self.gap.is_none()
    }
}

/// The progress of a slot, for its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confirmed {
    /// Position reported to PostgreSQL.
    pub flush: Lsn,
    /// Last confirmed row.
    pub position: Option<Position>,
    /// Commit time of that row.
    pub until: Option<Timestamp>,
}

/// The low half of a version.
const LOW: u32 = u32::MAX;

/// The version after `version`, both as SQL. The high half counts; the low half is the inverted number of the writing transaction.
/// A row written by a dump, a subscription or a person has another `xmin`. So has a row written by 0.1.0, which adds 1 to the
/// version: the inverted number then names an earlier transaction.
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

/// The statement that creates the table.
pub(crate) fn create_table_sql(database: &SourceDatabase) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {} (slot text PRIMARY KEY, system_identifier text NOT NULL, timeline bigint NOT NULL, \
         confirmed_flush pg_lsn NOT NULL, confirmed_until timestamptz, holder text, gap text, published_by text, unaccounted text, version bigint NOT NULL, \
         written_at timestamptz NOT NULL DEFAULT clock_timestamp())",
        table(database)
    )
}

/// The statement that reads the application name of the slot's holder.
pub(crate) fn application_sql(schema: &str, slot: &str) -> String {
    format!(
        "SELECT split_part(holder, '{CALLED}', 2) FROM ONLY {}.{} WHERE slot = {}",
        identifier(schema),
        identifier(TABLE),
        literal(slot)
    )
}

/// The statement by which an operator declares that every row of the table is published or need not be. Clears
/// [`unproven`](SlotRecord::unproven).
pub(crate) fn declare_published_sql(database: &SourceDatabase) -> String {
    format!("UPDATE ONLY {} SET unaccounted = NULL WHERE slot = {}", table(database), literal(&database.slot))
}

/// The statement that grants the source's role the use of the table, if another role has created it.
pub(crate) fn grant_sql(database: &SourceDatabase, role: &str) -> String {
    own_table::grant_sql(database, TABLE, role)
}

/// Creates the table if it does not exist.
///
/// # Errors
/// [`CatalogError::Statement`].
pub async fn create_table(client: &Client, database: &SourceDatabase) -> Result<(), CatalogError> {
    let create = create_table_sql(database);
    made(client, "creating the table of slot records", &database.schema, TABLE, &create).await
}

/// Reads the slot's record; `None` if there is no record or no table.
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

/// Writes the record over any other. Only for the holder of the slot, or its creator.
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

/// Writes the record if server process `pid` streams from the slot. Otherwise writes nothing and returns `false`: an instance that
/// was frozen just after it got the slot must not overwrite the name of its successor.
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
    // Checked again under the row lock, for which the statement may have waited.
    insert(client, database, record, &streams, &format!("{OVERWRITE} WHERE {streams}")).await
}

/// Writes the first record of a slot, also after a teardown, unless an instance has acquired the slot and written one.
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

/// Inserts the record if `condition` holds, and does `if_there` if a record exists. Returns whether it has written.
async fn insert(
    client: &Client,
    database: &SourceDatabase,
    record: &SlotRecord,
    condition: &str,
    if_there: &str,
) -> Result<bool, CatalogError> {
    let SlotRecord { system_id, timeline, confirmed_flush, confirmed_until, holder, gap, .. } = record;
    // At least the record's own version, which is greater than that of the record before.
    let version = next_version(&record.version.to_string());
    let published_by = record.published_by.map(|by| by.to_string());
    let text = |text: &Option<String>| text.as_deref().map_or_else(|| "NULL".to_owned(), literal);
    // The server's own form of the name: shortened, and without characters that it does not accept.
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

/// Writes a gap that was found in the record of version `found`, or without a record. Writes nothing if the record has changed since.
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

/// Copies the slot's position into the record, up to `confirmed`, unless another instance has taken over. Returns `true` if the
/// record has `confirmed` now. The slot may still be behind it.
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

/// Writes the position at which `holder` released the slot, unless another instance has taken over.
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

/// Writes no position beyond the slot's, read from the same server in the same statement: after a failover this connection may lead
/// to another server than the stream. Never writes an earlier position, which would make an unreliable record look reliable.
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

/// Clears the record after a teardown: the next slot of this name is a first one. Returns `false` if there was no record. The row
/// stays, because a process that remembers the slot must be able to tell a teardown from an older state of the database.
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
