//! Rows that were there before the slot: published once, without a gap before the stream, and without a half-done state.
//!
//! 1. [`Backlog::begin`] makes a *temporary* slot and exports its snapshot. The snapshot has every row that committed before
//!    the slot's consistent point; the slot will send every row that commits after it.
//! 2. [`Backlog::rows`] are the rows of that snapshot. The caller publishes them, and has all of them confirmed.
//! 3. [`Backlog::finish`] copies the temporary slot to the permanent one, at the same position.
//!
//! Whatever ends us before the last step leaves no slot behind, so that the next one starts over: duplicates, never a gap.
//! The temporary slot's name is fixed, which makes it the lock that keeps a second instance out.
//! The publication must exist before [`Backlog::begin`]: a slot cannot decode with one that was made after it.
//!
//! The rows are those of [`snapshot`], for which the consistent point is the place of the snapshot: a
//! commit record may begin there, and every streamed row must sort behind the backlog.
//!
//! Knows nothing of messages, of confirms, or of retry policy.

use tokio_postgres::Client;

use super::snapshot::{self, RowHold, Selection, SnapshotError, SnapshotRows, sql};
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

/// The reason for which there is no backlog to be had, or no slot at its end.
#[derive(Debug, thiserror::Error)]
pub enum BacklogError {
    /// Another instance is publishing the backlog: stand by, and look for the slot later.
    #[error("another instance is publishing the backlog: it holds the temporary slot {0}")]
    Busy(String),
    /// The permanent slot exists: another instance has published the backlog.
    #[error("slot {0} exists already: the backlog has been published")]
    AlreadyThere(String),
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
    /// The rows could not be read.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
}

impl BacklogError {
    /// The remedy, where it is known.
    pub fn remedy(&self) -> Option<Remedy> {
        match self {
            BacklogError::Replication { cause, .. } => statement_remedy::of_replication(cause),
            BacklogError::Snapshot(error) => error.remedy(),
            _ => None,
        }
    }
}

const MAKING: &str = "making the temporary slot";

fn failed(doing: &'static str) -> impl FnOnce(ReplicationError) -> BacklogError {
    move |cause| BacklogError::Replication { doing, cause }
}

fn nonsense(what: impl Into<String>) -> BacklogError {
    SnapshotError::from(statement::nonsense(MAKING, what)).into()
}

/// The rows of a snapshot, and the temporary slot that begins where it ends.
pub struct Backlog {
    /// The rows, to be read to the end.
    pub rows: SnapshotRows,
    replication: ReplicationConnection,
    slot: String,
    temporary: String,
    failover: bool,
}

impl Backlog {
    /// Makes the temporary slot and opens its snapshot; the permanent one is synchronised to standbys if `failover`. Waits until every transaction that writes now has ended.
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
                    // Its snapshot ended with the transaction.
                    drop_temporary(&mut replication, &temporary).await?;
                    client = snapshot::anew(client, database).await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Makes the temporary slot and declares the cursor.
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
        // Another instance may have copied its slot and let go of the name just now.
        // One of another database, too: whoever looks again sees that.
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
            .map_err(sql("opening the snapshot"))?;
        // A table that is rewritten or truncated after the snapshot and before our lock looks empty to it (manual,
        // "Caveats" of "Concurrency Control"). The lock cannot come first: who waits for it may be a transaction that
        // the slot waits for, and the server does not see that circle. So see whether something happened. The other
        // connection sees the present.
        let shape_now =
            replication.query(&shape_query(name)).await.map_err(failed("looking at the table again"))?;
        if shape_now.first().and_then(|row| row.first()) != Some(&shape_before) {
            return Err(SnapshotError::TableChanged(name.clone()).into());
        }
        let at = (consistent_point, held);
        Ok(SnapshotRows::declare(client, database, &table, columns, selection, at).await?)
    }

    /// The place where the stream goes on: every row that committed before is in the backlog, every other is not.
    pub fn consistent_point(&self) -> Lsn {
        self.rows.point()
    }

    /// Makes the permanent slot. Call it when all rows have been confirmed. The connection is then ready to stream.
    ///
    /// # Errors
    /// [`BacklogError::Unfinished`] before the last row. After any error there may or may not be a slot: look again.
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
            Err(error) => return Err(failed("making the permanent slot")(error)),
        }
        // First, so that it holds back no WAL while anything waits.
        drop_temporary(&mut self.replication, &self.temporary).await?;
        // A copy is an ordinary slot, whatever its original is. Whoever has the slot next, as the configuration is the same,
        // makes it a failover slot.
        if self.failover {
            let made = self.replication.make_failover(&self.slot).await;
            if !made.map_err(failed("making the slot a failover slot"))? {
                return Err(BacklogError::AlreadyThere(self.slot));
            }
        }
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
    // In no order: the first row would otherwise have to wait for all of them to be sorted.
    let off = || OptionalColumn::Off;
    let columns = ColumnNames { sequence: off(), created_at: off(), ..ColumnNames::default() };
    let all = Selection::default();
    // Nor be copied with all the others.
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

/// `CREATE_REPLICATION_SLOT` (manual, "Streaming Replication Protocol"), in the syntax that all of 13 to 18 take. The
/// snapshot lives until the connection's next command.
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
            _ => Err(nonsense("it names no snapshot")),
        },
        rows => Err(nonsense(format!("{} rows", rows.len()))),
    }
}

async fn drop_temporary(connection: &mut ReplicationConnection, name: &str) -> Result<(), BacklogError> {
    let command = format!("DROP_REPLICATION_SLOT {}", identifier(name));
    connection.query(&command).await.map_err(failed("dropping the temporary slot"))?;
    Ok(())
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

async fn shape_by_sql(client: &Client, table: &TableName) -> Result<Option<String>, SnapshotError> {
    let row = client
        .query_typed_one(&shape_query(table), &[])
        .await
        .map_err(sql("reading the shape of the table"))?;
    Ok(row.get(0))
}
