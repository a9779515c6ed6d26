//! Tables of outboxd's own, for slot records and for parked rows: whether they are there, and the making of one.

use tokio_postgres::{Client, types::Type};

use super::{
    SourceDatabase, TableName,
    sql_text::{identifier, make_schema_sql, use_schema_sql},
    sqlstate,
    statement::{CatalogError, failed},
};

/// The name of a table of outboxd's own.
pub(crate) fn name(database: &SourceDatabase, table: &str) -> TableName {
    TableName { schema: database.schema.clone(), table: table.to_owned() }
}

/// The statement that lets the source's role use a table of outboxd's own, once somebody else has made it.
pub(crate) fn grant_sql(database: &SourceDatabase, table: &str, role: &str) -> String {
    format!(
        "GRANT SELECT, INSERT, UPDATE, DELETE ON {} TO {}",
        name(database, table).quoted(),
        identifier(role)
    )
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
    pub(crate) fn schema_sql(&self, schema: &str, role: &str) -> String {
        match (self.has_schema, self.may_use_schema) {
            (true, true) => String::new(),
            (true, false) => use_schema_sql(schema, role) + "; ",
            (false, _) => make_schema_sql(schema, role) + "; ",
        }
    }
}

/// Reads the [`OwnTableFacts`] of the table of that name in a schema.
///
/// # Errors
/// [`CatalogError::Statement`].
pub(crate) async fn own_table(
    client: &Client,
    schema: &str,
    name: &str,
) -> Result<OwnTableFacts, CatalogError> {
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

/// SQLSTATEs that a concurrent CREATE TABLE IF NOT EXISTS or CREATE SCHEMA IF NOT EXISTS may meet; the last one in a catalog.
const MADE_BY_ANOTHER: [&str; 3] =
    [sqlstate::DUPLICATE_TABLE, sqlstate::DUPLICATE_SCHEMA, sqlstate::UNIQUE_VIOLATION];

/// Runs CREATE TABLE IF NOT EXISTS for a table of outboxd's own, unless the table is there: the statement takes CREATE on the
/// schema even then, which the role may well not have. The same goes for the schema before it.
///
/// # Errors
/// [`CatalogError::Statement`].
pub(crate) async fn made(
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
