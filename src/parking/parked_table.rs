//! The table of parked rows, with everything that is needed to publish them again.
//!
//! The table lies beside the outbox table, so that dumps, backups and replicas contain both. Slot and position identify a row, so a
//! row parked again after a crash is the same one. Values are stored as bytes in the order of the columns, because text output may
//! not be valid text in the database's encoding. Reason and route are spelled so that the database can store them (`spelling.rs`).
//!
//! Does not know why a row is parked. Its position may be acknowledged after [`store`] has returned.

use std::sync::Arc;

use tokio_postgres::{Client, types::Type};

use super::spelling::{self, Spelling};
use crate::{
    message::{Outline, ParkReason, ParkedRow},
    position::Lsn,
    postgres::{
        SourceDatabase,
        own_table::{self, made},
        sql_text::literal,
        statement::{CatalogError, failed},
    },
    slot::facts::wal_end,
};

/// The table, by default in the schema of the outbox table.
pub const TABLE: &str = "outboxd_parked";

/// Begin of a transaction that parks rows. A parked row is acknowledged to PostgreSQL like a published one, so it must be as durable
/// as the service's own commits: it waits for synchronous standbys, whatever role and database set.
///
/// The timeouts are for the inserts: the server ends slow ones itself, so that no session is left behind to block the next try. The
/// commit has no timeout, because a statement's timer stops before it (`finish_xact_command`, postgres.c). It waits until the
/// synchronous standbys are back.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL synchronous_commit = on; \
                     SET LOCAL lock_timeout = '5s'; SET LOCAL statement_timeout = '20s'";

pub(super) fn table(database: &SourceDatabase) -> String {
    own_table::name(database, TABLE).quoted()
}

/// The statement that creates the table. The text of a position sorts bytewise in commit order.
pub(crate) fn create_table_sql(database: &SourceDatabase) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {} (slot text NOT NULL, position text COLLATE \"C\" NOT NULL, cause text NOT NULL, \
         reason text NOT NULL, message_id text, aggregate_type text, aggregate_id text, event_type text, exchange text, \
         routing_key text, committed_at timestamptz NOT NULL, parked_at timestamptz NOT NULL DEFAULT clock_timestamp(), \
         column_names text[] NOT NULL, column_types oid[] NOT NULL, column_values bytea[] NOT NULL, \
         PRIMARY KEY (slot, position))",
        table(database)
    )
}

/// The statement that grants the source's role the use of the table, if another role has created it.
pub(crate) fn grant_sql(database: &SourceDatabase, role: &str) -> String {
    own_table::grant_sql(database, TABLE, role)
}

/// Creates the table if it does not exist.
///
/// # Errors
/// [`CatalogError::Statement`].
pub async fn create_table(client: &Client, database: &SourceDatabase) -> Result<(), CatalogError> {
    let create = create_table_sql(database);
    made(client, "creating the table of parked rows", &database.schema, TABLE, &create).await
}

/// Parks rows, all or none, and returns a place in WAL after them. A row parked before a crash stays as it is. Fails within half a
/// minute for each row, but waits as long as a synchronous standby is down.
///
/// # Errors
/// The server's. The connection cannot be used after it.
pub async fn store(
    client: &Client,
    database: &SourceDatabase,
    rows: &[Arc<ParkedRow>],
) -> Result<Lsn, CatalogError> {
    match store_spelled(client, database, rows, Spelling::Plain).await {
        Err(error) if spelling::cannot_be_held(&error) => {
            client.batch_execute("ROLLBACK").await.map_err(failed(DOING))?;
            store_spelled(client, database, rows, Spelling::Ascii).await?;
        }
        stored => stored?,
    }
    wal_end(client).await
}

const DOING: &str = "writing into the table of parked rows";

async fn store_spelled(
    client: &Client,
    database: &SourceDatabase,
    rows: &[Arc<ParkedRow>],
    spelling: Spelling,
) -> Result<(), CatalogError> {
    client.batch_execute(BEGIN).await.map_err(failed(DOING))?;
    for row in rows {
        insert(client, database, row, spelling).await?;
    }
    client.batch_execute("COMMIT").await.map_err(failed(DOING))
}

async fn insert(
    client: &Client,
    database: &SourceDatabase,
    parked: &ParkedRow,
    spelling: Spelling,
) -> Result<(), CatalogError> {
    let row = parked.kept.row();
    // The values come from this database, so it can store them, except the replacement of bytes that are not UTF-8.
    let Outline { message_id, aggregate_type, aggregate_id, event_type } = parked.kept.outline();
    let readable = |text: Option<String>| match spelling {
        Spelling::Plain => text,
        Spelling::Ascii => text.map(|text| text.replace(char::REPLACEMENT_CHARACTER, "?")),
    };
    let (message_id, aggregate_type) = (readable(message_id), readable(aggregate_type));
    let (aggregate_id, event_type) = (readable(aggregate_id), readable(event_type));
    let reason = Reason::new(&parked.reason, spelling);
    let position = row.position.to_string();
    let columns = parked.kept.columns();
    let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
    let types: Vec<u32> = columns.iter().map(|column| column.type_oid).collect();
    let values: Vec<Option<&[u8]>> = row.values.iter().map(|value| value.as_deref()).collect();
    // A row that is there already must be the same row; in a database merged from others it may not be. The row is updated to what
    // it is, for two reasons. Unlike a SELECT, an UPDATE sees a row that another session has committed since the statement began.
    // And it makes WAL, so the commit waits for synchronous standbys, which the row may not have reached: the other session may
    // have been ended while it waited for them.
    let insert = format!(
        "INSERT INTO {table} AS parked (slot, position, cause, reason, message_id, aggregate_type, aggregate_id, event_type,
                                        exchange, routing_key, committed_at, column_names, column_types, column_values)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, timestamptz 'epoch' + $11 * interval '1 microsecond',
                 $12, $13, $14)
         ON CONFLICT (slot, position) DO UPDATE SET reason = parked.reason
             WHERE parked.column_values = excluded.column_values",
        table = table(database)
    );
    let written = client
        .execute_typed(
            &insert,
            &[
                (&database.slot, Type::TEXT),
                (&position, Type::TEXT),
                (&reason.cause, Type::TEXT),
                (&reason.text, Type::TEXT),
                (&message_id, Type::TEXT),
                (&aggregate_type, Type::TEXT),
                (&aggregate_id, Type::TEXT),
                (&event_type, Type::TEXT),
                (&reason.exchange, Type::TEXT),
                (&reason.routing_key, Type::TEXT),
                (&row.committed_at.0, Type::INT8),
                (&names, Type::TEXT_ARRAY),
                (&types, Type::OID_ARRAY),
                (&values, Type::BYTEA_ARRAY),
            ],
        )
        .await
        .map_err(failed(DOING))?;
    if written == 1 {
        return Ok(());
    }
    let what = format!(
        "another row is parked for slot {} at position {position}: requeue or discard that row, then this one is parked",
        database.slot
    );
    Err(CatalogError::Nonsense { doing: DOING, what })
}

/// The reason why a row is parked, as written into the table.
pub(super) struct Reason {
    pub(super) cause: &'static str,
    pub(super) text: String,
    pub(super) exchange: Option<String>,
    pub(super) routing_key: Option<String>,
}

impl Reason {
    pub(super) fn new(ParkReason { cause, text, route }: &ParkReason, spelling: Spelling) -> Self {
        let spelled = |text: &str| spelling.write(text);
        let (exchange, routing_key) =
            route.as_ref().map(|route| (spelled(&route.exchange), spelled(&route.routing_key))).unzip();
        Self { cause: cause.as_str(), text: spelled(text), exchange, routing_key }
    }
}

/// Counts the parked rows; `None` if there is no table, or the role may not read it.
///
/// # Errors
/// [`CatalogError::Statement`].
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
    let count = format!("SELECT count(*) FROM ONLY {} WHERE slot = $1", table(database));
    let count =
        client.query_typed_one(&count, &[(&database.slot, Type::TEXT)]).await.map_err(failed(DOING))?;
    Ok(Some(count.get::<_, i64>(0).unsigned_abs()))
}
