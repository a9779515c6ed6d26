//! Records and parked rows of a source that stayed in another schema when the outbox table or `postgres.schema` was moved.
//!
//! The slot's name, which is unique on a server, tells the owner of a row. A table that the role may not read is left out: it belongs
//! to another source. Nothing is moved here, because another outboxd of the source may still write to the old place.
//!
//! **Trust.** Any role may create a table of these names, and reading it runs its policies and index functions with the rights of
//! outboxd's role. So a table is read only if its owner gains nothing by that:
//!
//! - Its owner is outboxd's role, or can become it as a superuser can, or owns the outbox table. The same goes for the owner of
//!   the schema, who could replace the table.
//! - It is a table as outboxd creates it: without policies, triggers, rules, types of other owners, and without indexes or statistics
//!   on expressions.
//!
//! Membership of outboxd's role in the owner is no proof: up to PostgreSQL 15 the owner alone can make a role a member.

use tokio_postgres::{Client, types::Type};

use crate::{
    parking::parked_table,
    postgres::{
        SourceDatabase, TableName,
        own_table::{self, OwnTableFacts, own_table},
        sql_text::{identifier, literal},
        statement::{CatalogError, failed},
    },
    slot::record,
};
use diagnostics::{check::Problem, remedy::Remedy};

/// Rows of the source's slot in a table of another schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftBehind {
    /// Table that contains them.
    pub place: TableName,
    /// Number of rows.
    pub rows: i64,
    /// Set if the table has rows of other slots, too.
    pub is_shared: bool,
}

const DOING: &str = "searching for rows in another schema";

/// Finds the record of the source's slot, unless the right table has one, and parked rows.
pub(crate) async fn find(
    client: &Client,
    database: &SourceDatabase,
    records: OwnTableFacts,
) -> Result<Vec<LeftBehind>, CatalogError> {
    let SourceDatabase { table: outbox, slot, schema, .. } = database;
    let places = client
        .query_typed(
            "WITH outbox AS (SELECT o.relowner AS owner FROM pg_class o JOIN pg_namespace s ON s.oid = o.relnamespace
                             WHERE s.nspname = $4 AND o.relname = $5)
             SELECT n.nspname::text, c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             WHERE c.relname IN ($1, $2) AND c.relkind = 'r' AND c.relpersistence = 'p' AND n.nspname <> $3
             AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT')
             AND (pg_has_role(c.relowner, current_user, 'MEMBER') OR c.relowner = (SELECT owner FROM outbox))
             AND EXISTS (SELECT FROM pg_database d, LATERAL
                         (SELECT CASE pg_get_userbyid(n.nspowner) WHEN 'pg_database_owner' THEN d.datdba ELSE n.nspowner END) s (owner)
                         WHERE d.datname = current_database()
                         AND (pg_has_role(s.owner, current_user, 'MEMBER') OR s.owner = (SELECT owner FROM outbox)))
             AND NOT row_security_active(c.oid)
             AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND a.atttypid >= 16384)
             AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND COALESCE(i.indexprs, i.indpred) IS NOT NULL)
             AND NOT EXISTS (SELECT FROM pg_statistic_ext x WHERE x.stxrelid = c.oid)
             AND NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid)
             AND NOT EXISTS (SELECT FROM pg_rewrite r WHERE r.ev_class = c.oid)
             AND (SELECT count(*) FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = ANY (
                  CASE c.relname WHEN $1 THEN '{slot,confirmed_flush,holder,gap}' ELSE '{slot,position,cause,reason}' END::name[])) = 4
             ORDER BY 2 DESC, 1",
            &[
                (&record::TABLE, Type::TEXT),
                (&parked_table::TABLE, Type::TEXT),
                (&schema, Type::TEXT),
                (&outbox.schema, Type::TEXT),
                (&outbox.table, Type::TEXT),
            ],
        )
        .await
        .map_err(failed(DOING))?;
    let places: Vec<TableName> =
        places.iter().map(|row| TableName { schema: row.get(0), table: row.get(1) }).collect();
    if places.is_empty() {
        return Ok(Vec::new());
    }
    let own = own_table::name(database, record::TABLE);
    let slot = literal(slot);
    let live = |place: &TableName| {
        format!("FROM ONLY {} WHERE slot = {slot} AND NOT ({})", place.quoted(), record::TORN_DOWN)
    };
    let count = |(index, place): (usize, &TableName)| {
        let rows = match (place.table == record::TABLE, records.may_use) {
            (false, _) => format!("(SELECT count(*) FROM ONLY {} WHERE slot = {slot})", place.quoted()),
            (true, false) => format!("(SELECT count(*) {})", live(place)),
            (true, true) => {
                format!("(SELECT count(*) {} AND NOT EXISTS (SELECT {}))", live(place), live(&own))
            }
        };
        format!("SELECT {index}, {rows}, EXISTS (SELECT FROM ONLY {} WHERE slot <> {slot})", place.quoted())
    };
    let counts: Vec<String> = places.iter().enumerate().map(count).collect();
    let counts = client
        .query_typed(&(counts.join(" UNION ALL ") + " ORDER BY 1"), &[])
        .await
        .map_err(failed(DOING))?;
    let found = places.into_iter().zip(&counts).map(|(place, row)| LeftBehind {
        place,
        rows: row.get(1),
        is_shared: row.get(2),
    });
    Ok(found.filter(|found| found.rows > 0).collect())
}

impl LeftBehind {
    /// Tells whether this is the slot's record. Otherwise it is parked rows.
    pub(crate) fn is_record(&self) -> bool {
        self.place.table == record::TABLE
    }

    /// The problem, with the statements that move the rows beside the outbox table. `own` is the table there.
    pub fn problem(&self, database: &SourceDatabase, own: OwnTableFacts, role: &str) -> Problem {
        let SourceDatabase { slot, table, schema, .. } = database;
        let beside = match *schema == table.schema {
            true => format!("not beside {}, which was moved to another schema", table.quoted()),
            false => format!("not in schema {} (postgres.schema)", identifier(schema)),
        };
        let what = if self.is_record() {
            format!(
                "the record of slot {slot} is in {}, {beside}: without its record outboxd cannot notice a lost slot. Stop every \
                 outboxd of this source, then move the record",
                self.place.quoted()
            )
        } else {
            format!(
                "{} rows of slot {slot} are parked in {}, {beside}: `outboxd parked` does not list them. Stop every outboxd of \
                 this source, then move them",
                self.rows,
                self.place.quoted()
            )
        };
        Problem::new(what, Remedy::by_person(self.move_sql(database, own, role)))
    }

    fn move_sql(&self, database: &SourceDatabase, own: OwnTableFacts, role: &str) -> String {
        let from = self.place.quoted();
        let to = TableName { schema: database.schema.clone(), ..self.place.clone() };
        let schema = own.schema_sql(&to.schema, role);
        if !own.exists && !self.is_shared {
            return format!("{schema}ALTER TABLE {from} SET SCHEMA {};", identifier(&to.schema));
        }
        let (to, slot) = (to.quoted(), literal(&database.slot));
        let (create, grant, clear) = if self.is_record() {
            let clear = format!("DELETE FROM ONLY {to} WHERE slot = {slot}; ");
            (record::create_table_sql(database), record::grant_sql(database, role), clear)
        } else {
            let grant = parked_table::grant_sql(database, role);
            (parked_table::create_table_sql(database), grant, String::new())
        };
        let make = if own.exists { schema } else { format!("{schema}{create}; {grant}; ") };
        format!(
            "{make}{clear}WITH moved AS (DELETE FROM ONLY {from} WHERE slot = {slot} RETURNING *) INSERT INTO {to} SELECT * FROM moved;"
        )
    }
}

/// Problems of all records and parked rows left behind.
///
/// # Errors
/// [`CatalogError`].
pub async fn problems(client: &Client, database: &SourceDatabase) -> Result<Vec<Problem>, CatalogError> {
    Ok(found(client, database).await?.into_iter().map(|(_, problem)| problem).collect())
}

/// Problem of parked rows left behind; `None` if there are none.
///
/// # Errors
/// [`CatalogError`].
pub async fn parked(client: &Client, database: &SourceDatabase) -> Result<Option<Problem>, CatalogError> {
    let found = found(client, database).await?;
    Ok(found.into_iter().find(|(found, _)| !found.is_record()).map(|(_, problem)| problem))
}

async fn found(
    client: &Client,
    database: &SourceDatabase,
) -> Result<Vec<(LeftBehind, Problem)>, CatalogError> {
    let schema = &database.schema;
    let records = own_table(client, schema, record::TABLE).await?;
    let parked = own_table(client, schema, parked_table::TABLE).await?;
    let found = find(client, database, records).await?;
    let with_problem = |found: LeftBehind| {
        let own = if found.is_record() { records } else { parked };
        let problem = found.problem(database, own, database.endpoint.user());
        (found, problem)
    };
    Ok(found.into_iter().map(with_problem).collect())
}
