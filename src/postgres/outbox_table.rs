//! Facts of the outbox table: its kind, its columns, and the role's rights. [`preflight`](crate::preflight) judges them.

use tokio_postgres::{Client, types::Type};

use super::{
    TableName, sqlstate,
    statement::{CatalogError, failed},
};
use crate::message::{Column, ColumnNames};

/// `pg_class.relkind`, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableKind {
    /// An ordinary table.
    Ordinary,
    /// A partitioned table, whose rows lie in partitions.
    Partitioned,
    /// A view or a foreign table, which cannot be published.
    Other,
}

impl TableKind {
    /// The word before the table's name in FROM and in CREATE PUBLICATION, so that both see the same rows. Without ONLY, both include
    /// tables that inherit from an ordinary table, whose rows are not outbox rows. A partitioned table has no rows of its own, and
    /// the publication includes its partitions either way.
    pub fn only(self) -> &'static str {
        match self {
            TableKind::Partitioned => "",
            TableKind::Ordinary | TableKind::Other => "ONLY ",
        }
    }
}

/// The outbox table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableFacts {
    /// OID in `pg_class`.
    pub oid: u32,
    /// Kind of the table.
    pub kind: TableKind,
    /// Set if its rows are written to WAL: the table is neither unlogged nor temporary.
    pub logged: bool,
    /// Set if the role has USAGE on the schema.
    pub may_use_schema: bool,
    /// Set if the role has SELECT on the whole table.
    pub may_select: bool,
    /// Set if the role may remove rows: it has DELETE on the table, and UPDATE on some column, which locking a row needs.
    pub may_remove: bool,
    /// Set if the role is, or is a member of, the owner, as CREATE PUBLICATION requires.
    pub owned: bool,
    /// Set if row security applies to the role, which hides rows from the backlog.
    pub row_security: bool,
    /// `pg_class.reltuples`: the planner's estimate of the number of rows, negative if unknown.
    pub rows_estimate: i64,
    /// Columns by number, without dropped ones.
    pub columns: Vec<ColumnFacts>,
}

impl TableFacts {
    /// The columns that the publication sends: those of a Relation message, in its order.
    pub(crate) fn sent_columns(&self) -> impl Iterator<Item = &ColumnFacts> {
        self.columns.iter().filter(|column| column.sent)
    }

    /// The sent columns for the mapper, with the base type of a domain as its type.
    pub(crate) fn outbox_columns(&self) -> Vec<Column> {
        self.sent_columns().map(|c| Column { name: c.name.clone(), type_oid: c.base_type_oid }).collect()
    }

    /// Names of the columns that are needed to read rows in their order, and that the role may not read.
    pub fn unreadable(&self, columns: &ColumnNames) -> Vec<&str> {
        let order = [columns.sequence.name(), columns.created_at.name()];
        let is_read = |column: &&ColumnFacts| column.sent || order.contains(&Some(&*column.name));
        let unreadable = self.columns.iter().filter(is_read).filter(|column| !column.may_select);
        unreadable.map(|column| &*column.name).collect()
    }

    /// The column that a sequence increments by one for each inserted row: the best order of a table.
    pub(crate) fn numbered_column(&self) -> Option<&ColumnFacts> {
        self.columns.iter().find(|column| column.sequence_cache == Some(1) && !column.nullable)
    }

    /// Finds the column of this name.
    pub fn column(&self, name: &str) -> Option<&ColumnFacts> {
        self.columns.iter().find(|column| column.name == name)
    }
}

/// A column of the outbox table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnFacts {
    /// Name.
    pub name: String,
    /// OID of the type.
    pub type_oid: u32,
    /// OID of a domain's base type; otherwise `type_oid`.
    pub base_type_oid: u32,
    /// The type as SQL writes it, such as `character varying(255)`.
    pub type_name: String,
    /// Set if the column may be NULL.
    pub nullable: bool,
    /// Default of the column, as SQL writes it.
    pub default: Option<String>,
    /// CACHE of the ascending sequence that numbers the column, as identity or by default: the number of values that a session
    /// draws at a time.
    pub sequence_cache: Option<i64>,
    /// Set if the base type is a string type, also of an extension (`citext`).
    pub is_string: bool,
    /// Kind of a generated column.
    pub generated: Option<Generated>,
    /// Set if the publication sends the column. Without a publication, set if one created by outboxd would.
    pub sent: bool,
    /// Set if the role may read the column.
    pub may_select: bool,
}

impl ColumnFacts {
    /// Tells whether the type is `timestamptz`, whose times have a zone.
    pub(crate) fn is_timestamptz(&self) -> bool {
        self.base_type_oid == TIMESTAMPTZ
    }

    /// Tells whether the base type is PostgreSQL's own (`FirstNormalObjectId`, transam.h).
    pub(crate) fn is_built_in(&self) -> bool {
        const FIRST_NORMAL_OBJECT_ID: u32 = 16384;
        self.base_type_oid < FIRST_NORMAL_OBJECT_ID
    }
}

/// OID of `timestamptz` (`catalog/pg_type.dat`).
pub const TIMESTAMPTZ: u32 = 1184;

/// `pg_attribute.attgenerated`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generated {
    /// Written to the table.
    Stored,
    /// Computed when it is read (18 and later).
    Virtual,
}

/// Reads the [`TableFacts`], seen from a publication; `None` if the table does not exist.
///
/// # Errors
/// [`CatalogError`].
pub async fn table(
    client: &Client,
    name: &TableName,
    publication: &str,
) -> Result<Option<TableFacts>, CatalogError> {
    const DOING: &str = "reading the description of the outbox table";
    let row = client
        .query_typed_opt(
            "SELECT c.oid, c.relkind::text, c.relpersistence = 'p', has_schema_privilege(n.oid, 'USAGE'),
                    has_table_privilege(c.oid, 'SELECT'), pg_has_role(c.relowner, 'USAGE'),
                    row_security_active(c.oid), c.reltuples::int8,
                    has_table_privilege(c.oid, 'DELETE') AND has_any_column_privilege(c.oid, 'UPDATE')
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p', 'v', 'm', 'f')",
            &[(&name.schema, Type::TEXT), (&name.table, Type::TEXT)],
        )
        .await
        .map_err(failed(DOING))?;
    let Some(row) = row else { return Ok(None) };
    let oid: u32 = row.get(0);
    let columns = client
        .query_typed(
            // A sequence belongs to the column (identity, serial), or the default depends on it. Before version 18 no generated
            // column is sent, although the view of 15.0 lists them.
            "WITH RECURSIVE base(attnum, oid, typbasetype, typcategory) AS (
                 SELECT a.attnum, t.oid, t.typbasetype, t.typcategory FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
                 WHERE a.attrelid = $1
                 UNION ALL
                 SELECT b.attnum, t.oid, t.typbasetype, t.typcategory FROM base b JOIN pg_type t ON t.oid = b.typbasetype),
             published AS MATERIALIZED (
                 SELECT to_jsonb(t) -> 'attnames' AS names FROM pg_publication_tables t
                 WHERE t.pubname = $2 AND t.schemaname = $3 AND t.tablename = $4)
             SELECT a.attname::text, a.atttypid, b.oid, format_type(a.atttypid, a.atttypmod), NOT a.attnotnull,
                    pg_get_expr(d.adbin, d.adrelid),
                    (SELECT min(s.seqcache) FROM pg_sequence s WHERE s.seqincrement > 0 AND NOT s.seqcycle
                     AND (a.attidentity <> '' OR d.oid IS NOT NULL) AND s.seqrelid IN (
                         SELECT o.objid FROM pg_depend o WHERE o.classid = 'pg_class'::regclass AND o.deptype = 'i'
                         AND o.refclassid = 'pg_class'::regclass AND o.refobjid = a.attrelid AND o.refobjsubid = a.attnum
                         UNION ALL
                         SELECT o.refobjid FROM pg_depend o WHERE o.classid = 'pg_attrdef'::regclass AND o.objid = d.oid
                         AND o.refclassid = 'pg_class'::regclass)),
                    b.typcategory = 'S', a.attgenerated::text,
                    COALESCE((SELECT bool_or(names ? a.attname::text) FROM published WHERE jsonb_typeof(names) = 'array'),
                             a.attgenerated = '')
                    AND (a.attgenerated = '' OR current_setting('server_version_num')::int4 >= 180000),
                    has_column_privilege(a.attrelid, a.attnum, 'SELECT')
             FROM pg_attribute a JOIN base b ON b.attnum = a.attnum AND b.typbasetype = 0
             LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
             WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
             ORDER BY a.attnum",
            &[
                (&oid, Type::OID),
                (&publication, Type::TEXT),
                (&name.schema, Type::TEXT),
                (&name.table, Type::TEXT),
            ],
        )
        .await
        .map_err(failed(DOING))?;
    Ok(Some(TableFacts {
        oid,
        kind: match row.get(1) {
            "r" => TableKind::Ordinary,
            "p" => TableKind::Partitioned,
            _ => TableKind::Other,
        },
        logged: row.get(2),
        may_use_schema: row.get(3),
        may_select: row.get(4),
        may_remove: row.get(8),
        owned: row.get(5),
        row_security: row.get(6),
        rows_estimate: row.get(7),
        columns: columns
            .iter()
            .map(|column| ColumnFacts {
                name: column.get(0),
                type_oid: column.get(1),
                base_type_oid: column.get(2),
                type_name: column.get(3),
                nullable: column.get(4),
                default: column.get(5),
                sequence_cache: column.get(6),
                is_string: column.get(7),
                generated: match column.get(8) {
                    "" => None,
                    "v" => Some(Generated::Virtual),
                    _ => Some(Generated::Stored),
                },
                sent: column.get(9),
                may_select: column.get(10),
            })
            .collect(),
    }))
}

/// Tells whether the table is known to be empty. Returns `false` if the role may not read all of it.
///
/// # Errors
/// [`CatalogError`].
pub async fn is_empty(client: &Client, name: &TableName, kind: TableKind) -> Result<bool, CatalogError> {
    const DOING: &str = "reading whether the table is empty";
    if kind == TableKind::Other {
        return Ok(false);
    }
    // Rows hidden by row security are then an error, and do not make the table look empty.
    client.batch_execute("SET row_security = off").await.map_err(failed(DOING))?;
    let sql = format!("SELECT NOT EXISTS (SELECT FROM {}{})", kind.only(), name.quoted());
    match client.query_typed_one(&sql, &[]).await {
        Ok(row) => Ok(row.get(0)),
        Err(error) if error.code().is_some_and(|code| code.code() == sqlstate::INSUFFICIENT_PRIVILEGE) => {
            Ok(false)
        }
        Err(error) => Err(failed(DOING)(error)),
    }
}

#[cfg(test)]
impl TableFacts {
    /// An ordinary table without faults.
    pub(crate) fn sample(columns: Vec<ColumnFacts>) -> Self {
        Self {
            oid: 1,
            kind: TableKind::Ordinary,
            logged: true,
            may_use_schema: true,
            may_select: true,
            may_remove: true,
            owned: true,
            row_security: false,
            rows_estimate: 0,
            columns,
        }
    }
}

#[cfg(test)]
impl ColumnFacts {
    /// A column that may be NULL and is sent.
    pub(crate) fn sample(name: &str, type_oid: u32) -> Self {
        Self {
            name: name.to_owned(),
            type_oid,
            base_type_oid: type_oid,
            type_name: String::new(),
            nullable: true,
            default: None,
            sequence_cache: None,
            is_string: false,
            generated: None,
            sent: true,
            may_select: true,
        }
    }
}
