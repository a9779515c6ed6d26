//! The table of parked rows: what could not be published, with everything that is needed to publish it again.
//!
//! It lies beside the outbox table, so that whatever happens to the rows happens to it too. A row is known by its slot and its
//! position, so one that is parked again after a crash is the same. Its values stand there as bytes, in the order of its
//! columns: text output may be no text in the database's encoding. Why a row is parked, and where it was to go, is spelled
//! so that the database can hold it (`parked_text.rs`).
//!
//! Knows nothing of why a row is parked, nor of when its position may be acknowledged: after [`store`] has returned.

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

/// A parked row is acknowledged to PostgreSQL as a published one is, so it must be as durable as the service's own commits,
/// whatever the role or the database says: synchronous standbys included.
///
/// The limits are for the inserts: the server itself ends what takes longer, so that nothing is left behind there which
/// would hold up, or be held up by, the next try. A commit has none, as a statement's timer stops before it
/// (`finish_xact_command`, postgres.c); it waits for as long as its standbys are away.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL synchronous_commit = on; \
                     SET LOCAL lock_timeout = '5s'; SET LOCAL statement_timeout = '20s'";

pub(super) fn table(database: &SourceDatabase) -> String {
    own_table::name(database, TABLE).quoted()
}

/// The statement that makes the table. A position's text sorts in commit order by its bytes.
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

/// The statement that lets the source's role use the table, once somebody else has made it.
pub(crate) fn grant_sql(database: &SourceDatabase, role: &str) -> String {
    own_table::grant_sql(database, TABLE, role)
}

/// Makes the table if it is not there.
///
/// # Errors
/// [`CatalogError::Statement`].
pub async fn create_table(client: &Client, database: &SourceDatabase) -> Result<(), CatalogError> {
    let create = create_table_sql(database);
    made(client, "creating the table of parked rows", &database.schema, TABLE, &create).await
}

/// Puts rows aside, all or none, and gives a place in WAL behind them. A row that is there already, from before a crash, is as
/// good. Refused within half a minute for each row if it cannot be done, but as long as a synchronous standby is away, it waits.
///
/// # Errors
/// The server's; the connection is then good for nothing else.
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
    // These came out of this database, so it can hold them, but for what stands in place of bytes that are not UTF-8.
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
    // A position that is taken must be taken by the same row: in a database that was put together from others it may not be.
    // The row is updated, to what it is, for two reasons: unlike a SELECT, that sees one which another session has committed
    // since this statement began; and it makes WAL, so that the commit waits for standbys that the row may not have reached, as
    // that session may have been ended while it waited for them.
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
        "another row is parked under slot {} and position {position}: requeue or discard that one, and this one is parked",
        database.slot
    );
    Err(CatalogError::Nonsense { doing: DOING, what })
}

/// The reason for which a row is parked, as it is written into the table.
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

/// The number of parked rows; `None` when there is no table, or the role may not read it.
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
