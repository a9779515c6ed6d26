//! The statements of clean-up.
//!
//! **Position.** A row stores neither its commit position nor anything that tells it. But PostgreSQL writes the commit record before
//! other sessions see the row (`RecordTransactionCommit` before `ProcArrayEndTransaction`, xact.c). So clean-up first sees the row
//! and then reads the end of WAL: the row committed before that end. When everything before it is confirmed, so is the row.
//!
//! **Identity.** Meanwhile another row may have taken the place. So a row is identified by its place and its writing transaction
//! (`tableoid`, `ctid`, `xmin`). No key is needed.
//!
//! **Publication.** All this holds only for published rows. So the caller passes the publication entry of the time when the slot was
//! acquired. If the entry is another one at the end of a search, nothing more is removed.
//!
//! **Cost.** A pass reads the table block by block, each block once, however many removed rows are not vacuumed yet. It uses an index
//! on `created_at` if there is one.
//!
//! Does not know the pace, and does not wait for confirms: [`task`](super::task) does.

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

/// Failure to remove rows.
#[derive(Debug, thiserror::Error)]
pub enum CleanupError {
    /// The table does not exist, or was renamed.
    #[error("table {} does not exist or was renamed: set outbox.table to its name and restart outboxd", .0.quoted())]
    NoTable(TableName),
    /// A retention needs a column for the time of a row.
    #[error("table {} {NO_TIMES}", .0.quoted())]
    NoTimes(TableName),
    /// A retention needs times with a known zone.
    #[error("table {} {NO_ZONE}", .0.quoted())]
    NoZone(TableName),
    /// Rows may have been skipped by the publication.
    #[error("publication {publication} {why}, so rows of {} may be unpublished", table.quoted())]
    NotPublished {
        /// Name of the publication.
        publication: String,
        /// Outbox table.
        table: TableName,
        /// Fault of the publication.
        why: String,
    },
    /// The slot's position on this server is behind the confirmed one.
    #[error(
        "slot {slot} is behind its confirmed position: this connection leads to another server than the stream's"
    )]
    OtherServer {
        /// Name of the slot.
        slot: String,
    },
    /// A statement failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

impl CleanupError {
    /// Tells whether clean-up stops until a restart: rows of the table may never have been published.
    pub(crate) fn is_final(&self) -> bool {
        matches!(self, CleanupError::NotPublished { .. })
    }

    /// The cure, unless the error itself has it.
    pub fn hint(&self) -> Option<&'static str> {
        let CleanupError::Catalog(cause) = self else { return None };
        match cause.sqlstate()? {
            sqlstate::INSUFFICIENT_PRIVILEGE => Some("`outboxd check` prints the missing GRANT"),
            sqlstate::INVALID_PARAMETER_VALUE => {
                Some("set outbox.created_at_zone to a zone of pg_timezone_names, and restart outboxd")
            }
            sqlstate::QUERY_CANCELED => {
                Some("with cleanup.retention_s, an index on created_at makes the search short")
            }
            sqlstate::LOCK_NOT_AVAILABLE => Some(
                "another session alters the table, or locks rows that a foreign key refers to: see pg_locks",
            ),
            sqlstate::UNDEFINED_TABLE | sqlstate::UNDEFINED_FUNCTION | sqlstate::UNDEFINED_OBJECT => Some(
                "outboxd's connections search pg_catalog only: in triggers of the table, qualify every name with its schema, or SET \
                 search_path on the trigger's function",
            ),
            code if code.starts_with("23") => Some(
                "a foreign key to the outbox table keeps its rows: drop it, or declare it ON DELETE CASCADE",
            ),
            _ => None,
        }
    }
}

/// The fault of a table without a time of its rows.
const NO_TIMES: &str =
    "has no column with the time of a row (outbox.columns.created_at), which cleanup.retention_s needs";

/// The fault of a table whose times have no time zone.
const NO_ZONE: &str = "has times without time zone (outbox.columns.created_at): cleanup.retention_s needs \
     outbox.created_at_zone, or a timestamptz column";

/// The column with the time of a row, for a retention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimeColumn<'a> {
    name: &'a str,
    /// The zone of a column that has none of its own.
    zone: Option<&'a str>,
}

/// Finds the [`TimeColumn`].
///
/// # Errors
/// [`CleanupError::NoTimes`] and [`CleanupError::NoZone`].
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
    /// The SQL condition of a row that is older.
    ///
    /// PostgreSQL reads an hour that the clocks repeat as its second passage, so no row is removed too early. The second condition
    /// follows from the first, as no zone moves its clocks by a day. The planner needs it to use an index on the column.
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

/// The statement that grants a role to remove rows. Locking a row needs UPDATE on any one column.
pub(crate) fn grant_sql(database: &SourceDatabase, columns: &ColumnNames, role: &str) -> String {
    let (column, table) = (identifier(&columns.id), database.table.quoted());
    format!("GRANT DELETE, UPDATE ({column}) ON {table} TO {}", identifier(role))
}

/// The statements for one table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statements {
    /// Finds rows that are old enough. `walk` appends the range of the search.
    pub search: String,
    /// The way of a pass through the table.
    pub walk: Walk,
    /// Removes rows that were found.
    pub remove: String,
    /// Publication entry under which rows may be removed.
    pub published_by: Option<PublishedBy>,
}

/// The way of a pass through the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Walk {
    /// Over rows, skipping those that stayed: by an index on `created_at`; or over all rows on PostgreSQL 13, which cannot begin in
    /// the middle of a table.
    #[default]
    Rows,
    /// Over blocks, this number at a time in each partition. Partitions are not read by their own names, because the role may lack
    /// rights to them.
    Blocks(u32),
}

/// The progress of a pass through the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pass {
    /// Begin of a pass, or end of the one before.
    #[default]
    Begin,
    /// Number of rows that were seen and have stayed.
    Rows(usize),
    /// Range of the blocks that the pass has not read yet.
    Blocks {
        /// First block that was not read.
        next: u32,
        /// Number of blocks when the pass began. Later ones are for the next pass.
        end: u32,
    },
}

impl Pass {
    /// The progress after that number of the seen rows was removed.
    pub(crate) fn after_removing(self, rows: usize) -> Self {
        match self {
            Pass::Rows(stayed) => Pass::Rows(stayed.saturating_sub(rows)),
            other => other,
        }
    }
}

/// Rows of one search in [`Walk::Rows`]: at most a megabyte, and enough for several thousand rows a second with few searches.
const SEARCH_ROWS: usize = 10_000;
/// Blocks of one search, of all partitions together: about as many rows, and at most 291 in each of 8 kB
/// (`MaxHeapTuplesPerPage`).
const SEARCH_BLOCKS: u32 = 128;
/// The first version that can scan a range of blocks (TID Range Scan).
const BLOCK_RANGES_SINCE: i32 = 140_000;

/// A row that a search has seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenRow {
    /// `tableoid`: the table or partition.
    pub table: u32,
    /// `ctid`: the place in the table.
    pub place: String,
    /// `xmin`: the transaction that wrote it.
    pub transaction: String,
}

/// Rows that a search has seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Rows in the order in which they were found.
    pub rows: Vec<SeenRow>,
    /// Position before which all their transactions committed.
    pub committed_before: Lsn,
    /// Progress of the pass after the search.
    pub then: Pass,
}

/// Settings of clean-up's own connection. Without `synchronous_commit` a crash may bring rows back, which are then removed again.
/// The timeouts keep others from waiting long, for a lock or for VACUUM. With `synchronize_seqscans` an OFFSET would mean something
/// else each time. The planner underestimates `ctid` and would read all partitions for a hash join.
const SESSION: &str = "SET synchronous_commit = off; SET lock_timeout = '1s'; SET statement_timeout = '30s';
    SET default_transaction_isolation = 'read committed'; SET synchronize_seqscans = off; SET row_security = off;
    SET enable_hashjoin = off; SET enable_mergejoin = off; SET max_parallel_workers_per_gather = 0; SET jit = off;
    SET idle_in_transaction_session_timeout = 0";

impl Statements {
    /// Reads the table's description and prepares the connection.
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
        // A view in the table's place has rules and functions of its own.
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
            // Rows locked by others stay for the next search.
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
    /// Number of partitions; 1 for an ordinary table.
    tables: u32,
    /// Set if an index begins with the time column.
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
            .map_err(failed("reading the layout of the outbox table"))?;
        let tables = u32::try_from(row.get::<_, i64>(1)).unwrap_or(u32::MAX);
        Ok(Self { version: row.get(0), tables, indexed: row.get(2) })
    }
}

impl Statements {
    /// The statement of the next search in a table of `blocks` blocks, and a function from the number of rows found to the progress.
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

/// Reads the number of blocks of the table, or of its largest partition.
async fn blocks(client: &Client, table: &TableName) -> Result<u32, CatalogError> {
    let row = client
        .query_typed_one(
            "SELECT COALESCE(max(pg_relation_size(family.oid::regclass)), 0) / current_setting('block_size')::int8
             FROM (SELECT $1::regclass::oid UNION SELECT relid::oid FROM pg_partition_tree($1::regclass)) family (oid)",
            &[(&table.quoted(), Type::TEXT)],
        )
        .await
        .map_err(failed("reading the size of the outbox table"))?;
    Ok(u32::try_from(row.get::<_, i64>(0)).unwrap_or(u32::MAX))
}

/// Searches for rows that are old enough, from the progress of the pass on. Also checks the publication, because rows skipped by it
/// must not be removed.
///
/// # Errors
/// [`CleanupError`].
pub async fn search(
    client: &Client,
    database: &SourceDatabase,
    statements: &Statements,
    pass: Pass,
) -> Result<Seen, CleanupError> {
    const DOING: &str = "searching for rows to remove";
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
    // Read after the rows: see the head of this file.
    let end = client
        .query_typed_one("SELECT (pg_current_wal_insert_lsn() - '0/0')::int8", &[])
        .await
        .map_err(failed(DOING))?;
    if !rows.is_empty() {
        match publication::publishing(client, database).await? {
            Publishing::By(by) if statements.published_by == Some(by) => {}
            Publishing::By(_) => {
                return Err(not_published(database, "was altered, or did not contain the table for a time"));
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

/// The reason why the publication may skip a row of the table.
pub(crate) fn unpublished(publication: Option<&PublicationFacts>) -> Option<&'static str> {
    match publication {
        None => Some("does not exist"),
        Some(facts) if !facts.insert => Some("does not publish inserts"),
        Some(facts) if facts.held != Held::AsItself => Some("does not contain the table"),
        Some(facts) if facts.row_filter.is_some() => Some("publishes only some rows"),
        Some(_) => None,
    }
}

/// Removes those of `rows` that still exist unchanged and that no other session locks, in one short transaction. Returns their number.
///
/// # Errors
/// [`CleanupError`]. Then no row was removed.
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
