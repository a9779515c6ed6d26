//! The contents of the table of parked rows, for `outboxd parked`: list, load, remove and update rows, and tell whether later rows
//! of the aggregate may have overtaken one.

use tokio_postgres::{
    Client, Row,
    types::{ToSql, Type},
};

use super::{
    parked_table::{Reason, TABLE, table},
    spelling::{self, Spelling},
};
use crate::{
    message::{Column, ColumnNames, OptionalColumn, OutboxRow, ParkReason, Timestamp},
    position::Position,
    postgres::{
        SourceDatabase,
        outbox_table::{self, TableKind},
        sql_text::{identifier, literal},
        sqlstate::UNDEFINED_TABLE,
        statement::{CatalogError, failed, nonsense},
    },
    slot::holder::{ClientAddress, Holder},
};

/// A parked row without its values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParkedEntry {
    /// Position in commit order.
    pub position: Position,
    /// `unroutable`, `invalid`, `refused` or `nacked`.
    pub cause: String,
    /// Reason in words, as the table has it.
    pub reason: String,
    /// Message id, if readable.
    pub message_id: Option<String>,
    /// Type of the aggregate, if readable.
    pub aggregate_type: Option<String>,
    /// Id of the aggregate, if readable.
    pub aggregate_id: Option<String>,
    /// Type of the event, if readable.
    pub event_type: Option<String>,
    /// Exchange of the message, as the table has it.
    pub exchange: Option<String>,
    /// Routing key of the message, as the table has it.
    pub routing_key: Option<String>,
    /// Commit time of the row.
    pub committed_at: Timestamp,
    /// Time when the row was parked.
    pub parked_at: Timestamp,
}

impl ParkedEntry {
    /// Type and id of the aggregate, if both are known.
    pub fn aggregate(&self) -> Option<(&str, &str)> {
        self.aggregate_type.as_deref().zip(self.aggregate_id.as_deref())
    }

    fn bytes(&self) -> usize {
        let Self { message_id, aggregate_type, aggregate_id, event_type, exchange, routing_key, .. } = self;
        let texts = [message_id, aggregate_type, aggregate_id, event_type, exchange, routing_key];
        let texts: usize = texts.into_iter().flatten().map(String::len).sum();
        size_of::<Self>() + self.cause.len() + self.reason.len() + texts
    }
}

/// A parked row with its values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParkedValues {
    /// Columns of the table when the row was written.
    pub columns: Vec<Column>,
    /// The row.
    pub row: OutboxRow,
}

/// Lock on the parked rows of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lock {
    /// This connection holds the lock until it ends, and keeps other commands away.
    Held,
    /// Another session holds the lock: a command, or a program that uses the same number. `None` if it has just ended.
    Taken(Option<Holder>),
}

/// Takes the lock.
///
/// # Errors
/// [`CatalogError::Statement`].
pub async fn lock(client: &Client, database: &SourceDatabase) -> Result<Lock, CatalogError> {
    const DOING: &str = "locking the parked rows";
    let key: [(&(dyn ToSql + Sync), Type); 2] = [(&TABLE, Type::TEXT), (&database.slot, Type::TEXT)];
    let lock = "SELECT pg_try_advisory_lock(hashtext($1), hashtext($2))";
    let row = client.query_typed_one(lock, &key).await.map_err(failed(DOING))?;
    if row.get(0) {
        return Ok(Lock::Held);
    }
    let holder = client
        .query_typed_opt(
            "SELECT a.pid, a.application_name, current_setting('application_name'), a.usename::text, host(a.client_addr), a.client_port
             FROM pg_locks l JOIN pg_database d ON d.oid = l.database JOIN pg_stat_activity a ON a.pid = l.pid
             WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2 AND d.datname = current_database()
             AND l.classid = (hashtext($1)::int8 & 4294967295)::oid AND l.objid = (hashtext($2)::int8 & 4294967295)::oid LIMIT 1",
            &key,
        )
        .await
        .map_err(failed(DOING))?;
    Ok(Lock::Taken(holder.map(|row| {
        let (application, own): (Option<String>, String) = (row.get(1), row.get(2));
        let application = application.unwrap_or_default();
        Holder {
            pid: row.get(0),
            is_outboxd: Holder::is_outboxd(&application, &own),
            application,
            user: row.get(3),
            address: ClientAddress::of(row.get(4), row.get(5)),
        }
    })))
}

const READING: &str = "reading the parked rows";

/// Rows of one answer, whose size is limited. The number of parked rows is not.
const PORTION_ROWS: usize = 100;
/// Characters of a text that are read. A message cannot carry longer ones, so a row that may be requeued is never cut.
const TEXT_CHARS_MAX: usize = 16 << 10;
/// Limit of the memory for all parked rows of a source without their values: enough for a million rows.
const LISTED_BYTES_MAX: usize = 512 << 20;

/// Lists the parked rows of the source in the order of their positions. Empty if there is no table.
///
/// # Errors
/// [`CatalogError::Statement`], and [`CatalogError::Nonsense`] for a position that outboxd has not written.
pub async fn list(client: &Client, database: &SourceDatabase) -> Result<Vec<ParkedEntry>, CatalogError> {
    let texts = ["message_id", "aggregate_type", "aggregate_id", "event_type", "exchange", "routing_key"];
    let texts = texts.map(|column| format!("left({column}, {TEXT_CHARS_MAX})")).join(", ");
    let select = format!(
        "SELECT position, cause, left(reason, {TEXT_CHARS_MAX}), {texts}, (extract(epoch FROM committed_at) * 1000000)::int8, \
         (extract(epoch FROM parked_at) * 1000000)::int8 \
         FROM ONLY {} WHERE slot = $1 AND position COLLATE \"C\" > $2 ORDER BY position COLLATE \"C\" LIMIT {PORTION_ROWS}",
        table(database)
    );
    let mut listed = Listed::default();
    let mut after = String::new();
    loop {
        let portion =
            client.query_typed(&select, &[(&database.slot, Type::TEXT), (&after, Type::TEXT)]).await;
        let portion = match portion {
            Err(error) if error.code().is_some_and(|code| code.code() == UNDEFINED_TABLE) => {
                return Ok(listed.entries);
            }
            portion => portion.map_err(failed(READING))?,
        };
        for row in &portion {
            listed.push(entry(row)?).map_err(|what| nonsense(READING, what))?;
        }
        match portion.last() {
            Some(last) if portion.len() == PORTION_ROWS => after = last.get(0),
            _ => return Ok(listed.entries),
        }
    }
}

/// Rows read so far, with limits against a server that never ends its answer.
#[derive(Default)]
struct Listed {
    entries: Vec<ParkedEntry>,
    bytes: usize,
}

impl Listed {
    fn push(&mut self, entry: ParkedEntry) -> Result<(), String> {
        if let Some(last) = self.entries.last().filter(|last| last.position >= entry.position) {
            return Err(format!("position {} after {}", entry.position, last.position));
        }
        self.bytes += entry.bytes();
        if self.bytes > LISTED_BYTES_MAX {
            return Err(format!(
                "more than {} MiB of parked rows: delete rows from {TABLE} that nobody will requeue",
                LISTED_BYTES_MAX >> 20
            ));
        }
        self.entries.push(entry);
        Ok(())
    }
}

fn entry(row: &Row) -> Result<ParkedEntry, CatalogError> {
    let position: &str = row.get(0);
    let unreadable = |_| nonsense(READING, format!("position {position}"));
    Ok(ParkedEntry {
        position: position.parse().map_err(unreadable)?,
        cause: row.get(1),
        reason: row.get(2),
        message_id: row.get(3),
        aggregate_type: row.get(4),
        aggregate_id: row.get(5),
        event_type: row.get(6),
        exchange: row.get(7),
        routing_key: row.get(8),
        committed_at: Timestamp(row.get(9)),
        parked_at: Timestamp(row.get(10)),
    })
}

/// Loads a parked row with its values; `None` if it is no longer parked.
///
/// # Errors
/// [`CatalogError::Statement`].
pub async fn load(
    client: &Client,
    database: &SourceDatabase,
    parked: &ParkedEntry,
) -> Result<Option<ParkedValues>, CatalogError> {
    let select = format!(
        "SELECT column_names, column_types, column_values FROM ONLY {} WHERE slot = $1 AND position = $2",
        table(database)
    );
    let position = parked.position.to_string();
    let row = client
        .query_typed_opt(&select, &[(&database.slot, Type::TEXT), (&position, Type::TEXT)])
        .await
        .map_err(failed("reading a parked row"))?;
    let Some(row) = row else { return Ok(None) };
    let (names, types): (Vec<String>, Vec<u32>) = (row.get(0), row.get(1));
    let values: Vec<Option<Vec<u8>>> = row.get(2);
    let columns = names.into_iter().zip(types).map(|(name, type_oid)| Column { name, type_oid }).collect();
    let values = values.into_iter().map(|value| value.map(Into::into)).collect();
    let row = OutboxRow { position: parked.position, committed_at: parked.committed_at, values };
    Ok(Some(ParkedValues { columns, row }))
}

/// Removes a parked row. Returns `false` if there was none.
///
/// # Errors
/// [`CatalogError::Statement`].
pub async fn remove(
    client: &Client,
    database: &SourceDatabase,
    position: Position,
) -> Result<bool, CatalogError> {
    let delete = format!("DELETE FROM ONLY {} WHERE slot = $1 AND position = $2", table(database));
    let position = position.to_string();
    let removed = client
        .execute_typed(&delete, &[(&database.slot, Type::TEXT), (&position, Type::TEXT)])
        .await
        .map_err(failed("removing a parked row"))?;
    Ok(removed > 0)
}

/// Updates the reason why a row stays parked.
///
/// # Errors
/// [`CatalogError::Statement`].
pub async fn stays(
    client: &Client,
    database: &SourceDatabase,
    position: Position,
    reason: &ParkReason,
) -> Result<(), CatalogError> {
    match stays_spelled(client, database, position, &Reason::new(reason, Spelling::Plain)).await {
        Err(error) if spelling::cannot_be_held(&error) => {
            stays_spelled(client, database, position, &Reason::new(reason, Spelling::Ascii)).await
        }
        written => written,
    }
}

async fn stays_spelled(
    client: &Client,
    database: &SourceDatabase,
    position: Position,
    Reason { cause, text, exchange, routing_key }: &Reason,
) -> Result<(), CatalogError> {
    let update = format!(
        "UPDATE ONLY {} SET cause = $3, reason = $4, exchange = $5, routing_key = $6 WHERE slot = $1 AND position = $2",
        table(database)
    );
    let position = position.to_string();
    client
        .execute_typed(
            &update,
            &[
                (&database.slot, Type::TEXT),
                (&position, Type::TEXT),
                (cause, Type::TEXT),
                (text, Type::TEXT),
                (exchange, Type::TEXT),
                (routing_key, Type::TEXT),
            ],
        )
        .await
        .map_err(failed("updating the reason of a parked row"))?;
    Ok(())
}

/// Returns the reason why a later row of the aggregate may have overtaken a parked row. `None` if none has: the outbox table still
/// has the row itself, and all later rows of its aggregate are parked, too.
///
/// # Errors
/// [`CatalogError::Statement`].
pub async fn overtaken(
    client: &Client,
    database: &SourceDatabase,
    names: &ColumnNames,
    parked: &ParkedEntry,
    values: &ParkedValues,
) -> Result<Option<String>, CatalogError> {
    const DOING: &str = "looking for later rows of the parked row's aggregate";
    let (Some((aggregate_type, aggregate_id)), Some(id)) = (parked.aggregate(), &parked.message_id) else {
        return Ok(Some("the row has no readable id or aggregate".to_owned()));
    };
    if database.cleanup.is_some() {
        return Ok(Some("clean-up may have removed later rows of its aggregate from the table".to_owned()));
    }
    let outbox = database.table.quoted();
    let Some(facts) = outbox_table::table(client, &database.table, &database.publication).await? else {
        return Ok(Some(format!("table {outbox} does not exist")));
    };
    if facts.kind == TableKind::Other {
        return Ok(Some(format!("{outbox} is not an ordinary or partitioned table")));
    }
    let only = facts.kind.only();
    let value_of = |name: &str| {
        let index = values.columns.iter().position(|column| column.name == name)?;
        let value = values.row.values.get(index)?.as_deref()?;
        str::from_utf8(value).ok()
    };
    // Either of two rows created at the same time may be the later one.
    let later = [(&names.sequence, ">"), (&names.created_at, ">=")].into_iter().find_map(
        |(column, operator): (&OptionalColumn, _)| {
            let column = facts.column(column.name()?)?;
            let value = value_of(&column.name)?;
            // The literal takes the column's type, or the base type of a domain, so that no constraint of the domain is checked.
            Some(format!("o.{} {operator} {}", identifier(&column.name), literal(value)))
        },
    );
    let Some(later) = later else {
        return Ok(Some(
            "the table has neither a sequence nor a created_at column to tell which rows are later"
                .to_owned(),
        ));
    };
    // format() uses the type's output function, as pgoutput does. A cast would strip the blanks of char(n).
    let find = format!(
        "SELECT EXISTS (SELECT FROM {only}{outbox} o WHERE format('%s', o.{id}) = $1),
                (SELECT format('%s', o.{id}) FROM {only}{outbox} o
                 WHERE format('%s', o.{kind}) = $2 AND format('%s', o.{aggregate}) = $3 AND {later} AND format('%s', o.{id}) <> $1
                 AND NOT EXISTS (SELECT FROM ONLY {parked} p WHERE p.slot = $4 AND p.message_id = format('%s', o.{id})) LIMIT 1)",
        id = identifier(&names.id),
        kind = identifier(&names.aggregate_type),
        aggregate = identifier(&names.aggregate_id),
        parked = table(database),
    );
    let found = client
        .query_typed_one(
            &find,
            &[
                (id, Type::TEXT),
                (&aggregate_type, Type::TEXT),
                (&aggregate_id, Type::TEXT),
                (&database.slot, Type::TEXT),
            ],
        )
        .await
        .map_err(failed(DOING))?;
    Ok(match (found.get(0), found.get::<_, Option<String>>(1)) {
        (_, Some(later)) => Some(format!("{outbox} has a later row of its aggregate, id '{later}'")),
        (false, None) => {
            Some(format!("the row is no longer in {outbox}, so later rows may have been removed, too"))
        }
        (true, None) => None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::position::Lsn;

    fn entry(lsn: u64, reason: usize) -> ParkedEntry {
        ParkedEntry {
            position: Position { commit_lsn: Lsn(lsn), index: 0 },
            cause: "invalid".into(),
            reason: "x".repeat(reason),
            message_id: None,
            aggregate_type: None,
            aggregate_id: None,
            event_type: None,
            exchange: None,
            routing_key: None,
            committed_at: Timestamp(0),
            parked_at: Timestamp(0),
        }
    }

    #[test]
    fn a_server_that_repeats_itself_or_never_ends_is_refused() {
        for (second, is_refused) in [(2, false), (1, true), (0, true)] {
            let mut listed = Listed::default();
            listed.push(entry(1, 0)).unwrap();
            assert_eq!(listed.push(entry(second, 0)).is_err(), is_refused, "{second}");
        }
        let mut listed = Listed::default();
        let refused = (1..).find_map(|lsn| listed.push(entry(lsn, 8 << 20)).err()).unwrap();
        assert!(refused.contains("more than 512 MiB") && listed.entries.len() < 64, "{refused}");
    }
}
