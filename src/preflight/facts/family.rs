//! Child tables of the outbox table: partitions, and tables that inherit from it, such as the chunks of a hypertable.
//!
//! A SELECT from the outbox table shows rows of such a table, but the stream may never have them.
//! [`checks`](crate::preflight::checks) judges.

use std::fmt;

use tokio_postgres::{Client, types::Type};

use crate::postgres::{
    TableName,
    statement::{CatalogError, failed},
};

/// Number of tables that a text names.
const NAMED_MAX: i64 = 3;

/// The child tables of the outbox table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Family {
    /// Child tables whose rows are never published.
    pub unpublished: Option<UnsentTables>,
    /// Columns of the partition keys, at every level.
    pub partition_keys: Vec<String>,
    /// Default partitions that have rows.
    pub filled_defaults: Vec<String>,
}

/// Child tables whose rows are never published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnsentTables {
    /// Outbox table, quoted for a statement.
    pub table: String,
    /// Reason.
    pub sort: Sort,
    /// Number of child tables.
    pub count: i64,
    /// Names of some of them.
    pub names: Vec<String>,
}

/// The reason why rows of child tables are never published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// The outbox table is a hypertable of TimescaleDB, whose rows all lie in chunks.
    Chunks,
    /// The child tables inherit from an ordinary table, and are tables of their own.
    Heirs,
    /// The child tables are foreign or unlogged partitions, whose rows are not in WAL.
    NotInWal,
}

impl fmt::Display for UnsentTables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let UnsentTables { table, sort, count, names } = self;
        let more = if *count > NAMED_MAX { ", ..." } else { "" };
        let names = names.join(", ") + more;
        match sort {
            Sort::Chunks => write!(
                f,
                "{table} is a hypertable of TimescaleDB: its rows are stored in chunks, which are tables of their own, so no row is \
                 published"
            ),
            Sort::Heirs => write!(
                f,
                "{count} tables inherit from {table} ({names}): rows stored in them, and not in {table} itself, are not published"
            ),
            Sort::NotInWal => write!(
                f,
                "{count} partitions of {table} are foreign or unlogged ({names}): their rows are not in WAL and are not published"
            ),
        }
    }
}

impl UnsentTables {
    /// The problem and its cure in one text.
    pub fn explain(&self) -> String {
        format!("{self}; {}", self.cure())
    }

    /// The cure.
    pub fn cure(&self) -> &'static str {
        match self.sort {
            Sort::Chunks => {
                "make it an ordinary table, or one that PostgreSQL itself partitions (PARTITION BY RANGE); `outboxd setup --print-sql` \
                 prints how"
            }
            Sort::Heirs => {
                "drop the trigger or the rule that redirects rows into them, or make it a table that PostgreSQL itself partitions \
                 (PARTITION BY RANGE); `outboxd setup --print-sql` prints how"
            }
            Sort::NotInWal => {
                "run ALTER TABLE ... SET LOGGED; for an unlogged partition, and keep outbox rows off foreign servers"
            }
        }
    }
}

impl Family {
    /// Reads the child tables.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub async fn read(client: &Client, table: &TableName) -> Result<Self, CatalogError> {
        let unpublished = unpublished(client, table).await?;
        // In pg_depend the columns of a partition key, also those in an expression, depend on the table as a whole.
        let row = client
            .query_typed_one(
                "WITH family AS (SELECT t.relid::oid AS oid, t.parentrelid::oid AS parent
                                 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, pg_partition_tree(c.oid) t
                                 WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind = 'p')
                 SELECT ARRAY (SELECT DISTINCT a.attname::text
                               FROM family f JOIN pg_depend d ON d.objid = f.oid AND d.refobjid = f.oid
                               JOIN pg_attribute a ON a.attrelid = f.oid AND a.attnum = d.objsubid
                               WHERE d.classid = 'pg_class'::regclass AND d.objsubid > 0
                               AND d.refclassid = 'pg_class'::regclass AND d.refobjsubid = 0 AND d.deptype = 'i'),
                        ARRAY (SELECT DISTINCT d.oid::regclass::text
                               FROM family f JOIN pg_partitioned_table p ON p.partrelid = f.oid JOIN pg_class d ON d.oid = p.partdefid
                               WHERE pg_stat_get_live_tuples(d.oid) > 0)",
                &[(&table.schema, Type::TEXT), (&table.table, Type::TEXT)],
            )
            .await
            .map_err(failed("reading the partitions of the outbox table"))?;
        Ok(Family { unpublished, partition_keys: row.get(0), filled_defaults: row.get(1) })
    }
}

/// Finds child tables whose rows are never published. Cheap up to some thousands of child tables.
///
/// # Errors
/// [`CatalogError`].
pub async fn unpublished(client: &Client, table: &TableName) -> Result<Option<UnsentTables>, CatalogError> {
    const DOING: &str = "reading the child tables of the outbox table";
    let rows = client
        .query_typed(
            "WITH RECURSIVE outbox AS (
                 SELECT c.oid, c.relkind FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                 WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p')),
             below(oid) AS (
                 SELECT i.inhrelid FROM pg_inherits i JOIN outbox ON i.inhparent = outbox.oid
                 UNION SELECT i.inhrelid FROM below b JOIN pg_inherits i ON i.inhparent = b.oid)
             SELECT outbox.relkind = 'p', format('%I.%I', n.nspname, c.relname), n.nspname = '_timescaledb_internal', count(*) OVER ()
             FROM outbox, below b JOIN pg_class c ON c.oid = b.oid JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE outbox.relkind = 'r' OR c.relkind = 'f' OR c.relkind = 'r' AND c.relpersistence <> 'p'
             ORDER BY 2 LIMIT $3",
            &[(&table.schema, Type::TEXT), (&table.table, Type::TEXT), (&NAMED_MAX, Type::INT8)],
        )
        .await
        .map_err(failed(DOING))?;
    let found = |sort| UnsentTables {
        table: table.quoted(),
        sort,
        count: rows.first().map_or(0, |row| row.get(3)),
        names: rows.iter().map(|row| row.get(1)).collect(),
    };
    if is_hypertable(client, table).await? || rows.iter().any(|row| row.get(2)) {
        return Ok(Some(found(Sort::Chunks)));
    }
    Ok(rows.first().map(|row| found(if row.get(0) { Sort::NotInWal } else { Sort::Heirs })))
}

/// Tells whether the table is a hypertable, also before its first row creates the first chunk.
///
/// Any role may create a table or a view with the name of TimescaleDB's catalog, and reading it runs its code with the rights of
/// outboxd's role. So it is read only if the extension has created it, and if its owner gains nothing by that: outboxd's role, or one
/// that can become it, such as the superuser who owns those tables.
async fn is_hypertable(client: &Client, table: &TableName) -> Result<bool, CatalogError> {
    const DOING: &str = "reading whether the outbox table is a hypertable";
    let has_catalog = client
        .query_typed_opt(
            "SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE n.nspname = '_timescaledb_catalog' AND c.relname = 'hypertable' AND c.relkind = 'r'
             AND pg_has_role(c.relowner, current_user, 'MEMBER') AND pg_has_role(n.nspowner, current_user, 'MEMBER')
             AND EXISTS (SELECT FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
                         WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
                         AND d.refclassid = 'pg_extension'::regclass AND e.extname = 'timescaledb')
             AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')",
            &[],
        )
        .await
        .map_err(failed(DOING))?;
    if has_catalog.is_none() {
        return Ok(false);
    }
    let found = client
        .query_typed_opt(
            "SELECT FROM ONLY _timescaledb_catalog.hypertable WHERE schema_name = $1 AND table_name = $2",
            &[(&table.schema, Type::TEXT), (&table.table, Type::TEXT)],
        )
        .await
        .map_err(failed(DOING))?;
    Ok(found.is_some())
}
