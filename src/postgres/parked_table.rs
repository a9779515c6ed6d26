//! The table of parked rows: what could not be published, with everything that is needed to publish it again.
//!
//! It lies beside the outbox table, so that whatever happens to the rows happens to it too. A row is known by its slot and its
//! position, so one that is parked again after a crash is the same. Its values stand there as bytes, in the order of its
//! columns: text output may be no text in the database's encoding.
//!
//! Knows nothing of why a row is parked, nor of when its position may be acknowledged: after [`store`] has returned.

use std::sync::Arc;

use tokio_postgres::{Client, types::Type};

use super::{
    SourceDatabase,
    catalog::{self, CatalogError, failed, made},
    sql_text::{identifier, literal},
};
use crate::{
    outbox::{Outline, ParkReason, ParkedRow},
    position::Lsn,
};

/// The table, in the schema of the outbox table.
pub const TABLE: &str = "outboxd_parked";

/// A parked row is acknowledged to PostgreSQL as a published one is, so it must be as durable as the service's own commits,
/// whatever the role or the database says: synchronous standbys included.
const DURABLE: &str = "SET synchronous_commit = on";

pub(super) fn table(database: &SourceDatabase) -> String {
    format!("{}.{}", identifier(&database.table.schema), identifier(TABLE))
}

/// The statement that makes the table. A position's text sorts in commit order by its bytes.
pub fn create_table_sql(database: &SourceDatabase) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {} (slot text NOT NULL, position text COLLATE \"C\" NOT NULL, cause text NOT NULL, \
         reason text NOT NULL, message_id text, aggregate_type text, aggregate_id text, event_type text, exchange text, \
         routing_key text, committed_at timestamptz NOT NULL, parked_at timestamptz NOT NULL DEFAULT clock_timestamp(), \
         column_names text[] NOT NULL, column_types oid[] NOT NULL, column_values bytea[] NOT NULL, \
         PRIMARY KEY (slot, position))",
        table(database)
    )
}

/// The statement that lets the source's role use the table, once somebody else has made it.
pub fn grant_sql(database: &SourceDatabase, role: &str) -> String {
    format!("GRANT SELECT, INSERT, UPDATE, DELETE ON {} TO {}", table(database), identifier(role))
}

/// Makes the table if it is not there.
pub async fn create_table(client: &Client, database: &SourceDatabase) -> Result<(), CatalogError> {
    made(client, "creating the table of parked rows", &create_table_sql(database)).await
}

/// Puts rows aside, all or none, and gives a place in WAL behind them. A row that is there already, from before a crash, is as
/// good.
pub async fn store(
    client: &Client,
    database: &SourceDatabase,
    rows: &[Arc<ParkedRow>],
) -> Result<Lsn, CatalogError> {
    const DOING: &str = "writing into the table of parked rows";
    client.batch_execute(&format!("{DURABLE}; BEGIN")).await.map_err(failed(DOING))?;
    for row in rows {
        insert(client, database, row).await?;
    }
    client.batch_execute("COMMIT").await.map_err(failed(DOING))?;
    catalog::wal_end(client).await
}

async fn insert(client: &Client, database: &SourceDatabase, parked: &ParkedRow) -> Result<(), CatalogError> {
    const DOING: &str = "writing into the table of parked rows";
    let row = parked.kept.row();
    let Outline { message_id, aggregate_type, aggregate_id, event_type } = parked.kept.outline();
    let ParkReason { cause, text, route } = &parked.reason;
    let (exchange, routing_key) =
        route.as_ref().map(|route| (route.exchange.as_str(), route.routing_key.as_str())).unzip();
    let position = row.position.to_string();
    let columns = parked.kept.columns();
    let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
    let types: Vec<u32> = columns.iter().map(|column| column.type_oid).collect();
    let values: Vec<Option<&[u8]>> = row.values.iter().map(|value| value.as_deref()).collect();
    // A position that is taken must be taken by the same row: in a database that was put together from others it may not be.
    let insert = format!(
        "WITH added AS (
             INSERT INTO {table} (slot, position, cause, reason, message_id, aggregate_type, aggregate_id, event_type,
                                  exchange, routing_key, committed_at, column_names, column_types, column_values)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, timestamptz 'epoch' + $11 * interval '1 microsecond',
                     $12, $13, $14)
             ON CONFLICT (slot, position) DO NOTHING RETURNING 1)
         SELECT EXISTS (SELECT FROM added)
             OR EXISTS (SELECT FROM {table} WHERE slot = $1 AND position = $2 AND column_values = $14)",
        table = table(database)
    );
    let is_there = client
        .query_typed_one(
            &insert,
            &[
                (&database.slot, Type::TEXT),
                (&position, Type::TEXT),
                (&cause.as_str(), Type::TEXT),
                (text, Type::TEXT),
                (&message_id, Type::TEXT),
                (&aggregate_type, Type::TEXT),
                (&aggregate_id, Type::TEXT),
                (&event_type, Type::TEXT),
                (&exchange, Type::TEXT),
                (&routing_key, Type::TEXT),
                (&row.committed_at.0, Type::INT8),
                (&names, Type::TEXT_ARRAY),
                (&types, Type::OID_ARRAY),
                (&values, Type::BYTEA_ARRAY),
            ],
        )
        .await
        .map_err(failed(DOING))?;
    if is_there.get(0) {
        return Ok(());
    }
    let what = format!(
        "another row is parked under slot {} and position {position}: requeue or discard that one, and this one is parked",
        database.slot
    );
    Err(CatalogError::Nonsense { doing: DOING, what })
}

/// How many rows are parked; `None` when there is no table, or the role may not read it.
pub async fn count(client: &Client, database: &SourceDatabase) -> Result<Option<u64>, CatalogError> {
    const DOING: &str = "counting the parked rows";
    let readable = format!(
        "SELECT COALESCE(has_table_privilege(to_regclass({}), 'SELECT'), false)",
        literal(&table(database))
    );
    let readable = client.query_typed_one(&readable, &[]).await.map_err(failed(DOING))?;
    if !readable.get::<_, bool>(0) {
        return Ok(None);
    }
    let count = format!("SELECT count(*) FROM {} WHERE slot = $1", table(database));
    let count =
        client.query_typed_one(&count, &[(&database.slot, Type::TEXT)]).await.map_err(failed(DOING))?;
    Ok(Some(count.get::<_, i64>(0).unsigned_abs()))
}
