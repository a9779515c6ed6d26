//! Rows that were there before the slot: read without a gap and without leaving a half-done state behind.
//!
//! The state protocol, on one replication connection:
//!
//! 1. A temporary slot is made, which exports a snapshot of the database as of its consistent point. The slot keeps the WAL
//!    from there on; it vanishes with its session, whatever happens. The publication must exist by then.
//! 2. The rows of that snapshot are read, and published by the caller.
//! 3. Once all of them are confirmed, the temporary slot is copied to the permanent one, at the same position.
//!
//! A crash at any point before the copy leaves no slot, so the next start begins anew: duplicates, never a gap. The temporary
//! slot's fixed name keeps a second instance from publishing the same backlog at the same time.
//!
//! Knows nothing of messages, of confirms, or of when to try again.

use std::{fmt, pin::Pin};

use bytes::Bytes;
use futures_util::StreamExt;
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow, SimpleQueryStream};

use super::{
    SourceDatabase, TableName,
    catalog::TableKind,
    error::ConnectError,
    replication::{ReplicationConnection, ReplicationError},
    sql_text::{identifier, literal},
};
use crate::{
    outbox::{Column, OutboxRow, Timestamp},
    position::{Lsn, Position},
};

/// The order in which the rows of a backlog come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BacklogOrder {
    /// By the sequence column: commit order per aggregate, if writers lock the aggregate before they insert.
    Sequence(String),
    /// By the time of insertion.
    CreatedAt(String),
    /// As the table happens to hold them. No order is promised.
    Unordered,
}

impl fmt::Display for BacklogOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BacklogOrder::Sequence(column) | BacklogOrder::CreatedAt(column) => {
                write!(f, "by column \"{column}\"")
            }
            BacklogOrder::Unordered => {
                f.write_str("none: the table has no sequence column and no creation time")
            }
        }
    }
}

/// Why the backlog could not be read, or the slot not be made from it.
#[derive(Debug, thiserror::Error)]
pub enum BacklogError {
    /// On the connection that owns the temporary slot.
    #[error("the slot for the backlog")]
    Slot(#[from] ReplicationError),
    /// No connection to read the rows on.
    #[error("no connection to read the backlog on")]
    Connect(#[from] ConnectError),
    /// The rows could not be read.
    #[error("the backlog cannot be read from {table}")]
    Read {
        /// The outbox table.
        table: TableName,
        /// What PostgreSQL says.
        #[source]
        source: tokio_postgres::Error,
    },
    /// A position counts rows in 32 bits.
    #[error("the backlog of {0} has more than 2^32 rows; delete old ones, or set backlog = \"skip\"")]
    TooManyRows(TableName),
}

/// What came of the attempt to begin.
pub enum Begun {
    /// There is no permanent slot, and the backlog is ours to publish.
    Backlog(Backlog),
    /// Another instance is publishing it.
    Busy(ReplicationConnection),
    /// The permanent slot exists.
    SlotExists(ReplicationConnection),
}

/// A backlog being read. Dropping it leaves no trace on the server.
pub struct Backlog {
    connection: ReplicationConnection,
    temporary_slot: String,
    slot: String,
    table: TableName,
    order: BacklogOrder,
    columns: Vec<Column>,
    /// Reads within one transaction on the exported snapshot. tokio-postgres holds at most a read buffer and one batch
    /// of rows that were not asked for yet, and then stops reading the socket (`Connection::poll_read` waits for room in
    /// the response's channel of one), so a stream that is not polled costs no memory.
    rows: Pin<Box<SimpleQueryStream>>,
    /// Keeps the connection of `rows` open.
    _sql: Client,
    snapshot_lsn: Lsn,
    taken_at: Timestamp,
    next_index: u64,
}

impl Backlog {
    /// Makes the temporary slot and opens its snapshot. `columns` are those that pgoutput will send, in their order.
    ///
    /// # Errors
    /// See [`BacklogError`].
    pub async fn begin(
        mut connection: ReplicationConnection,
        database: &SourceDatabase,
        columns: Vec<Column>,
        kind: TableKind,
        order: BacklogOrder,
    ) -> Result<Begun, BacklogError> {
        let temporary_slot = temporary_name(&database.slot);
        let snapshot = match create_temporary(&mut connection, &temporary_slot).await {
            Ok(snapshot) => snapshot,
            Err(error) if error.sqlstate() == Some(DUPLICATE_OBJECT) => return Ok(Begun::Busy(connection)),
            Err(error) => return Err(error.into()),
        };
        let sql = database.endpoint.connect_sql("outboxd backlog").await?;
        let read = |source| BacklogError::Read { table: database.table.clone(), source };
        // Imported before the replication connection does anything else: its next command ends the exported snapshot.
        sql.batch_execute(&open_snapshot(&snapshot.name)).await.map_err(read)?;
        // Another instance may have finished between our caller's look and the temporary slot.
        if slot_exists(&mut connection, &database.slot).await? {
            drop_slot(&mut connection, &temporary_slot).await?;
            return Ok(Begun::SlotExists(connection));
        }
        let select = select(&database.table, kind, &columns, &order);
        let rows = Box::pin(sql.simple_query_raw(&select).await.map_err(read)?);
        Ok(Begun::Backlog(Backlog {
            connection,
            temporary_slot,
            slot: database.slot.clone(),
            table: database.table.clone(),
            order,
            columns,
            rows,
            _sql: sql,
            // The last byte of WAL that the snapshot contains. A commit record may start exactly at the consistent
            // point, and the rows it commits must sort behind the backlog's.
            snapshot_lsn: Lsn(snapshot.consistent_point.0.saturating_sub(1)),
            taken_at: Timestamp::now(),
            next_index: 0,
        }))
    }

    /// The order in which rows come.
    pub fn order(&self) -> &BacklogOrder {
        &self.order
    }

    /// The columns of each row's values.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// The next row, `None` after the last. Cancel-safe.
    ///
    /// # Errors
    /// [`BacklogError::Read`], [`BacklogError::TooManyRows`].
    pub async fn next(&mut self) -> Result<Option<OutboxRow>, BacklogError> {
        loop {
            let message = self.rows.next().await.transpose();
            let message =
                message.map_err(|source| BacklogError::Read { table: self.table.clone(), source })?;
            match message {
                None => return Ok(None),
                Some(SimpleQueryMessage::Row(row)) => return self.take(&row).map(Some),
                // The description before the rows, and the count after them.
                Some(_) => {}
            }
        }
    }

    fn take(&mut self, row: &SimpleQueryRow) -> Result<OutboxRow, BacklogError> {
        let index =
            u32::try_from(self.next_index).map_err(|_| BacklogError::TooManyRows(self.table.clone()))?;
        self.next_index += 1;
        let value = |column| match row.try_get(column) {
            Ok(text) => Ok(text.map(|text| Bytes::copy_from_slice(text.as_bytes()))),
            Err(source) => Err(BacklogError::Read { table: self.table.clone(), source }),
        };
        Ok(OutboxRow {
            position: Position { commit_lsn: self.snapshot_lsn, index },
            committed_at: self.taken_at,
            values: (0..row.len()).map(value).collect::<Result<_, _>>()?,
        })
    }

    /// Every row is confirmed: makes the permanent slot where the snapshot was taken, and gives the connection back,
    /// ready to stream from it.
    ///
    /// # Errors
    /// [`BacklogError::Slot`].
    pub async fn finish(mut self) -> Result<ReplicationConnection, BacklogError> {
        let copy = format!(
            "SELECT pg_copy_logical_replication_slot({}, {}, false)",
            literal(&self.temporary_slot),
            literal(&self.slot)
        );
        self.connection.query(&copy).await?;
        drop_slot(&mut self.connection, &self.temporary_slot).await?;
        Ok(self.connection)
    }
}

/// Makes the permanent slot at once, leaving the rows that are there alone (`backlog = "skip"`).
///
/// # Errors
/// [`ReplicationError::Command`].
pub async fn skip(connection: &mut ReplicationConnection, slot: &str) -> Result<(), ReplicationError> {
    let create = format!("CREATE_REPLICATION_SLOT {} LOGICAL pgoutput NOEXPORT_SNAPSHOT", identifier(slot));
    connection.query(&create).await.map(drop)
}

/// Makes the permanent slot if the table is empty as of the slot's own snapshot, so that no row falls between; says
/// whether it did. With rows there the slot is left to `run`, which publishes them first.
///
/// # Errors
/// See [`BacklogError`].
pub async fn create_slot_if_table_is_empty(
    connection: ReplicationConnection,
    database: &SourceDatabase,
    kind: TableKind,
) -> Result<bool, BacklogError> {
    let begun = Backlog::begin(connection, database, Vec::new(), kind, BacklogOrder::Unordered).await?;
    let Begun::Backlog(mut backlog) = begun else { return Ok(matches!(begun, Begun::SlotExists(_))) };
    let is_empty = backlog.next().await?.is_none();
    if is_empty {
        backlog.finish().await?;
    }
    Ok(is_empty)
}

/// SQLSTATE of "replication slot already exists".
const DUPLICATE_OBJECT: &str = "42710";

struct Snapshot {
    name: String,
    consistent_point: Lsn,
}

async fn create_temporary(
    connection: &mut ReplicationConnection,
    temporary_slot: &str,
) -> Result<Snapshot, ReplicationError> {
    // The session idles while the backlog is published, for as long as that takes.
    connection.query("SET statement_timeout = 0").await?;
    if connection.server_version_major().is_some_and(|major| major >= 14) {
        connection.query("SET idle_session_timeout = 0").await?;
    }
    let create = format!(
        "CREATE_REPLICATION_SLOT {} TEMPORARY LOGICAL pgoutput EXPORT_SNAPSHOT",
        identifier(temporary_slot)
    );
    let rows = connection.query(&create).await?;
    // slot_name, consistent_point, snapshot_name, output_plugin
    let field = |index: usize| rows.first().and_then(|row| row.get(index)).cloned().flatten();
    let consistent_point = field(1).and_then(|lsn| lsn.parse().ok());
    match (consistent_point, field(2)) {
        (Some(consistent_point), Some(name)) => Ok(Snapshot { name, consistent_point }),
        _ => Err(ReplicationError::unexpected_answer(
            "CREATE_REPLICATION_SLOT",
            "slot_name, consistent_point, snapshot_name",
        )),
    }
}

/// The whole transaction must read every row, or say that it cannot: row-level security would hide some silently.
fn open_snapshot(name: &str) -> String {
    format!(
        "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {}; \
         SET LOCAL row_security = off; SET LOCAL statement_timeout = 0; \
         SET LOCAL idle_in_transaction_session_timeout = 0",
        literal(name)
    )
}

fn select(table: &TableName, kind: TableKind, columns: &[Column], order: &BacklogOrder) -> String {
    let columns: Vec<_> = columns.iter().map(|column| identifier(&column.name)).collect();
    let order = match order {
        BacklogOrder::Sequence(column) | BacklogOrder::CreatedAt(column) => {
            format!(" ORDER BY {}", identifier(column))
        }
        BacklogOrder::Unordered => String::new(),
    };
    format!("SELECT {} FROM {}{}{order}", columns.join(", "), kind.only(), table.quoted())
}

async fn slot_exists(connection: &mut ReplicationConnection, slot: &str) -> Result<bool, ReplicationError> {
    let query = format!("SELECT 1 FROM pg_replication_slots WHERE slot_name = {}", literal(slot));
    Ok(!connection.query(&query).await?.is_empty())
}

async fn drop_slot(connection: &mut ReplicationConnection, slot: &str) -> Result<(), ReplicationError> {
    connection.query(&format!("SELECT pg_drop_replication_slot({})", literal(slot))).await.map(drop)
}

/// Two slots whose names differ only behind this length wait for each other's backlog; nothing worse.
fn temporary_name(slot: &str) -> String {
    const SUFFIX: &str = "_backlog";
    const NAME_MAX: usize = 63;
    let kept: String = slot.chars().take(NAME_MAX - SUFFIX.len()).collect();
    kept + SUFFIX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_names_every_column_and_quotes_what_needs_it() {
        let table = TableName { schema: "My Schema".into(), table: "out\"box".into() };
        let columns = ["id", "Payload"].map(|name| Column { name: name.into(), type_oid: 25 });
        assert_eq!(
            select(&table, TableKind::Ordinary, &columns, &BacklogOrder::Sequence("seq".into())),
            r#"SELECT "id", "Payload" FROM ONLY "My Schema"."out""box" ORDER BY "seq""#
        );
        assert_eq!(
            select(&table, TableKind::Partitioned, &columns[..1], &BacklogOrder::Unordered),
            r#"SELECT "id" FROM "My Schema"."out""box""#
        );
    }

    #[test]
    fn a_temporary_name_fits_into_what_postgresql_keeps_of_a_name() {
        assert_eq!(temporary_name("outboxd_orders"), "outboxd_orders_backlog");
        assert_eq!(temporary_name(&"x".repeat(63)).len(), 63);
    }
}
