//! Rows that were there before the slot: published once, without a gap before the stream, and without a half-done state.
//!
//! 1. [`Backlog::begin`] makes a *temporary* slot and exports its snapshot. The snapshot has every row that committed before
//!    the slot's consistent point; the slot will send every row that commits after it.
//! 2. [`Backlog::next`] reads the rows of that snapshot. The caller publishes them, and has all of them confirmed.
//! 3. [`Backlog::finish`] copies the temporary slot to the permanent one, at the same position.
//!
//! Whatever ends us before the last step leaves no slot behind, so that the next one starts over: duplicates, never a gap.
//! The temporary slot's name is fixed, which makes it the lock that keeps a second instance out.
//! The publication must exist before [`Backlog::begin`]: a slot cannot decode with one that was made after it.
//!
//! A backlog row's [`Position`] has the LSN of the byte before the consistent point: a commit record may begin at the
//! consistent point itself, and every streamed row must sort behind the backlog.
//!
//! Memory: rows are fetched from a cursor, a batch at a time, and a batch not yet polled stays in the socket.
//! tokio-postgres reads ahead of us by what two reads of the socket give (`InnerClient::send` in its `client.rs` makes a channel
//! of one place for the answer, and `Connection::poll_read` in `connection.rs` stops reading while that is full). The
//! cursor is there for the end: an abandoned SELECT would be read, by that same loop, to its last row.
//!
//! Knows nothing of messages, of confirms, or of retry policy.

use std::{fmt, ops::Range, pin::Pin};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow, SimpleQueryStream};

use super::{
    SourceDatabase, TableName,
    catalog::{self, CatalogError, TableFacts},
    error::WireError,
    replication::{ReplicationConnection, ReplicationError},
    sql_text::{identifier, literal},
};
use crate::{
    outbox::{Column, ColumnNames, OptionalColumn, OutboxRow, Timestamp},
    position::{Lsn, Position},
};

/// Rows of one FETCH: enough to make its round trip cheap, few enough to be read to the end when we are given up.
const FETCH_ROWS: u32 = 256;

/// SQLSTATE `duplicate_object`.
const DUPLICATE_OBJECT: &str = "42710";

/// No timeout may end a session that waits for the broker. Asking `pg_settings` leaves out those that this version does
/// not have: `idle_session_timeout` came with 14, `transaction_timeout` with 17.
const NO_TIMEOUTS: &str = "SELECT set_config(name, '0', false) FROM pg_settings WHERE name IN
    ('statement_timeout', 'idle_in_transaction_session_timeout', 'idle_session_timeout', 'transaction_timeout')";

/// Why there is no backlog to be had, or no slot at its end.
#[derive(Debug, thiserror::Error)]
pub enum BacklogError {
    /// Another instance is publishing the backlog: stand by, and look for the slot later.
    #[error("another instance is publishing the backlog: it holds the temporary slot {0}")]
    Busy(String),
    /// The permanent slot exists: another instance has published the backlog.
    #[error("slot {0} exists already: the backlog has been published")]
    AlreadyThere(String),
    /// There is no such table.
    #[error("table {} does not exist", .0.quoted())]
    NoTable(TableName),
    /// The table was altered, rewritten or truncated between the snapshot and our lock: start over.
    #[error("table {} was altered just when its backlog was to be read: start over", .0.quoted())]
    TableChanged(TableName),
    /// More rows than a position can number.
    #[error(
        "the backlog has more than 2^32 rows: publish with backlog = \"skip\", or delete rows that need no publishing"
    )]
    TooManyRows,
    /// [`Backlog::finish`] came before the last row.
    #[error("the backlog has not been read to its end")]
    Unfinished,
    /// A replication command failed.
    #[error("{doing} failed")]
    Replication {
        /// What was being done.
        doing: &'static str,
        /// Why.
        #[source]
        cause: ReplicationError,
    },
    /// SQL failed.
    #[error("{doing} failed")]
    Sql {
        /// What was being done.
        doing: &'static str,
        /// Why.
        #[source]
        cause: WireError,
    },
    /// The catalog could not be read.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The server's answer is not what was asked for.
    #[error("{doing}: the server's answer makes no sense: {what}")]
    Nonsense {
        /// What was being done.
        doing: &'static str,
        /// What is wrong with it.
        what: String,
    },
}

fn replication(doing: &'static str) -> impl FnOnce(ReplicationError) -> BacklogError {
    move |cause| BacklogError::Replication { doing, cause }
}

fn sql(doing: &'static str) -> impl FnOnce(tokio_postgres::Error) -> BacklogError {
    move |error| BacklogError::Sql { doing, cause: error.into() }
}

fn nonsense(doing: &'static str, what: impl Into<String>) -> BacklogError {
    BacklogError::Nonsense { doing, what: what.into() }
}

/// In what order the backlog comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BacklogOrder {
    /// By the sequence column.
    Sequence,
    /// By `created_at`, and where that is equal as the rows lie in the table, which is most often as they were inserted.
    CreatedAt,
    /// As the rows lie in the table: no promise.
    None,
}

impl fmt::Display for BacklogOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BacklogOrder::Sequence => "by the sequence column",
            BacklogOrder::CreatedAt => "by created_at",
            BacklogOrder::None => "none: the table has neither a sequence nor a created_at column",
        })
    }
}

impl BacklogOrder {
    fn of(table: &TableFacts, columns: &ColumnNames) -> Self {
        let there = |column: &OptionalColumn| column.name().is_some_and(|name| table.column(name).is_some());
        match () {
            () if there(&columns.sequence) => BacklogOrder::Sequence,
            () if there(&columns.created_at) => BacklogOrder::CreatedAt,
            () => BacklogOrder::None,
        }
    }

    fn clause(self, columns: &ColumnNames) -> String {
        let by = |column: &OptionalColumn| identifier(column.name().unwrap_or_default());
        match self {
            BacklogOrder::Sequence => format!(" ORDER BY {}", by(&columns.sequence)),
            BacklogOrder::CreatedAt => format!(" ORDER BY {}, tableoid, ctid", by(&columns.created_at)),
            BacklogOrder::None => String::new(),
        }
    }
}

/// The rows of a snapshot, and the temporary slot that begins where it ends.
pub struct Backlog {
    replication: ReplicationConnection,
    /// The transaction that reads; `None` once the last row was read, so that it does not hold back vacuum any longer.
    reader: Option<Reader>,
    slot: String,
    temporary: String,
    order: BacklogOrder,
    columns: Vec<Column>,
    consistent_point: Lsn,
    taken_at: Timestamp,
    rows: u64,
}

struct Reader {
    client: Client,
    /// The FETCH under way.
    batch: Option<Pin<Box<SimpleQueryStream>>>,
}

impl Backlog {
    /// Makes the temporary slot and opens its snapshot. Waits until every transaction that writes now has ended.
    ///
    /// Takes both connections for itself; a dropped future or backlog ends them, and the temporary slot with them.
    ///
    /// # Errors
    /// [`BacklogError::Busy`] and [`BacklogError::AlreadyThere`] when another instance was faster.
    pub async fn begin(
        replication: ReplicationConnection,
        client: Client,
        database: &SourceDatabase,
        columns: &ColumnNames,
    ) -> Result<Self, BacklogError> {
        Self::open(replication, client, database, |table| {
            let order = BacklogOrder::of(table, columns);
            (order, order.clause(columns))
        })
        .await
    }

    async fn open(
        mut replication: ReplicationConnection,
        client: Client,
        database: &SourceDatabase,
        order: impl FnOnce(&TableFacts) -> (BacklogOrder, String),
    ) -> Result<Self, BacklogError> {
        let name = &database.table;
        let temporary = temporary_name(&database.slot);
        let table =
            catalog::table(&client, name).await?.ok_or_else(|| BacklogError::NoTable(name.clone()))?;
        let (order, order_by) = order(&table);
        // Not being shown all rows is an error under row_security = off, and not a smaller backlog. A scan that joins
        // another one halfway (synchronize_seqscans) would begin in the middle of the table.
        client
            .batch_execute(&format!("{NO_TIMEOUTS}; SET row_security = off; SET synchronize_seqscans = off"))
            .await
            .map_err(sql("preparing to read the backlog"))?;
        replication.query(NO_TIMEOUTS).await.map_err(self::replication("switching timeouts off"))?;
        let shape_before = shape_by_sql(&client, name).await?;

        let (consistent_point, snapshot) = create_temporary(&mut replication, &temporary).await?;
        // Another instance may have copied its slot and let go of the name just now.
        if catalog::slot_progress(&client, &database.slot).await?.is_some() {
            drop_temporary(&mut replication, &temporary).await?;
            return Err(BacklogError::AlreadyThere(database.slot.clone()));
        }

        let source = format!("{}{}", table.kind.only(), name.quoted());
        client
            .batch_execute(&format!(
                "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {}; \
                 LOCK TABLE {source} IN ACCESS SHARE MODE",
                literal(&snapshot)
            ))
            .await
            .map_err(sql("opening the snapshot"))?;
        // A table that is rewritten or truncated after the snapshot and before our lock looks empty to it (manual,
        // "Caveats" of "Concurrency Control"). The lock cannot come first: who waits for it may be a transaction that
        // the slot waits for, and the server does not see that circle. So see whether something happened. The other
        // connection sees the present.
        let shape_now = replication
            .query(&shape_query(name))
            .await
            .map_err(self::replication("looking at the table again"))?;
        if shape_now.first().and_then(|row| row.first()) != Some(&shape_before) {
            return Err(BacklogError::TableChanged(name.clone()));
        }

        let list = table.columns.iter().map(|column| identifier(&column.name)).collect::<Vec<_>>().join(", ");
        client
            .batch_execute(&format!(
                "DECLARE outboxd_backlog NO SCROLL CURSOR FOR SELECT {list} FROM {source}{order_by}"
            ))
            .await
            .map_err(sql("beginning to read the backlog"))?;
        let taken_at = client
            .query_typed_one("SELECT (extract(epoch FROM transaction_timestamp()) * 1000000)::int8", &[])
            .await
            .map_err(sql("reading the server's clock"))?;
        Ok(Backlog {
            replication,
            reader: Some(Reader { client, batch: None }),
            slot: database.slot.clone(),
            temporary,
            order,
            columns: table.outbox_columns(),
            consistent_point,
            taken_at: Timestamp(taken_at.get(0)),
            rows: 0,
        })
    }

    /// In what order the rows come.
    pub fn order(&self) -> BacklogOrder {
        self.order
    }

    /// The columns of the rows, for the mapper to be resolved against.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// Where the stream goes on: every row that committed before is in the backlog, every other is not.
    pub fn consistent_point(&self) -> Lsn {
        self.consistent_point
    }

    /// The next row; `None` after the last. Cancel-safe: no row is lost with a dropped future.
    ///
    /// Must not be asked again after an error.
    pub async fn next(&mut self) -> Result<Option<OutboxRow>, BacklogError> {
        const DOING: &str = "reading the backlog";
        loop {
            let Some(reader) = &mut self.reader else { return Ok(None) };
            // simple_query_raw sends before it first waits, if it waits at all, so the batch cannot be asked for twice.
            let batch = match &mut reader.batch {
                Some(batch) => batch,
                none => none.insert(Box::pin(
                    reader
                        .client
                        .simple_query_raw(&format!("FETCH {FETCH_ROWS} FROM outboxd_backlog"))
                        .await
                        .map_err(sql(DOING))?,
                )),
            };
            match batch.next().await.transpose().map_err(sql(DOING))? {
                Some(SimpleQueryMessage::Row(row)) => {
                    let index = u32::try_from(self.rows).map_err(|_| BacklogError::TooManyRows)?;
                    let values = values(&row).map_err(sql(DOING))?;
                    if values.len() != self.columns.len() {
                        return Err(nonsense(DOING, format!("{} values in a row", values.len())));
                    }
                    self.rows += 1;
                    return Ok(Some(OutboxRow {
                        position: Position { commit_lsn: Lsn(self.consistent_point.0 - 1), index },
                        committed_at: self.taken_at,
                        values,
                    }));
                }
                // A batch that is not full is the last; what ends the connection ends its transaction.
                Some(SimpleQueryMessage::CommandComplete(rows)) if rows < u64::from(FETCH_ROWS) => {
                    self.reader = None;
                }
                Some(_) => {}
                None => reader.batch = None,
            }
        }
    }

    /// Makes the permanent slot. Call it when all rows have been confirmed. The connection is then ready to stream.
    ///
    /// # Errors
    /// [`BacklogError::Unfinished`] before the last row. After any error there may or may not be a slot: look again.
    pub async fn finish(mut self) -> Result<ReplicationConnection, BacklogError> {
        if self.reader.is_some() {
            return Err(BacklogError::Unfinished);
        }
        let copy = format!(
            "SELECT lsn FROM pg_copy_logical_replication_slot({}, {}, false)",
            literal(&self.temporary),
            literal(&self.slot)
        );
        match self.replication.query(&copy).await {
            Ok(_) => {}
            Err(error) if error.sqlstate() == Some(DUPLICATE_OBJECT) => {
                return Err(BacklogError::AlreadyThere(self.slot));
            }
            Err(error) => return Err(replication("making the permanent slot")(error)),
        }
        drop_temporary(&mut self.replication, &self.temporary).await?;
        Ok(self.replication)
    }
}

/// For `setup`: makes the permanent slot if the table has no row, and leaves it to `run`, which publishes the backlog
/// first, if it has one. `true` when the slot was made.
///
/// # Errors
/// As [`Backlog::begin`] and [`Backlog::finish`].
pub async fn create_slot_if_table_is_empty(
    replication: ReplicationConnection,
    client: Client,
    database: &SourceDatabase,
) -> Result<bool, BacklogError> {
    let unordered = |_: &TableFacts| (BacklogOrder::None, String::new());
    let mut backlog = Backlog::open(replication, client, database, unordered).await?;
    let empty = backlog.next().await?.is_none();
    if empty {
        backlog.finish().await?;
    } else {
        drop_temporary(&mut backlog.replication, &backlog.temporary).await?;
    }
    Ok(empty)
}

/// `CREATE_REPLICATION_SLOT` (manual, "Streaming Replication Protocol"), in the syntax that all of 13 to 18 take. The
/// snapshot lives until the connection's next command.
async fn create_temporary(
    connection: &mut ReplicationConnection,
    name: &str,
) -> Result<(Lsn, String), BacklogError> {
    const DOING: &str = "making the temporary slot";
    let command =
        format!("CREATE_REPLICATION_SLOT {} TEMPORARY LOGICAL pgoutput EXPORT_SNAPSHOT", identifier(name));
    let rows = match connection.query(&command).await {
        Ok(rows) => rows,
        Err(error) if error.sqlstate() == Some(DUPLICATE_OBJECT) => {
            return Err(BacklogError::Busy(name.to_owned()));
        }
        Err(error) => return Err(replication(DOING)(error)),
    };
    // slot_name, consistent_point, snapshot_name, output_plugin
    match rows.as_slice() {
        [row] => match row.as_slice() {
            [_, Some(point), Some(snapshot), ..] => match point.parse() {
                Ok(point) if point > Lsn::ZERO => Ok((point, snapshot.clone())),
                _ => Err(nonsense(DOING, format!("consistent_point '{point}'"))),
            },
            _ => Err(nonsense(DOING, "it names no snapshot")),
        },
        rows => Err(nonsense(DOING, format!("{} rows", rows.len()))),
    }
}

async fn drop_temporary(connection: &mut ReplicationConnection, name: &str) -> Result<(), BacklogError> {
    let command = format!("DROP_REPLICATION_SLOT {}", identifier(name));
    connection.query(&command).await.map_err(replication("dropping the temporary slot"))?;
    Ok(())
}

/// The temporary slot that goes with a slot: at most 63 bytes (`NAMEDATALEN`), and another one for every slot.
pub fn temporary_name(slot: &str) -> String {
    const SUFFIX: &str = "_backlog";
    const BYTES_MAX: usize = 63;
    if slot.len() + SUFFIX.len() <= BYTES_MAX {
        return format!("{slot}{SUFFIX}");
    }
    // FNV-1a, for it must come out the same in every version of this program.
    let hash =
        slot.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let kept: String = slot.chars().take(BYTES_MAX - SUFFIX.len() - 9).collect();
    format!("{kept}_{hash:08x}{SUFFIX}")
}

/// One text that differs when the table was rewritten, truncated, replaced, altered in its columns, or when it gained or
/// lost a partition.
fn shape_query(table: &TableName) -> String {
    format!(
        "WITH outbox AS (SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                         WHERE n.nspname = {} AND c.relname = {}),
              family AS (SELECT oid FROM outbox
                         UNION SELECT relid::oid FROM outbox, pg_partition_tree(outbox.oid::regclass))
         SELECT (SELECT string_agg(concat_ws(':', oid, pg_relation_filenode(oid)), ' ' ORDER BY oid) FROM family)
                || (SELECT string_agg(concat_ws(':', attnum, attname, atttypid, attisdropped), ' ' ORDER BY attnum)
                    FROM pg_attribute WHERE attrelid IN (SELECT oid FROM outbox) AND attnum > 0)",
        literal(&table.schema),
        literal(&table.table)
    )
}

async fn shape_by_sql(client: &Client, table: &TableName) -> Result<Option<String>, BacklogError> {
    let row = client
        .query_typed_one(&shape_query(table), &[])
        .await
        .map_err(sql("reading the shape of the table"))?;
    Ok(row.get(0))
}

/// The values of a row, as slices of one piece of memory: tokio-postgres does not give its own away.
fn values(row: &SimpleQueryRow) -> Result<Vec<Option<Bytes>>, tokio_postgres::Error> {
    let texts = (0..row.len()).map(|index| row.try_get(index)).collect::<Result<Vec<_>, _>>()?;
    let mut buffer = BytesMut::with_capacity(texts.iter().flatten().map(|text| text.len()).sum());
    let ranges: Vec<Option<Range<usize>>> = texts
        .into_iter()
        .map(|text| {
            text.map(|text| {
                let start = buffer.len();
                buffer.extend_from_slice(text.as_bytes());
                start..buffer.len()
            })
        })
        .collect();
    let buffer = buffer.freeze();
    Ok(ranges.into_iter().map(|range| range.map(|range| buffer.slice(range))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temporary_names_fit_and_differ() {
        assert_eq!(temporary_name("outboxd_orders"), "outboxd_orders_backlog");
        let long = |last: char| format!("{}{last}", "a".repeat(62));
        let (one, other) = (temporary_name(&long('x')), temporary_name(&long('y')));
        assert_eq!((one.len(), other.len()), (63, 63));
        assert_ne!(one, other);
        assert_eq!(temporary_name(&"b".repeat(55)).len(), 63);
    }
}
