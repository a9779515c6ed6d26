//! outboxd's own tables, for slot records and for parked rows: their facts, and their creation.

use tokio_postgres::{Client, types::Type};

use super::{
    SourceDatabase, TableName,
    sql_text::{identifier, make_schema_sql, use_schema_sql},
    sqlstate,
    statement::{CatalogError, failed},
};

/// The qualified name of one of outboxd's own tables.
pub(crate) fn name(database: &SourceDatabase, table: &str) -> TableName {
    TableName { schema: database.schema.clone(), table: table.to_owned() }
}

/// The statement that grants the source's role the use of one of outboxd's own tables, if another role has created it.
pub(crate) fn grant_sql(database: &SourceDatabase, table: &str, role: &str) -> String {
    format!(
        "GRANT SELECT, INSERT, UPDATE, DELETE ON {} TO {}",
        name(database, table).quoted(),
        identifier(role)
    )
}

/// Facts of one of outboxd's own tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnTableFacts {
    /// Set if the schema exists.
    pub has_schema: bool,
    /// Set if the role has USAGE on the schema.
    pub may_use_schema: bool,
    /// Set if the table exists.
    pub exists: bool,
    /// Set if the role may read and write the table.
    pub may_use: bool,
    /// Set if the role may create tables in the schema.
    pub may_create: bool,
}

impl OwnTableFacts {
    /// The statements that another role runs before those for the table, each followed by `; `: they create the schema and grant its
    /// use, as far as that is missing.
    pub(crate) fn schema_sql(&self, schema: &str, role: &str) -> String {
        match (self.has_schema, self.may_use_schema) {
            (true, true) => String::new(),
            (true, false) => use_schema_sql(schema, role) + "; ",
            (false, _) => make_schema_sql(schema, role) + "; ",
        }
    }
}

/// Reads the [`OwnTableFacts`] of a table.
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
        .map_err(failed("reading the description of outboxd's own table"))?;
    Ok(row.map_or_else(OwnTableFacts::default, |row| OwnTableFacts {
        has_schema: true,
        exists: row.get(0),
        may_use: row.get(1),
        may_create: row.get(2),
        may_use_schema: row.get(3),
    }))
}

/// SQLSTATEs of a concurrent CREATE TABLE IF NOT EXISTS or CREATE SCHEMA IF NOT EXISTS. The last one comes from a catalog index.
const MADE_BY_ANOTHER: [&str; 3] =
    [sqlstate::DUPLICATE_TABLE, sqlstate::DUPLICATE_SCHEMA, sqlstate::UNIQUE_VIOLATION];

/// Creates one of outboxd's own tables, and its schema, if they do not exist. Existence is checked first, because CREATE TABLE IF NOT
/// EXISTS needs CREATE on the schema even if the table exists, which the role may lack.
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
