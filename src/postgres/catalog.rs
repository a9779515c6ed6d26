//! What a server knows of itself, of the outbox table and of slots: facts, read by plain SQL, and the few statements that make
//! or drop a slot. Publications have a file of their own ([`publication`]).
//!
//! Works with PostgreSQL 13 to 18. A catalog column that only later versions have is read through `to_jsonb(row) ->> 'column'`,
//! which is NULL where the column is missing, so that there is one query for all versions.
//! Passes no judgement ([`preflight`](super::preflight) does) and knows no configuration.

use std::time::Duration;

use tokio_postgres::{Client, Row, SimpleQueryMessage, types::Type};

use super::{
    SourceDatabase, TableName,
    answer::simple_answer,
    error::WireError,
    family::Family,
    foreign_code::{self, ForeignCode},
    hosting::Hosting,
    invalidation::Invalidation,
    left_behind::{self, LeftBehind},
    open_transactions::{self, OpenTransaction},
    parked_table,
    publication::{self, PublicationFacts},
    recorded_table, remedy,
    replication::END_WITH_CLIENT,
    slot_record,
    slot_use::{self, Holder, SlotUse},
    sql_text::{identifier, literal, make_schema_sql, use_schema_sql},
};
use crate::{
    outbox::{Column, ColumnNames},
    position::Lsn,
    remedy::Remedy,
};

/// A statement of this room failed.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The server refused, or the connection broke.
    #[error("{doing} failed")]
    Statement {
        /// What was being done, such as "reading the slots".
        doing: &'static str,
        /// Why.
        #[source]
        cause: WireError,
    },
    /// Somebody is using the slot.
    #[error(
        "slot {slot} is in use{}: stop the program that streams from it, then try again",
        holder.as_ref().map(|holder| format!(" by {holder}")).unwrap_or_default()
    )]
    SlotInUse {
        /// The slot.
        slot: String,
        /// Its holder; unknown when that ended just now.
        holder: Option<Box<Holder>>,
    },
    /// There is such a slot already.
    #[error("slot {0} exists already")]
    SlotExists(String),
    /// The server's answer is not what the query asks for.
    #[error("{doing}: the server's answer makes no sense: {what}")]
    Nonsense {
        /// What was being done.
        doing: &'static str,
        /// What is wrong with it.
        what: String,
    },
}

impl CatalogError {
    /// What to do about it, where it is known.
    pub fn remedy(&self) -> Option<Remedy> {
        match self {
            CatalogError::Statement { cause, .. } => remedy::of_statement(cause),
            _ => None,
        }
    }

    /// What to do about it, when rows were to be parked.
    pub(crate) fn remedy_of_parking(&self) -> Option<Remedy> {
        match self {
            CatalogError::Statement { cause, .. } => remedy::of_parking(cause),
            _ => None,
        }
    }

    /// SQLSTATE, where the server sent one.
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            CatalogError::Statement { cause, .. } => cause.sqlstate(),
            _ => None,
        }
    }
}

/// SQLSTATE `insufficient_privilege`.
pub(super) const INSUFFICIENT_PRIVILEGE: &str = "42501";

/// SQLSTATE `object_in_use`: "replication slot is active".
pub(crate) const OBJECT_IN_USE: &str = "55006";

/// No timeout of role or database may end a session that waits for transactions or for the broker. Asking `pg_settings` leaves
/// out those that this version does not have: `idle_session_timeout` came with 14, `transaction_timeout` with 17.
pub(super) const NO_TIMEOUTS: &str =
    "SELECT set_config(name, '0', false) FROM pg_settings WHERE name IN
    ('statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout', 'idle_session_timeout', 'transaction_timeout')";

pub(super) fn failed(doing: &'static str) -> impl FnOnce(tokio_postgres::Error) -> CatalogError {
    move |error| CatalogError::Statement { doing, cause: error.into() }
}

/// Everything that [`preflight::checks`](super::preflight::checks) looks at.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The server and the role.
    pub server: ServerFacts,
    /// The outbox table; `None` when there is no such table.
    pub table: Option<TableFacts>,
    /// The tables below it.
    pub family: Family,
    /// The publication; `None` when there is no such publication.
    pub publication: Option<PublicationFacts>,
    /// Triggers and rules that run when outboxd writes.
    pub foreign_code: Vec<ForeignCode>,
    /// The table of slot records ([`slot_record`]).
    pub records: OwnTableFacts,
    /// The table of parked rows ([`parked_table`]).
    pub parked: OwnTableFacts,
    /// Record and parked rows of the slot in another schema.
    pub left_behind: Vec<LeftBehind>,
    /// The table that the slot's record belongs to, where it is another one.
    pub recorded_table: Option<TableName>,
    /// All slots of the server, of whatever database.
    pub slots: Vec<SlotFacts>,
    /// Use of the source's slot and of its temporary slot.
    pub slot_uses: Vec<SlotUse>,
    /// Old transactions of all databases, while the source has no slot yet.
    pub open_transactions: Vec<OpenTransaction>,
}

impl Facts {
    /// Reads them all.
    pub async fn read(client: &Client, database: &SourceDatabase) -> Result<Self, CatalogError> {
        let SourceDatabase { table, publication, slot, schema, .. } = database;
        let server = server(client).await?;
        let slots = slots(client).await?;
        let records = own_table(client, schema, slot_record::TABLE).await?;
        let has_slot = slots.iter().any(|one| one.name == *slot && one.serves());
        let left_behind = left_behind::find(client, database, records).await?;
        Ok(Facts {
            server,
            table: self::table(client, table, publication).await?,
            family: Family::read(client, table).await?,
            publication: publication::facts(client, publication, table).await?,
            foreign_code: foreign_code::find(client, database).await?,
            records,
            parked: own_table(client, schema, parked_table::TABLE).await?,
            recorded_table: recorded_table::find(client, database, records, &left_behind).await?,
            left_behind,
            slots,
            slot_uses: slot_use::read(client, schema, slot).await?,
            open_transactions: if has_slot { Vec::new() } else { open_transactions::old(client).await? },
        })
    }

    /// The slot of that name, if the tables of this database can be streamed from it.
    pub fn slot(&self, name: &str) -> Option<&SlotFacts> {
        self.slots.iter().find(|slot| slot.name == name && slot.serves())
    }
}

/// The server, and what the role may do on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerFacts {
    /// `server_version_num`, 150014 for 15.14.
    pub version: i32,
    /// `wal_level`.
    pub wal_level: String,
    /// `current_database()`.
    pub database: String,
    /// The database's encoding, such as `UTF8`.
    pub encoding: String,
    /// The role that we are.
    pub role: String,
    /// Who runs the server.
    pub hosting: &'static Hosting,
    /// It may CREATE in the database, which CREATE PUBLICATION needs.
    pub may_create: bool,
    /// The server is a standby.
    pub in_recovery: bool,
    /// Transactions of this session are read-only, as on a standby or by `default_transaction_read_only`.
    pub read_only: bool,
    /// `max_replication_slots`.
    pub slots_max: i32,
    /// Slots that exist.
    pub slots_used: i64,
    /// `max_wal_senders`.
    pub wal_senders_max: i32,
    /// Walsenders at work.
    pub wal_senders_used: i64,
    /// `synchronous_standby_names`.
    pub synchronous_standby_names: String,
    /// Names of the standbys that stream now, as far as the role may see them.
    pub standbys: Vec<String>,
}

/// Reads the [`ServerFacts`].
pub async fn server(client: &Client) -> Result<ServerFacts, CatalogError> {
    const DOING: &str = "reading the server's settings";
    let row = client
        .query_typed_one(
            "SELECT current_setting('server_version_num')::int4, current_setting('wal_level'), d.datname::text,
                    pg_encoding_to_char(d.encoding)::text, current_user::text,
                    ARRAY(SELECT r.rolname::text FROM pg_catalog.pg_roles r WHERE r.rolname = ANY ($1)),
                    has_database_privilege(d.oid, 'CREATE'), pg_is_in_recovery(),
                    current_setting('max_replication_slots')::int4, (SELECT count(*) FROM pg_replication_slots),
                    current_setting('max_wal_senders')::int4, (SELECT count(*) FROM pg_stat_replication),
                    current_setting('transaction_read_only')::bool,
                    current_setting('synchronous_standby_names'),
                    ARRAY(SELECT DISTINCT r.application_name FROM pg_stat_replication r
                          WHERE r.state = 'streaming' AND r.application_name <> '' AND NOT EXISTS
                              (SELECT FROM pg_replication_slots s WHERE s.active_pid = r.pid AND s.plugin IS NOT NULL))
             FROM pg_database d WHERE d.datname = current_database()",
            &[(&Hosting::markers().collect::<Vec<_>>(), Type::TEXT_ARRAY)],
        )
        .await
        .map_err(failed(DOING))?;
    Ok(ServerFacts {
        version: row.get(0),
        wal_level: row.get(1),
        database: row.get(2),
        encoding: row.get(3),
        role: row.get(4),
        hosting: Hosting::of(&row.get::<_, Vec<String>>(5)),
        may_create: row.get(6),
        in_recovery: row.get(7),
        slots_max: row.get(8),
        slots_used: row.get(9),
        wal_senders_max: row.get(10),
        wal_senders_used: row.get(11),
        read_only: row.get(12),
        synchronous_standby_names: row.get(13),
        standbys: row.get(14),
    })
}

/// `pg_class.relkind`, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableKind {
    /// An ordinary table.
    Ordinary,
    /// A partitioned table: its rows lie in partitions.
    Partitioned,
    /// A view, a foreign table: nothing that can be published.
    Other,
}

impl TableKind {
    /// What goes before the table's name in FROM and in CREATE PUBLICATION, so that both see the same rows: without ONLY
    /// both take in tables that inherit from an ordinary one, whose rows are not outbox rows. A partitioned table has no
    /// rows of its own, and the publication takes in its partitions either way.
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
    /// What sort of table.
    pub kind: TableKind,
    /// Its rows go to WAL: it is neither unlogged nor temporary.
    pub logged: bool,
    /// The role has USAGE on the schema.
    pub may_use_schema: bool,
    /// The role has SELECT on the whole table.
    pub may_select: bool,
    /// The role has DELETE on the table, and UPDATE on some column of it, without which nobody may lock a row: what removing
    /// confirmed rows takes.
    pub may_remove: bool,
    /// The role is, or is a member of, its owner, which CREATE PUBLICATION needs.
    pub owned: bool,
    /// Row security applies to the role: the backlog would not see all rows.
    pub row_security: bool,
    /// `pg_class.reltuples`: the planner's estimate of the number of rows, negative when unknown.
    pub rows_estimate: i64,
    /// Its columns by number, without dropped ones.
    pub columns: Vec<ColumnFacts>,
}

impl TableFacts {
    /// The columns that are sent: those of a Relation message, in its order.
    pub fn sent_columns(&self) -> impl Iterator<Item = &ColumnFacts> {
        self.columns.iter().filter(|column| column.sent)
    }

    /// The same as the mapper wants them: a domain counts as the type it is made from.
    pub fn outbox_columns(&self) -> Vec<Column> {
        self.sent_columns().map(|c| Column { name: c.name.clone(), type_oid: c.base_type_oid }).collect()
    }

    /// Columns that the role may not read, of those that reading rows in their order takes.
    pub fn unreadable(&self, columns: &ColumnNames) -> Vec<&str> {
        let order = [columns.sequence.name(), columns.created_at.name()];
        let is_read = |column: &&ColumnFacts| column.sent || order.contains(&Some(&*column.name));
        let unreadable = self.columns.iter().filter(is_read).filter(|column| !column.may_select);
        unreadable.map(|column| &*column.name).collect()
    }

    /// The column whose values a sequence counts up one by one as rows are inserted: the best order that a table can give.
    pub fn numbered_column(&self) -> Option<&ColumnFacts> {
        self.columns.iter().find(|column| column.sequence_cache == Some(1) && !column.nullable)
    }

    /// The column of this name.
    pub fn column(&self, name: &str) -> Option<&ColumnFacts> {
        self.columns.iter().find(|column| column.name == name)
    }
}

/// A column of the outbox table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnFacts {
    /// Its name.
    pub name: String,
    /// OID of its type.
    pub type_oid: u32,
    /// OID of the type a domain is made from; otherwise `type_oid`.
    pub base_type_oid: u32,
    /// The type as SQL writes it, such as `character varying(255)`.
    pub type_name: String,
    /// It may be NULL.
    pub nullable: bool,
    /// Default of the column, as SQL writes it.
    pub default: Option<String>,
    /// A sequence numbers its rows upwards, as an identity column or by the default: so many values each session draws at a
    /// time (CACHE).
    pub sequence_cache: Option<i64>,
    /// Its type, or the type a domain is made from, is one of the string types, whoever made it (`citext`).
    pub is_string: bool,
    /// Its type, or the type a domain is made from, did not come with PostgreSQL and has operators outside of `pg_catalog` (`citext`).
    /// Those of an enum are PostgreSQL's.
    pub has_own_operators: bool,
    /// It is a generated column.
    pub generated: Option<Generated>,
    /// The publication sends it; where there is no publication, one that outboxd makes would.
    pub sent: bool,
    /// The role may read it.
    pub may_select: bool,
}

impl ColumnFacts {
    /// Tells whether its type, or the type that a domain is made from, came with PostgreSQL (`FirstNormalObjectId`, transam.h).
    pub fn is_built_in(&self) -> bool {
        const FIRST_NORMAL_OBJECT_ID: u32 = 16384;
        self.base_type_oid < FIRST_NORMAL_OBJECT_ID
    }
}

/// `pg_attribute.attgenerated`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generated {
    /// Written to the table.
    Stored,
    /// Computed when it is read (18 and later).
    Virtual,
}

/// Reads the [`TableFacts`], seen from a publication; `None` when there is no such table.
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
            // A sequence is the column's own (identity, serial), or its default depends on it. Before version 18 no generated
            // column is sent, whatever the view of 15.0 says.
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
                    has_column_privilege(a.attrelid, a.attnum, 'SELECT'),
                    b.oid >= 16384 AND EXISTS (SELECT FROM pg_operator o WHERE b.oid IN (o.oprleft, o.oprright)
                                               AND o.oprnamespace <> 'pg_catalog'::regnamespace)
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
                has_own_operators: column.get(11),
            })
            .collect(),
    }))
}

/// Whether the table is known to have no row. Of a table that the role may not read, or not all rows of, that is not known.
///
/// # Errors
/// [`CatalogError`].
pub async fn is_empty(client: &Client, name: &TableName, kind: TableKind) -> Result<bool, CatalogError> {
    const DOING: &str = "looking whether the table is empty";
    // Rows that row security hides are then an error, and no empty table.
    client.batch_execute("SET row_security = off").await.map_err(failed(DOING))?;
    let sql = format!("SELECT NOT EXISTS (SELECT FROM {}{})", kind.only(), name.quoted());
    match client.query_typed_one(&sql, &[]).await {
        Ok(row) => Ok(row.get(0)),
        Err(error) if error.code().is_some_and(|code| code.code() == INSUFFICIENT_PRIVILEGE) => Ok(false),
        Err(error) => Err(failed(DOING)(error)),
    }
}

/// A table of outboxd's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnTableFacts {
    /// The schema is there.
    pub has_schema: bool,
    /// The role has USAGE on the schema.
    pub may_use_schema: bool,
    /// It is there.
    pub exists: bool,
    /// The role may read and write it.
    pub may_use: bool,
    /// The role may make tables in the schema.
    pub may_create: bool,
}

impl OwnTableFacts {
    /// The statements that somebody else runs before those for the table, each with `; ` behind it: they make the schema, and let
    /// the role use it, as far as that is missing.
    pub(super) fn schema_sql(&self, schema: &str, role: &str) -> String {
        match (self.has_schema, self.may_use_schema) {
            (true, true) => String::new(),
            (true, false) => use_schema_sql(schema, role) + "; ",
            (false, _) => make_schema_sql(schema, role) + "; ",
        }
    }
}

/// Reads the [`OwnTableFacts`] of the table of that name in a schema.
pub async fn own_table(client: &Client, schema: &str, name: &str) -> Result<OwnTableFacts, CatalogError> {
    let row = client
        .query_typed_opt(
            "SELECT c.oid IS NOT NULL, has_schema_privilege(n.oid, 'USAGE')
                    AND COALESCE(has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT')
                                 AND has_table_privilege(c.oid, 'UPDATE') AND has_table_privilege(c.oid, 'DELETE'), false),
                    has_schema_privilege(n.oid, 'CREATE') AND has_schema_privilege(n.oid, 'USAGE'),
                    has_schema_privilege(n.oid, 'USAGE')
             FROM pg_namespace n LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = $2
             WHERE n.nspname = $1",
            &[(&schema, Type::TEXT), (&name, Type::TEXT)],
        )
        .await
        .map_err(failed("reading the description of a table of outboxd's own"))?;
    Ok(row.map_or_else(OwnTableFacts::default, |row| OwnTableFacts {
        has_schema: true,
        exists: row.get(0),
        may_use: row.get(1),
        may_create: row.get(2),
        may_use_schema: row.get(3),
    }))
}

/// Stands for a name that is no UTF-8: all databases of a server list each other's names, and each name is stored in the encoding
/// of the database where it was given.
const IN_ANOTHER_ENCODING: &str = "(a name in another encoding)";

/// The rows of a statement as text, as a replication connection gives them, too.
pub(super) async fn text_rows(
    client: &Client,
    doing: &'static str,
    sql: &str,
) -> Result<Vec<Vec<Option<String>>>, CatalogError> {
    let answers =
        simple_answer(client, sql).await.map_err(|cause| CatalogError::Statement { doing, cause })?;
    let rows = answers.iter().filter_map(|answer| match answer {
        SimpleQueryMessage::Row(row) => {
            let unreadable = |_| Some(IN_ANOTHER_ENCODING);
            let text = |column| row.try_get(column).unwrap_or_else(unreadable).map(str::to_owned);
            Some((0..row.len()).map(text).collect())
        }
        _ => None,
    });
    Ok(rows.collect())
}

/// Runs a statement; `false` when the server answers with the SQLSTATE that says: nothing to do.
pub(super) async fn execute(
    client: &Client,
    doing: &'static str,
    sql: &str,
    idle: &str,
) -> Result<bool, CatalogError> {
    match client.batch_execute(sql).await {
        Ok(()) => Ok(true),
        Err(error) if error.code().is_some_and(|code| code.code() == idle) => Ok(false),
        Err(error) => Err(failed(doing)(error)),
    }
}

/// SQLSTATEs of what a concurrent CREATE TABLE IF NOT EXISTS or CREATE SCHEMA IF NOT EXISTS may meet: `duplicate_table`,
/// `duplicate_schema`, and `unique_violation` in a catalog.
const MADE_BY_ANOTHER: [&str; 3] = ["42P07", "42P06", "23505"];

/// Runs CREATE TABLE IF NOT EXISTS for a table of outboxd's own, unless the table is there: the statement takes CREATE on the
/// schema even then, which the role may well not have. The same goes for the schema before it.
pub(super) async fn made(
    client: &Client,
    doing: &'static str,
    schema: &str,
    name: &str,
    create: &str,
) -> Result<(), CatalogError> {
    let there = own_table(client, schema, name).await?;
    if there.exists {
        return Ok(());
    }
    let make_schema = format!("CREATE SCHEMA IF NOT EXISTS {}", identifier(schema));
    for statement in [(!there.has_schema).then_some(make_schema.as_str()), Some(create)].into_iter().flatten()
    {
        match client.batch_execute(statement).await {
            Err(error) if !error.code().is_some_and(|code| MADE_BY_ANOTHER.contains(&code.code())) => {
                return Err(failed(doing)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// A replication slot (manual, "pg_replication_slots").
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotFacts {
    /// Its name.
    pub name: String,
    /// Its output plugin; `None` for a physical slot.
    pub plugin: Option<String>,
    /// Its database; `None` for a physical slot.
    pub database: Option<String>,
    /// It is of the database that was asked, as the server compares: a name reads differently in another encoding.
    pub here: bool,
    /// It ends with its session.
    pub temporary: bool,
    /// The process that uses it.
    pub active_pid: Option<i32>,
    /// What its consumer has confirmed; `None` for a physical slot.
    pub confirmed_flush: Option<Lsn>,
    /// The oldest WAL that it keeps; `None` when it keeps none, which is so when it is lost.
    pub restart_lsn: Option<Lsn>,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub wal_status: Option<String>,
    /// Why the WAL or the rows that it needs are gone, for good; `None` while it can be streamed from.
    pub lost: Option<Invalidation>,
    /// How long nobody has used it (17 and later).
    pub unused_for: Option<Duration>,
    /// The server invalidates it when nobody has used it for so long (`idle_replication_slot_timeout` of 18 and later).
    pub unused_max: Option<Duration>,
    /// It decodes prepared transactions at PREPARE (14 and later).
    pub two_phase: bool,
    /// It is synchronised to standbys (17 and later).
    pub failover: bool,
    /// WAL from `restart_lsn` to the server's current end, in bytes: what it makes the server keep.
    pub retained_bytes: u64,
    /// WAL from `confirmed_flush` to the server's current end, in bytes.
    pub lag_bytes: u64,
    /// The server's current end of WAL.
    pub current: Lsn,
}

impl SlotFacts {
    /// The WAL that it needs is gone, for good: there is a gap.
    pub fn is_lost(&self) -> bool {
        self.lost.is_some()
    }

    /// Tells whether the server will invalidate it soon unless somebody uses it.
    pub fn wants_use(&self) -> bool {
        let (Some(unused_for), Some(unused_max)) = (self.unused_for, self.unused_max) else { return false };
        self.active_pid.is_none() && !self.is_lost() && unused_for >= unused_max / UNUSED_PART
    }

    /// The tables of the database that was asked can be streamed from it: it is a permanent pgoutput slot of that database. One
    /// that is still being made is none yet, for its maker may give up.
    pub fn serves(&self) -> bool {
        self.plugin.as_deref() == Some("pgoutput")
            && self.here
            && !self.temporary
            && self.confirmed_flush.is_some()
    }
}

/// A slot is used again after this part of the time after which the server would invalidate it.
const UNUSED_PART: u32 = 4;

/// One query for all versions; LSNs as bytes from `0/0`.
const SLOTS: &str = "SELECT s.slot_name::text, s.plugin::text, s.database::text, s.temporary, s.active_pid,
            pg_wal_lsn_diff(s.confirmed_flush_lsn, '0/0')::int8, pg_wal_lsn_diff(s.restart_lsn, '0/0')::int8, s.wal_status,
            to_jsonb(s) ->> 'invalidation_reason',
            COALESCE((to_jsonb(s) ->> 'two_phase')::bool, false), COALESCE((to_jsonb(s) ->> 'failover')::bool, false),
            pg_wal_lsn_diff(wal.current, '0/0')::int8, COALESCE((to_jsonb(s) ->> 'conflicting')::bool, false),
            extract(epoch FROM clock_timestamp() - (to_jsonb(s) ->> 'inactive_since')::timestamptz)::int8,
            extract(epoch FROM current_setting('idle_replication_slot_timeout', true)::interval)::int8,
            COALESCE(s.database = current_database(), false)
     FROM pg_replication_slots s, (SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
                                               ELSE pg_current_wal_lsn() END AS current) wal";

fn slot_facts(row: &Row) -> SlotFacts {
    let lsn = |index| row.get::<_, Option<i64>>(index).map(|lsn| Lsn(lsn.cast_unsigned()));
    let (confirmed_flush, restart_lsn) = (lsn(5), lsn(6));
    let current = lsn(11).unwrap_or(Lsn::ZERO);
    let wal_status = row.get::<_, Option<String>>(7);
    let (reason, conflicting) = (row.get::<_, Option<&str>>(8), row.get(12));
    let is_lost = wal_status.as_deref() == Some("lost") || reason.is_some() || conflicting;
    let seconds =
        |index| row.get::<_, Option<i64>>(index).and_then(|s| u64::try_from(s).ok()).map(Duration::from_secs);
    let behind = |lsn: Option<Lsn>| lsn.map_or(0, |lsn| current.bytes_since(lsn));
    SlotFacts {
        name: row.get(0),
        plugin: row.get(1),
        database: row.try_get(2).unwrap_or_else(|_| Some(IN_ANOTHER_ENCODING.to_owned())),
        here: row.get(15),
        temporary: row.get(3),
        active_pid: row.get(4),
        confirmed_flush,
        restart_lsn,
        wal_status,
        lost: is_lost.then(|| Invalidation::of(reason, conflicting)),
        unused_for: seconds(13),
        unused_max: seconds(14).filter(|limit| !limit.is_zero()),
        two_phase: row.get(9),
        failover: row.get(10),
        retained_bytes: behind(restart_lsn),
        lag_bytes: behind(confirmed_flush),
        current,
    }
}

/// All slots of the server, by name.
pub async fn slots(client: &Client) -> Result<Vec<SlotFacts>, CatalogError> {
    let sql = format!("{SLOTS} ORDER BY s.slot_name");
    let rows = client.query_typed(&sql, &[]).await.map_err(failed("reading the replication slots"))?;
    Ok(rows.iter().map(slot_facts).collect())
}

/// From now on the server refuses what takes longer on this connection, or waits longer for a lock.
pub async fn limit_statements(client: &Client, to: Duration) -> Result<(), CatalogError> {
    let ms = to.as_millis().max(1);
    let limit = format!("SET statement_timeout = {ms}; SET lock_timeout = {ms}");
    client.batch_execute(&limit).await.map_err(failed("limiting how long statements may take"))
}

/// One slot: what the monitor asks every few seconds. One round trip; `None` when there is no such slot.
pub async fn slot_progress(client: &Client, slot: &str) -> Result<Option<SlotFacts>, CatalogError> {
    let sql = format!("{SLOTS} WHERE s.slot_name = $1");
    let row = client
        .query_typed_opt(&sql, &[(&slot, Type::TEXT)])
        .await
        .map_err(failed("reading the replication slot"))?;
    Ok(row.as_ref().map(slot_facts))
}

/// Where the server's WAL ends on disk; of a standby, how far it has replayed.
pub async fn wal_end(client: &Client) -> Result<Lsn, CatalogError> {
    let row = client
        .query_typed_one(
            "SELECT pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
                                         ELSE pg_current_wal_flush_lsn() END, '0/0')::int8",
            &[],
        )
        .await
        .map_err(failed("reading the end of WAL"))?;
    Ok(Lsn(row.get::<_, Option<i64>>(0).unwrap_or_default().cast_unsigned()))
}

/// The statement that makes the permanent slot. `failover` takes PostgreSQL 17.
pub fn create_slot_sql(slot: &str, failover: bool) -> String {
    let failover = if failover { ", failover => true" } else { "" };
    format!("SELECT pg_catalog.pg_create_logical_replication_slot({}, 'pgoutput'{failover})", literal(slot))
}

/// Makes the permanent slot at once, for `backlog = "skip"`: what was committed before is not published. Waits for the
/// transactions that are open now, whatever timeouts role and database have.
pub async fn create_slot(client: &Client, slot: &str, failover: bool) -> Result<(), CatalogError> {
    client.batch_execute(NO_TIMEOUTS).await.map_err(failed("switching timeouts off"))?;
    for setting in END_WITH_CLIENT {
        // Not every operating system lets a server look; the slot is made all the same.
        if let Err(error) = client.batch_execute(setting).await {
            tracing::debug!(%error, "the server does not watch the connection");
        }
    }
    let sql = create_slot_sql(slot, failover);
    let made = execute(client, "creating the replication slot", &sql, "42710").await?;
    if made { Ok(()) } else { Err(CatalogError::SlotExists(slot.to_owned())) }
}

/// Drops the slot; `false` when there was none.
pub async fn drop_slot(client: &Client, slot: &str) -> Result<bool, CatalogError> {
    let sql = format!("SELECT pg_drop_replication_slot({})", literal(slot));
    match execute(client, "dropping the replication slot", &sql, "42704").await {
        // object_in_use
        Err(error) if error.sqlstate() == Some(OBJECT_IN_USE) => {
            let holder = slot_use::holder(client, slot).await?;
            Err(CatalogError::SlotInUse { slot: slot.to_owned(), holder: holder.map(Box::new) })
        }
        outcome => outcome,
    }
}
