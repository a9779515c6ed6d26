//! The backlog: rows that are older than the slot. They are published once, and no gap is left between them and the stream.
//!
//! 1. [`Backlog::begin`] creates a *temporary* slot and exports its snapshot. The snapshot has every row committed before the
//!    slot's consistent point. The slot sends every row committed after it.
//! 2. [`Backlog::rows`] are the rows of the snapshot. The caller publishes them and waits for all confirms.
//! 3. [`Backlog::finish`] copies the temporary slot to the permanent one, at the same position.
//!
//! A crash before the last step leaves no slot, so the next start begins again: duplicates, never a gap. The temporary slot has a
//! fixed name, and so keeps a second instance out. The publication must exist before [`Backlog::begin`], because a slot cannot
//! decode with a publication created after it.
//!
//! A backlog row's position is the last byte before the consistent point, because a commit record may begin at that point and every
//! streamed row must sort after the backlog.
//!
//! Does not know messages, confirms, or retry policy.

use tokio_postgres::Client;

use super::snapshot::{self, RowHold, Selection, SnapshotError, SnapshotRows};
use crate::{
    message::{ColumnNames, OptionalColumn},
    position::Lsn,
    postgres::{
        SourceDatabase, TableName,
        sql_text::{identifier, literal},
        sqlstate::DUPLICATE_OBJECT,
        statement::{self, NO_TIMEOUTS},
        statement_remedy,
    },
    slot::{facts::slot_progress, temporary::temporary_name},
};
use diagnostics::remedy::Remedy;
use pg_replication::{ReplicationConnection, ReplicationError};

/// Failure to read the backlog, or to create the slot after it.
#[derive(Debug, thiserror::Error)]
pub enum BacklogError {
    /// Another instance is publishing the backlog. The caller stands by.
    #[error("another instance is publishing the backlog: it holds the temporary slot {0}")]
    Busy(String),
    /// The permanent slot exists: another instance has published the backlog.
    #[error("slot {0} exists already: the backlog has been published")]
    AlreadyThere(String),
    /// [`Backlog::finish`] was called before the last row.
    #[error("the backlog has not been read to its end")]
    Unfinished,
    /// A replication command failed.
    #[error("{doing} failed")]
    Replication {
        /// Operation.
        doing: &'static str,
        /// Cause.
        #[source]
        cause: ReplicationError,
    },
    /// The rows could not be read.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
}

impl BacklogError {
    /// The remedy, if known.
    pub fn remedy(&self) -> Option<Remedy> {
        match self {
            BacklogError::Replication { cause, .. } => statement_remedy::of_replication(cause),
            BacklogError::Snapshot(error) => error.remedy(),
            _ => None,
        }
    }
}

const MAKING: &str = "creating the temporary slot";

fn failed(doing: &'static str) -> impl FnOnce(ReplicationError) -> BacklogError {
    move |cause| BacklogError::Replication { doing, cause }
}

fn nonsense(what: impl Into<String>) -> BacklogError {
    SnapshotError::from(statement::nonsense(MAKING, what)).into()
}

/// The rows of a snapshot, and the temporary slot that continues after it.
pub struct Backlog {
    /// The rows. Must be read to the end.
    pub rows: SnapshotRows,
    replication: ReplicationConnection,
    slot: String,
    temporary: String,
    failover: bool,
}

impl Backlog {
    /// Creates the temporary slot and opens its snapshot. Waits until every open transaction that has written has ended. The
    /// permanent slot will be synchronised to standbys if `failover`.
    ///
    /// Takes both connections. Dropping the future or the backlog closes them, which ends the temporary slot.
    ///
    /// # Errors
    /// [`BacklogError::Busy`] and [`BacklogError::AlreadyThere`] if another instance was faster; otherwise that of the failed step.
    pub async fn begin(
        replication: ReplicationConnection,
        client: Client,
        database: &SourceDatabase,
        columns: &ColumnNames,
        selection: &Selection,
        failover: bool,
    ) -> Result<Self, BacklogError> {
        Self::begin_held(replication, client, database, columns, selection, failover, RowHold::Copy).await
    }

    async fn begin_held(
        mut replication: ReplicationConnection,
        mut client: Client,
        database: &SourceDatabase,
        columns: &ColumnNames,
        selection: &Selection,
        failover: bool,
        mut held: RowHold,
    ) -> Result<Self, BacklogError> {
        let temporary = temporary_name(&database.slot);
        loop {
            match Self::open(&mut replication, &client, database, columns, selection, held).await {
                Ok(rows) => {
                    let (rows, slot) = (rows.read_by(client), database.slot.clone());
                    return Ok(Backlog { rows, replication, slot, temporary, failover });
                }
                Err(BacklogError::Snapshot(error)) => {
                    held = held.instead(&database.table, &error).ok_or(error)?;
                    // The snapshot ended with the transaction.
                    drop_temporary(&mut replication, &temporary).await?;
                    client = snapshot::anew(client, database).await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Creates the temporary slot and declares the cursor.
    async fn open(
        replication: &mut ReplicationConnection,
        client: &Client,
        database: &SourceDatabase,
        columns: &ColumnNames,
        selection: &Selection,
        held: RowHold,
    ) -> Result<SnapshotRows, BacklogError> {
        let name = &database.table;
        let temporary = temporary_name(&database.slot);
        let table = snapshot::described(client, database).await?;
        snapshot::may_read(database, &table, columns)?;
        snapshot::prepare(client).await?;
        replication.query(NO_TIMEOUTS).await.map_err(failed("switching timeouts off"))?;
        let shape_before = shape_by_sql(client, name).await?;
        let watched = replication.end_with_client().await;
        watched.map_err(failed("having the connection watched"))?;

        let (consistent_point, exported) = create_temporary(replication, &temporary).await?;
        // Another instance may have copied its temporary slot and dropped it just now. A slot of another database counts, too: the
        // next attempt reports it.
        if slot_progress(client, &database.slot).await.map_err(SnapshotError::from)?.is_some() {
            drop_temporary(replication, &temporary).await?;
            return Err(BacklogError::AlreadyThere(database.slot.clone()));
        }

        client
            .batch_execute(&format!(
                "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {}; {}",
                literal(&exported),
                snapshot::lock(name, &table)
            ))
            .await
            .map_err(|error| SnapshotError::from(statement::failed("opening the snapshot")(error)))?;
        // A table that is rewritten or truncated between the snapshot and our lock looks empty to the snapshot (manual, "Caveats"
        // of "Concurrency Control"). The lock cannot come first: the slot might wait for a transaction that waits for our lock, a
        // deadlock that the server does not detect. So the table's shape is compared. The replication connection sees the present.
        let shape_now = replication
            .query(&shape_query(name))
            .await
            .map_err(failed("reading the shape of the table again"))?;
        if shape_now.first().and_then(|row| row.first()) != Some(&shape_before) {
            return Err(SnapshotError::TableChanged(name.clone()).into());
        }
        let at = (consistent_point, held);
        Ok(SnapshotRows::declare(client, database, &table, columns, selection, at).await?)
    }

    /// Position at which the stream continues. The backlog has every row committed before it, and no other.
    pub fn consistent_point(&self) -> Lsn {
        self.rows.point()
    }

    /// Creates the permanent slot after all rows are confirmed. Returns the connection, ready to stream.
    ///
    /// # Errors
    /// [`BacklogError::Unfinished`] before the last row. After any other error the slot may exist or not.
    pub async fn finish(mut self) -> Result<ReplicationConnection, BacklogError> {
        if !self.rows.is_at_end() {
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
            Err(error) => return Err(failed("creating the permanent slot")(error)),
        }
        // Dropped first, so that it holds back no WAL if the next step waits.
        drop_temporary(&mut self.replication, &self.temporary).await?;
        // A copy is never a failover slot. If another instance has the slot by now, it makes it one by the same configuration.
        if self.failover {
            let made = self.replication.make_failover(&self.slot).await;
            if !made.map_err(failed("making the slot a failover slot"))? {
                return Err(BacklogError::AlreadyThere(self.slot));
            }
        }
        Ok(self.replication)
    }
}

/// Creates the permanent slot for `setup` if the table is empty, and returns `true`. A table with rows is left to `run`, which
/// publishes the backlog first.
///
/// # Errors
/// As [`Backlog::begin`] and [`Backlog::finish`].
pub async fn create_slot_if_table_is_empty(
    replication: ReplicationConnection,
    client: Client,
    database: &SourceDatabase,
) -> Result<bool, BacklogError> {
    // Unordered, because an ordered first row waits until all rows are sorted.
    let off = || OptionalColumn::Off;
    let columns = ColumnNames { sequence: off(), created_at: off(), ..ColumnNames::default() };
    let all = Selection::default();
    // Not copied, because one row is enough.
    let held = RowHold::Transaction;
    let failover = database.failover;
    let mut backlog =
        Backlog::begin_held(replication, client, database, &columns, &all, failover, held).await?;
    let empty = backlog.rows.next().await?.is_none();
    if empty {
        backlog.finish().await?;
    } else {
        drop_temporary(&mut backlog.replication, &backlog.temporary).await?;
    }
    Ok(empty)
}

/// Creates the temporary slot by `CREATE_REPLICATION_SLOT` (manual, "Streaming Replication Protocol"), in the syntax of 13 to 18.
/// The snapshot lives until the next command of the connection.
async fn create_temporary(
    connection: &mut ReplicationConnection,
    name: &str,
) -> Result<(Lsn, String), BacklogError> {
    let command =
        format!("CREATE_REPLICATION_SLOT {} TEMPORARY LOGICAL pgoutput EXPORT_SNAPSHOT", identifier(name));
    let rows = match connection.query(&command).await {
        Ok(rows) => rows,
        Err(error) if error.sqlstate() == Some(DUPLICATE_OBJECT) => {
            return Err(BacklogError::Busy(name.to_owned()));
        }
        Err(error) => return Err(failed(MAKING)(error)),
    };
    // slot_name, consistent_point, snapshot_name, output_plugin
    match rows.as_slice() {
        [row] => match row.as_slice() {
            [_, Some(point), Some(snapshot), ..] => match point.parse() {
                Ok(point) if point > Lsn::ZERO => Ok((point, snapshot.clone())),
                _ => Err(nonsense(format!("consistent_point '{point}'"))),
            },
            _ => Err(nonsense("no snapshot name")),
        },
        rows => Err(nonsense(format!("{} rows", rows.len()))),
    }
}

async fn drop_temporary(connection: &mut ReplicationConnection, name: &str) -> Result<(), BacklogError> {
    let command = format!("DROP_REPLICATION_SLOT {}", identifier(name));
    connection.query(&command).await.map_err(failed("dropping the temporary slot"))?;
    Ok(())
}

/// The query of the table's shape: a text that changes when the table is rewritten, truncated or replaced, or when its columns or
/// partitions change.
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

async fn shape_by_sql(client: &Client, table: &TableName) -> Result<Option<String>, SnapshotError> {
    let row = client
        .query_typed_one(&shape_query(table), &[])
        .await
        .map_err(statement::failed("reading the shape of the table"))?;
    Ok(row.get(0))
}
