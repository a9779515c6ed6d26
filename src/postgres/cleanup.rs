//! Removing rows whose messages are confirmed, `cleanup.mode = "delete"`: the statements.
//!
//! A row does not say where in WAL its transaction committed, and the time in it says nothing about that. But a commit record
//! is written before anybody else sees the row (`RecordTransactionCommit` before `ProcArrayEndTransaction`, xact.c). So who
//! sees a row, and asks only then how far WAL has been written, has a position that the row's transaction committed before.
//! Once everything before that position is confirmed, the row is.
//!
//! Until then the row may be gone and another one lie in its place. What is removed is therefore named by its place and by
//! the transaction that wrote it (`tableoid`, `ctid`, `xmin`): whatever lies there then is of a transaction that was
//! committed when it was seen. No key is needed.
//!
//! Knows nothing of pace, and does not wait for a confirm: [`relay`](crate::relay) does.

use std::time::Duration;

use tokio_postgres::{Client, types::Type};

use super::{
    SourceDatabase, TableName,
    catalog::{self, CatalogError, PublicationFacts, failed},
    sql_text::identifier,
};
use crate::{outbox::ColumnNames, position::Lsn};

/// What is to be removed: key `cleanup.retention_s`, with `cleanup.mode = "delete"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cleanup {
    /// How long a row stays after the time in its `created_at`; zero: no longer than until its message is confirmed.
    pub retention: Duration,
}

/// Why nothing can be removed.
#[derive(Debug, thiserror::Error)]
pub enum CleanupError {
    /// The table is gone, or has another name.
    #[error("table {} does not exist (any more): set outbox.table to its name and restart outboxd", .0.quoted())]
    NoTable(TableName),
    /// A retention was asked for.
    #[error("table {} {NO_TIMES}", .0.quoted())]
    NoTimes(TableName),
    /// There may be rows that were never published.
    #[error("publication {publication} {why}, so rows of {} may be unpublished: nothing is removed until it does", table.quoted())]
    NotPublished {
        /// The publication's name.
        publication: String,
        /// The outbox table.
        table: TableName,
        /// What it does not do.
        why: &'static str,
    },
    /// The server has the slot elsewhere than we do.
    #[error(
        "slot {slot} is not where it was confirmed to be: this connection leads to another server than the stream's"
    )]
    OtherServer {
        /// Its name.
        slot: String,
    },
    /// A statement failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

impl CleanupError {
    /// What to do about it, as far as the error itself does not say. SQLSTATEs are those of the manual's appendix
    /// "PostgreSQL Error Codes".
    pub fn hint(&self) -> Option<&'static str> {
        let CleanupError::Catalog(cause) = self else { return None };
        match cause.sqlstate()? {
            "42501" => Some("`outboxd check` prints the GRANT that is missing"),
            "57014" => Some("with cleanup.retention_s, an index on created_at makes the search short"),
            "55P03" => Some("somebody is altering the table, or holds what a foreign key refers to"),
            code if code.starts_with("23") => Some(
                "a foreign key to the outbox table keeps its rows: drop it, or declare it ON DELETE CASCADE",
            ),
            _ => None,
        }
    }
}

/// What a table without a time of its rows lacks.
pub(super) const NO_TIMES: &str = "has no column for the time of a row (outbox.columns.created_at), which cleanup.retention_s needs: \
     add it, or set cleanup.retention_s = 0";

/// The statement that lets a role remove rows. To lock a row takes UPDATE on one column, whichever.
pub fn grant_sql(database: &SourceDatabase, columns: &ColumnNames, role: &str) -> String {
    let (column, table) = (identifier(&columns.id), database.table.quoted());
    format!("GRANT DELETE, UPDATE ({column}) ON {table} TO {}", identifier(role))
}

/// The statements for one table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statements {
    /// Finds rows that are old enough; LIMIT and OFFSET follow.
    pub search: String,
    /// Removes rows that were found.
    pub remove: String,
}

/// A row that was there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenRow {
    /// `tableoid`: the table, or the partition.
    pub table: u32,
    /// `ctid`: the place in it.
    pub place: String,
    /// `xmin`: the transaction that wrote it.
    pub transaction: String,
}

/// Rows that were there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// In the order in which they were found.
    pub rows: Vec<SeenRow>,
    /// Each of their transactions committed before this position.
    pub committed_before: Lsn,
}

/// For a connection of its own. Removing again what a crash of the server brought back costs less than a flush for each
/// batch. Nobody is to wait for us long, neither those who queue behind us for a lock nor VACUUM for an old snapshot. A scan
/// that joins another one halfway (`synchronize_seqscans`) would make OFFSET mean something else each time. And the planner,
/// which knows little of `ctid`, would read all partitions to find a thousand rows whose places are known, for a hash join.
const SESSION: &str = "SET synchronous_commit = off; SET lock_timeout = '1s'; SET statement_timeout = '30s';
    SET default_transaction_isolation = 'read committed'; SET synchronize_seqscans = off; SET row_security = off;
    SET enable_hashjoin = off; SET enable_mergejoin = off; SET max_parallel_workers_per_gather = 0; SET jit = off;
    SET idle_in_transaction_session_timeout = 0";

impl Statements {
    /// Looks at the table, and makes the connection ready for its statements.
    ///
    /// # Errors
    /// [`CleanupError`].
    pub async fn prepare(
        client: &Client,
        database: &SourceDatabase,
        cleanup: Cleanup,
        columns: &ColumnNames,
    ) -> Result<Self, CleanupError> {
        client.batch_execute(SESSION).await.map_err(failed("preparing to remove confirmed rows"))?;
        let name = &database.table;
        let facts = catalog::table(client, name).await?;
        let facts = facts.ok_or_else(|| CleanupError::NoTable(name.clone()))?;
        let created_at = columns.created_at.name().filter(|column| facts.column(column).is_some());
        let old_enough = match (cleanup.retention.as_secs(), created_at) {
            (0, _) => String::new(),
            (seconds, Some(column)) => {
                format!(" WHERE {} < now() - {seconds} * interval '1 second'", identifier(column))
            }
            (_, None) => return Err(CleanupError::NoTimes(name.clone())),
        };
        let (only, table) = (facts.kind.only(), name.quoted());
        Ok(Self {
            search: format!("SELECT tableoid, ctid::text, xmin::text FROM {only}{table}{old_enough}"),
            // Rows that somebody holds stay for the next search.
            remove: format!(
                "WITH chosen AS (
                     SELECT o.tableoid AS part, o.ctid AS place
                     FROM {only}{table} o
                     JOIN unnest($1::oid[], $2::text[]::tid[], $3::text[]::xid[]) AS seen (part, place, written_by)
                     ON o.ctid = seen.place AND o.tableoid = seen.part AND o.xmin = seen.written_by
                     FOR UPDATE OF o SKIP LOCKED)
                 DELETE FROM {only}{table} o USING chosen WHERE o.ctid = chosen.place AND o.tableoid = chosen.part"
            ),
        })
    }
}

/// Rows that are there now and old enough: the first `limit` behind the first `skip`. Somebody may have meddled with the
/// publication, and then a row may be there whose message never will be; so that is looked at, too.
///
/// # Errors
/// [`CleanupError`].
pub async fn search(
    client: &Client,
    database: &SourceDatabase,
    statements: &Statements,
    limit: usize,
    skip: usize,
) -> Result<Seen, CleanupError> {
    const DOING: &str = "looking for rows to remove";
    let search = format!("{} LIMIT {limit} OFFSET {skip}", statements.search);
    let rows = client.query_typed(&search, &[]).await.map_err(failed(DOING))?;
    let rows: Vec<SeenRow> = rows
        .iter()
        .map(|row| SeenRow { table: row.get(0), place: row.get(1), transaction: row.get(2) })
        .collect();
    // Only now: see the head of this file.
    let end = client
        .query_typed_one("SELECT (pg_current_wal_insert_lsn() - '0/0')::int8", &[])
        .await
        .map_err(failed(DOING))?;
    if !rows.is_empty() {
        let publication = catalog::publication(client, &database.publication, &database.table).await?;
        if let Some(why) = unpublished(publication.as_ref()) {
            let (publication, table) = (identifier(&database.publication), database.table.clone());
            return Err(CleanupError::NotPublished { publication, table, why });
        }
    }
    Ok(Seen { rows, committed_before: Lsn(end.get::<_, i64>(0).cast_unsigned()) })
}

/// Why a row of the table may have no message.
pub(super) fn unpublished(publication: Option<&PublicationFacts>) -> Option<&'static str> {
    match publication {
        None => Some("does not exist"),
        Some(facts) if !facts.insert => Some("does not publish inserts"),
        Some(facts) if facts.held != catalog::Held::AsItself => Some("does not hold the table"),
        Some(facts) if facts.row_filter.is_some() => Some("publishes only some rows"),
        Some(_) => None,
    }
}

/// Removes those of `rows` that are still there, are still the same and that nobody holds, in one short transaction; how
/// many that were.
///
/// # Errors
/// [`CleanupError`]; then all of them are still there.
pub async fn remove(client: &Client, statements: &Statements, rows: &[SeenRow]) -> Result<u64, CleanupError> {
    let tables: Vec<u32> = rows.iter().map(|row| row.table).collect();
    let places: Vec<&str> = rows.iter().map(|row| row.place.as_str()).collect();
    let transactions: Vec<&str> = rows.iter().map(|row| row.transaction.as_str()).collect();
    let removed = client
        .execute_typed(
            &statements.remove,
            &[(&tables, Type::OID_ARRAY), (&places, Type::TEXT_ARRAY), (&transactions, Type::TEXT_ARRAY)],
        )
        .await
        .map_err(failed("removing confirmed rows"))?;
    Ok(removed)
}
