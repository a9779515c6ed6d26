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
//! All that holds for rows that get into the stream. So whoever removes rows says by what the table was published when the
//! slot was taken, and if it is another at the end of a search, nothing more is removed.
//!
//! A pass goes through the table block by block and reads each block once, however many rows were removed before it and are
//! not vacuumed yet. Only where an index on `created_at` leads to the old rows it goes by that.
//!
//! Knows nothing of pace, and does not wait for a confirm: [`relay`](crate::relay) does.

use tokio_postgres::{Client, types::Type};

use crate::{
    message::ColumnNames,
    position::Lsn,
    postgres::{
        Cleanup, SourceDatabase, TableName,
        outbox_table::{self, TableFacts, TableKind},
        sql_text::{identifier, literal},
        sqlstate,
        statement::{CatalogError, failed},
    },
    slot::publication::{self, Held, PublicationFacts, PublishedBy, Publishing},
};

/// The reason for which nothing can be removed.
#[derive(Debug, thiserror::Error)]
pub enum CleanupError {
    /// The table is gone, or has another name.
    #[error("table {} does not exist (any more): set outbox.table to its name and restart outboxd", .0.quoted())]
    NoTable(TableName),
    /// A retention was asked for.
    #[error("table {} {NO_TIMES}", .0.quoted())]
    NoTimes(TableName),
    /// A retention was asked for, and the times do not say when.
    #[error("table {} {NO_ZONE}", .0.quoted())]
    NoZone(TableName),
    /// There may be rows that were never published.
    #[error("publication {publication} {why}, so rows of {} may be unpublished", table.quoted())]
    NotPublished {
        /// The publication's name.
        publication: String,
        /// The outbox table.
        table: TableName,
        /// What it does not do.
        why: String,
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
    /// Going on needs somebody's word: rows may lie in the table that were never published.
    pub(crate) fn is_final(&self) -> bool {
        matches!(self, CleanupError::NotPublished { .. })
    }

    /// The cure, as far as the error itself does not say.
    pub fn hint(&self) -> Option<&'static str> {
        let CleanupError::Catalog(cause) = self else { return None };
        match cause.sqlstate()? {
            sqlstate::INSUFFICIENT_PRIVILEGE => Some("`outboxd check` prints the GRANT that is missing"),
            sqlstate::INVALID_PARAMETER_VALUE => {
                Some("set outbox.created_at_zone to a zone of pg_timezone_names, and restart outboxd")
            }
            sqlstate::QUERY_CANCELED => {
                Some("with cleanup.retention_s, an index on created_at makes the search short")
            }
            sqlstate::LOCK_NOT_AVAILABLE => {
                Some("somebody is altering the table, or holds what a foreign key refers to")
            }
            sqlstate::UNDEFINED_TABLE | sqlstate::UNDEFINED_FUNCTION | sqlstate::UNDEFINED_OBJECT => Some(
                "if a trigger of the table names a table, function or type: with its schema, or SET search_path on the trigger's \
                 function, as outboxd's connections search pg_catalog only",
            ),
            code if code.starts_with("23") => Some(
                "a foreign key to the outbox table keeps its rows: drop it, or declare it ON DELETE CASCADE",
            ),
            _ => None,
        }
    }
}

/// The want of a table without a time of its rows.
const NO_TIMES: &str =
    "has no column for the time of a row (outbox.columns.created_at), which cleanup.retention_s needs";

/// The want of a table whose times are without time zone.
const NO_ZONE: &str = "has times without time zone (outbox.columns.created_at), and nobody knows in which zone they \
     were written: cleanup.retention_s needs outbox.created_at_zone, or timestamptz";

/// The column that says how old a row is, for a retention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimeColumn<'a> {
    name: &'a str,
    /// The zone of a column that has none of its own.
    zone: Option<&'a str>,
}

/// Finds the [`TimeColumn`].
///
/// # Errors
/// There is none, or it does not tell.
pub(crate) fn time_column<'a>(
    database: &'a SourceDatabase,
    table: &'a TableFacts,
    columns: &ColumnNames,
) -> Result<TimeColumn<'a>, CleanupError> {
    let column = columns.created_at.name().and_then(|column| table.column(column));
    let column = column.ok_or_else(|| CleanupError::NoTimes(database.table.clone()))?;
    let name = column.name.as_str();
    match &database.rows.created_at_zone {
        _ if column.is_timestamptz() => Ok(TimeColumn { name, zone: None }),
        Some(zone) => Ok(TimeColumn { name, zone: Some(zone) }),
        None => Err(CleanupError::NoZone(database.table.clone())),
    }
}

impl TimeColumn<'_> {
    /// The condition of a row that is so old.
    ///
    /// An hour that the clocks repeat counts as its second passage, so no row goes too early. The second condition is implied by
    /// the first, but for the server, which finds by it where an index on the column ends: no zone moves its clocks by a day.
    fn older_than(self, seconds: u64) -> String {
        let (column, until) = (identifier(self.name), format!("now() - {seconds} * interval '1 second'"));
        match self.zone.map(literal) {
            None => format!("{column} < {until}"),
            Some(zone) => format!(
                "{column} AT TIME ZONE {zone} < {until} AND {column} < ({until} + interval '1 day') AT TIME ZONE {zone}"
            ),
        }
    }
}

/// The statement that lets a role remove rows. To lock a row takes UPDATE on one column, whichever.
pub(crate) fn grant_sql(database: &SourceDatabase, columns: &ColumnNames, role: &str) -> String {
    let (column, table) = (identifier(&columns.id), database.table.quoted());
    format!("GRANT DELETE, UPDATE ({column}) ON {table} TO {}", identifier(role))
}

/// The statements for one table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statements {
    /// Finds rows that are old enough; the end of the statement is `Walk`'s.
    pub search: String,
    /// The way of a pass through the table.
    pub walk: Walk,
    /// Removes rows that were found.
    pub remove: String,
    /// By what the table is published as long as rows may go.
    pub published_by: Option<PublishedBy>,
}

/// The way of a pass through the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Walk {
    /// Over the rows that an index on `created_at` leads to; or over all, in PostgreSQL 13, which cannot begin in the middle
    /// of a table. Rows that stayed are stepped over.
    #[default]
    Rows,
    /// By block numbers, so many at a time in each partition. A partition cannot be asked by itself: who may read the table
    /// need not have the right to read its partitions.
    Blocks(u32),
}

/// The progress of a pass through the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pass {
    /// It is about to begin; or has come to the end, which is the same.
    #[default]
    Begin,
    /// So many rows were seen and have stayed.
    Rows(usize),
    /// The blocks before `next` were seen, and the table had `end` of them when the pass began.
    Blocks {
        /// The first that was not.
        next: u32,
        /// What was added since is for the next pass.
        end: u32,
    },
}

impl Pass {
    /// The same after so many of the rows that were seen were removed.
    pub(crate) fn after_removing(self, rows: usize) -> Self {
        match self {
            Pass::Rows(stayed) => Pass::Rows(stayed.saturating_sub(rows)),
            other => other,
        }
    }
}

/// Rows of one search in [`Walk::Rows`]: enough that several thousand rows a second need few searches and waits, and no more
/// than a megabyte.
const SEARCH_ROWS: usize = 10_000;
/// Blocks of one search, of all partitions together: about as many rows, and at most 291 in each of 8 kB
/// (`MaxHeapTuplesPerPage`).
const SEARCH_BLOCKS: u32 = 128;
/// The first version that can scan a range of blocks (TID Range Scan).
const BLOCK_RANGES_SINCE: i32 = 140_000;

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
    /// Where the next search goes on.
    pub then: Pass,
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
        published_by: PublishedBy,
    ) -> Result<Self, CleanupError> {
        client.batch_execute(SESSION).await.map_err(failed("preparing to remove confirmed rows"))?;
        let name = &database.table;
        let facts = outbox_table::table(client, name, &database.publication).await?;
        // A view that took its place has rules and functions of its own.
        let facts = facts.filter(|facts| facts.kind != TableKind::Other);
        let facts = facts.ok_or_else(|| CleanupError::NoTable(name.clone()))?;
        let publication = publication::facts(client, &database.publication, name).await?;
        if let Some(why) = unpublished(publication.as_ref()) {
            return Err(not_published(database, why));
        }
        let created_at = match cleanup.retention.as_secs() {
            0 => None,
            seconds => Some((time_column(database, &facts, columns)?, seconds)),
        };
        let old_enough =
            created_at.map_or_else(|| "true".to_owned(), |(column, seconds)| column.older_than(seconds));
        let layout = Layout::read(client, &facts, created_at.map(|(column, _)| column.name)).await?;
        let by_index = created_at.filter(|_| layout.indexed).map(|(column, _)| identifier(column.name));
        let walk = match &by_index {
            None if layout.version >= BLOCK_RANGES_SINCE => {
                Walk::Blocks((SEARCH_BLOCKS / layout.tables.max(1)).max(1))
            }
            _ => Walk::Rows,
        };
        let order = by_index.map_or_else(String::new, |column| format!(" ORDER BY {column}"));
        let (only, table) = (facts.kind.only(), name.quoted());
        Ok(Self {
            search: format!(
                "SELECT tableoid, ctid::text, xmin::text FROM {only}{table} WHERE {old_enough}{order}"
            ),
            walk,
            published_by: Some(published_by),
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

/// The table's layout on disk.
struct Layout {
    /// `server_version_num`.
    version: i32,
    /// It and its partitions.
    tables: u32,
    /// An index begins with the time of a row.
    indexed: bool,
}

impl Layout {
    async fn read(
        client: &Client,
        table: &TableFacts,
        created_at: Option<&str>,
    ) -> Result<Self, CatalogError> {
        let row = client
            .query_typed_one(
                "SELECT current_setting('server_version_num')::int4, (SELECT count(*) FROM pg_partition_tree($1) WHERE isleaf),
                        EXISTS (SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
                                WHERE i.indrelid = $1 AND i.indisvalid AND i.indpred IS NULL AND a.attname = $2)",
                &[(&table.oid, Type::OID), (&created_at, Type::TEXT)],
            )
            .await
            .map_err(failed("looking how the table lies on disk"))?;
        let tables = u32::try_from(row.get::<_, i64>(1)).unwrap_or(u32::MAX);
        Ok(Self { version: row.get(0), tables, indexed: row.get(2) })
    }
}

impl Statements {
    /// The statement of the next search, when the table has so many blocks, and where the one after it goes on if this one
    /// finds so many rows.
    pub fn next_search(&self, pass: Pass, blocks: u32) -> (String, impl Fn(usize) -> Pass + use<>) {
        let (skip, next, end) = match pass {
            Pass::Begin => (0, 0, blocks),
            Pass::Rows(skip) => (skip, 0, 0),
            Pass::Blocks { next, end } => (0, next, end),
        };
        let search = &self.search;
        let (sql, walk) = match self.walk {
            Walk::Rows => (format!("{search} LIMIT {SEARCH_ROWS} OFFSET {skip}"), None),
            Walk::Blocks(at_a_time) => {
                let until = next.saturating_add(at_a_time);
                let sql = format!("{search} AND ctid >= '({next},0)' AND ctid < '({until},0)'");
                (sql, Some(if until < end { Pass::Blocks { next: until, end } } else { Pass::Begin }))
            }
        };
        let then = move |found: usize| match walk {
            Some(then) => then,
            None if found == SEARCH_ROWS => Pass::Rows(skip + found),
            None => Pass::Begin,
        };
        (sql, then)
    }
}

/// Blocks of the largest of the table's partitions, or of the table.
async fn blocks(client: &Client, table: &TableName) -> Result<u32, CatalogError> {
    let row = client
        .query_typed_one(
            "SELECT COALESCE(max(pg_relation_size(family.oid::regclass)), 0) / current_setting('block_size')::int8
             FROM (SELECT $1::regclass::oid UNION SELECT relid::oid FROM pg_partition_tree($1::regclass)) family (oid)",
            &[(&table.quoted(), Type::TEXT)],
        )
        .await
        .map_err(failed("looking how large the table is"))?;
    Ok(u32::try_from(row.get::<_, i64>(0)).unwrap_or(u32::MAX))
}

/// Rows that are there now and old enough, from where a pass has come to. Somebody may have meddled with the publication, and
/// then a row may be there whose message never will be; so that is looked at, too.
///
/// # Errors
/// [`CleanupError`].
pub async fn search(
    client: &Client,
    database: &SourceDatabase,
    statements: &Statements,
    pass: Pass,
) -> Result<Seen, CleanupError> {
    const DOING: &str = "looking for rows to remove";
    let blocks = match pass {
        Pass::Begin => blocks(client, &database.table).await?,
        _ => 0,
    };
    let (search, then) = statements.next_search(pass, blocks);
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
        match publication::publishing(client, database).await? {
            Publishing::By(by) if statements.published_by == Some(by) => {}
            Publishing::By(_) => {
                return Err(not_published(database, "was altered, or the table was not in it for a time"));
            }
            Publishing::Not(why) => return Err(not_published(database, why)),
            Publishing::NoTable => return Err(CleanupError::NoTable(database.table.clone())),
        }
    }
    let then = then(rows.len());
    Ok(Seen { rows, committed_before: Lsn(end.get::<_, i64>(0).cast_unsigned()), then })
}

fn not_published(database: &SourceDatabase, why: impl ToString) -> CleanupError {
    let (publication, table) = (identifier(&database.publication), database.table.clone());
    CleanupError::NotPublished { publication, table, why: why.to_string() }
}

/// The reason for which a row of the table may have no message.
pub(crate) fn unpublished(publication: Option<&PublicationFacts>) -> Option<&'static str> {
    match publication {
        None => Some("does not exist"),
        Some(facts) if !facts.insert => Some("does not publish inserts"),
        Some(facts) if facts.held != Held::AsItself => Some("does not hold the table"),
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
