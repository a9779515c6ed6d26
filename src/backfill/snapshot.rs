//! Rows of the outbox table from one snapshot, for backlog, recovery and replay: all or a selection, in the best order that the
//! table allows.
//!
//! A row's [`Position`] has the LSN of the last byte before the snapshot's place in WAL. The commit record of a later row begins at
//! that place at the earliest, so every later row sorts after the snapshot.
//!
//! Memory: rows are fetched from a cursor in batches, and a batch that is not polled stays in the socket. tokio-postgres reads ahead
//! by two reads of the socket (`InnerClient::send` in its `client.rs` makes a channel of one place for the answer, and
//! `Connection::poll_read` in `connection.rs` stops reading while that is full). An abandoned SELECT would be read to its last row
//! by the same loop; an abandoned cursor is not.
//!
//! The cursor is WITH HOLD: the server copies the rows at once and the transaction ends. So a broker that is down for days blocks
//! neither a migration of the table, with the application's inserts behind it, nor vacuum.
//!
//! Does not know slots, messages, confirms, or retry policy.

use std::{fmt, ops::Range, pin::Pin, str::FromStr};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow, SimpleQueryStream, types::Type};

use crate::{
    message::{Column, ColumnNames, OptionalColumn, OutboxRow, Timestamp},
    position::{Lsn, Position},
    postgres::{
        RowRules, SourceDatabase, TableName,
        outbox_table::{self, ColumnFacts, TableFacts, TableKind},
        sql_text::{identifier, literal},
        sqlstate,
        statement::{CatalogError, NO_TIMEOUTS, failed, nonsense},
        statement_remedy, stored_values,
    },
};
use diagnostics::remedy::Remedy;
use pg_replication::{
    ConnectError, WireError,
    stored_text::{Encoding, Translator},
};

/// Rows of one FETCH: enough to make the round trip cheap, few enough to be read to the end after an abandoned read.
const FETCH_ROWS: u32 = 256;

/// Application name of the connection that reads how the server converts characters.
const APPLICATION_NAME: &str = "outboxd encoding";

/// Failure to read rows.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The table does not exist.
    #[error("table {} does not exist", .0.quoted())]
    NoTable(TableName),
    /// The server has no room for a copy of the rows. They can be read in one transaction.
    #[error("the server has no room for a copy of the rows")]
    NoRoomForCopy(#[source] WireError),
    /// A view or a foreign table has the name. Its code would run with the role's rights.
    #[error("{} is not an ordinary or partitioned table: set outbox.table to the table itself", .0.quoted())]
    NotATable(TableName),
    /// The table was altered, rewritten or truncated between the snapshot and our lock.
    #[error("table {} was altered while outboxd began to read its rows; the next attempt reads it again", .0.quoted())]
    TableChanged(TableName),
    /// `--since` needs a column for the time of a row.
    #[error(
        "--since needs a column with the time of a row, and table {} has none: set outbox.columns.created_at; or leave --since \
         out, which publishes all rows",
        .0.quoted()
    )]
    NoTimes(TableName),
    /// `--since` needs times with a known zone.
    #[error(
        "--since needs times with a time zone, and column outbox.columns.created_at of table {} has none: set \
         outbox.created_at_zone, for instance to \"America/New_York\"; or leave --since out, which publishes all rows",
        .0.quoted()
    )]
    NoZone(TableName),
    /// The role may not read columns that a message needs.
    #[error("the role may not read the columns {columns} of {}: {grant};", table.quoted())]
    MayNotRead {
        /// Table.
        table: TableName,
        /// Names of the columns.
        columns: String,
        /// The GRANT statement.
        grant: String,
    },
    /// Row security would hide rows from the role.
    #[error("row security hides rows of {} from the role: {cure}", table.quoted())]
    RowSecurity {
        /// Table.
        table: TableName,
        /// The statement that shows the rows to the role.
        cure: String,
    },
    /// The configured condition or zone fails.
    #[error("the rows cannot be selected by outbox.unpublished and outbox.created_at_zone")]
    Rules(#[source] WireError),
    /// The table has more rows than a position can number.
    #[error(
        "the table has more than 2^32 rows: set backlog = \"skip\", or delete rows that need not be published"
    )]
    TooManyRows,
    /// A session to replace one whose copy failed could not be opened.
    #[error(transparent)]
    Connect(Box<ConnectError>),
    /// A statement failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
}

impl SnapshotError {
    /// The remedy, if known.
    pub fn remedy(&self) -> Option<Remedy> {
        match self {
            SnapshotError::Rules(_) => Some(Remedy::by_person(RULES_CURE)),
            SnapshotError::Catalog(error)
                if error.sqlstate() == Some(sqlstate::CONFIGURATION_LIMIT_EXCEEDED) =>
            {
                Some(Remedy::by_person(
                    "the sort needs more temporary files than temp_file_limit allows: as a superuser, raise the limit for outboxd's role \
                     (ALTER ROLE ... SET temp_file_limit = ...;); or create an index on the column that orders the rows",
                ))
            }
            SnapshotError::NoRoomForCopy(cause) => statement_remedy::of_statement(cause),
            SnapshotError::Connect(error) => Some((*error.remedy).clone()),
            SnapshotError::Catalog(error) => error.remedy(),
            _ => None,
        }
    }

    /// Tells a copy that failed for lack of resources (SQLSTATE class 53: `temp_file_limit`, a full disk, memory).
    fn of_copy(self) -> Self {
        match self {
            SnapshotError::Catalog(CatalogError::Statement { cause, .. })
                if cause.sqlstate().is_some_and(|code| code.starts_with("53")) =>
            {
                SnapshotError::NoRoomForCopy(cause)
            }
            other => other,
        }
    }

    /// Tells a failure of the configured condition or zone, by the SQLSTATEs of data and of functions that raise.
    fn of_rules(self, rules: &RowRules) -> Self {
        let is_computed = |code: &str| ["22", "42", "P0", "38", "2F"].contains(&code.get(..2).unwrap_or(""));
        match self {
            SnapshotError::Catalog(CatalogError::Statement { cause, .. })
                if (rules.unpublished.is_some() || rules.created_at_zone.is_some())
                    && cause.sqlstate().is_some_and(|code| {
                        is_computed(code) && code != sqlstate::INSUFFICIENT_PRIVILEGE
                    }) =>
            {
                SnapshotError::Rules(cause)
            }
            other => other,
        }
    }
}

/// Cure of a condition or a zone that fails, for `check` and `run`.
pub(crate) const RULES_CURE: &str = "correct outbox.unpublished (an SQL condition on the table's columns that fails for no row; name the \
                                     schema of functions and types that are not PostgreSQL's own) or outbox.created_at_zone (a zone of \
                                     pg_timezone_names), and restart outboxd";

/// Order of the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowOrder {
    /// Order by the sequence column; rows without a value first, by `created_at`.
    Sequence,
    /// Order by `created_at`, rows without a value first. Equal times are ordered by a column that a sequence numbers, or else by
    /// place in the table, which mostly is the order of insertion.
    CreatedAt,
    /// Order by place in the table, without any promise.
    None,
}

impl fmt::Display for RowOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RowOrder::Sequence => "by the sequence column",
            RowOrder::CreatedAt => "by created_at",
            RowOrder::None => "not defined: the table has neither a sequence nor a created_at column",
        })
    }
}

impl RowOrder {
    fn of(table: &TableFacts, columns: &ColumnNames) -> Self {
        match () {
            () if there(table, &columns.sequence).is_some() => RowOrder::Sequence,
            () if there(table, &columns.created_at).is_some() => RowOrder::CreatedAt,
            () => RowOrder::None,
        }
    }

    fn clause(self, table: &TableFacts, columns: &ColumnNames) -> String {
        let column = |column: &OptionalColumn| column.name().and_then(|name| table.column(name));
        // NULLS FIRST only for a nullable column: an index serves the order without it.
        let by = |column: &ColumnFacts| {
            format!("{}{}, ", identifier(&column.name), if column.nullable { " NULLS FIRST" } else { "" })
        };
        let sequence = column(&columns.sequence).filter(|_| self == RowOrder::Sequence);
        let (first, then) = match (self, sequence) {
            (RowOrder::None, _) => return String::new(),
            (_, Some(sequence)) if !sequence.nullable => {
                return format!(" ORDER BY {}", identifier(&sequence.name));
            }
            (_, Some(sequence)) => (Some(sequence), column(&columns.created_at)),
            (_, None) => {
                (column(&columns.created_at), table.numbered_column().filter(|column| column.may_select))
            }
        };
        let terms: String = first.into_iter().chain(then).map(by).collect();
        // System columns need the right to read the whole table.
        let terms = terms + if table.may_select { "tableoid, ctid" } else { "" };
        format!(" ORDER BY {}", terms.trim_end_matches(", "))
    }
}

/// The SQL expression for a column's text. A cast may call a function of the type's owner (CREATE CAST) with the role's rights, so
/// types that are not PostgreSQL's own go through their output function.
fn text_of(table: &TableFacts, column: &str) -> String {
    let name = identifier(column);
    match table.column(column) {
        Some(facts) if facts.is_built_in() => format!("{name}::text"),
        _ => format!("format('%s', {name})"),
    }
}

fn there<'a>(table: &TableFacts, column: &'a OptionalColumn) -> Option<&'a str> {
    column.name().filter(|name| table.column(name).is_some())
}

/// One aggregate, written `TYPE/ID`. The id may have slashes, the type may not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aggregate {
    /// Value of the column `aggregate_type`.
    pub kind: String,
    /// Value of the column `aggregate_id`.
    pub id: String,
}

impl FromStr for Aggregate {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('/') {
            Some((kind, id)) if !kind.is_empty() && !id.is_empty() => {
                Ok(Self { kind: kind.to_owned(), id: id.to_owned() })
            }
            _ => Err("not TYPE/ID, such as Order/42"),
        }
    }
}

impl fmt::Display for Aggregate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind, self.id)
    }
}

/// A selection of rows; by default all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Selects rows created at this time or later, or at an unknown time.
    pub since: Option<Timestamp>,
    /// Selects rows of one aggregate.
    pub aggregate: Option<Aggregate>,
}

impl Selection {
    /// Checks that the table has the columns for the selection.
    ///
    /// # Errors
    /// [`SnapshotError::NoTimes`] and [`SnapshotError::NoZone`].
    pub(crate) fn validate(
        &self,
        database: &SourceDatabase,
        table: &TableFacts,
        columns: &ColumnNames,
    ) -> Result<(), SnapshotError> {
        self.clause(database, table, columns).map(drop)
    }

    fn clause(
        &self,
        database: &SourceDatabase,
        table: &TableFacts,
        columns: &ColumnNames,
    ) -> Result<String, SnapshotError> {
        let (name, RowRules { unpublished, created_at_zone, .. }) = (&database.table, &database.rows);
        let mut conditions = Vec::new();
        if let Some(Timestamp(micros)) = self.since {
            let column = columns.created_at.name().and_then(|name| table.column(name));
            let column = column.ok_or_else(|| SnapshotError::NoTimes(name.clone()))?;
            let quoted = identifier(&column.name);
            // PostgreSQL reads an hour that the clocks repeat as its second passage, so no row of it is left out.
            let time = match created_at_zone {
                _ if column.is_timestamptz() => quoted.clone(),
                Some(zone) => format!("{quoted} AT TIME ZONE {}", literal(zone)),
                None => return Err(SnapshotError::NoZone(name.clone())),
            };
            conditions.push(format!(
                "({time} >= timestamptz 'epoch' + {micros} * interval '1 microsecond' OR {quoted} IS NULL)"
            ));
        }
        // The condition has its own lines, because it may end in a comment.
        conditions.extend(unpublished.as_ref().map(|condition| format!("((\n{condition}\n) IS NOT FALSE)")));
        if let Some(Aggregate { kind, id }) = &self.aggregate {
            for (column, value) in [(&columns.aggregate_type, kind), (&columns.aggregate_id, id)] {
                conditions.push(format!("{} = {}", text_of(table, column), literal(value)));
            }
        }
        if conditions.is_empty() {
            return Ok(String::new());
        }
        Ok(format!(" WHERE {}", conditions.join(" AND ")))
    }
}

/// The way in which the server keeps rows that are not read yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RowHold {
    /// A copy in temporary files of the server, unless the table is too large. If the server has no room for the copy
    /// ([`SnapshotError::NoRoomForCopy`]), a transaction replaces it.
    Copy,
    /// An open transaction, which locks the table (ACCESS SHARE) and holds vacuum back.
    Transaction,
}

/// Largest table whose rows are copied. A copy takes that much of the server's disk, and sorting it the same again.
const COPY_BYTES_MAX: i64 = 8 << 30;

impl RowHold {
    /// The other way to hold rows after a failed copy; `None` after any other error.
    pub(crate) fn instead(self, table: &TableName, error: &SnapshotError) -> Option<Self> {
        let SnapshotError::NoRoomForCopy(cause) = error else { return None };
        if self == RowHold::Transaction {
            return None;
        }
        tracing::warn!(
            table = table.quoted(),
            "{error} ({cause}). outboxd reads them in one transaction instead: {WHILE_HELD}"
        );
        Some(RowHold::Transaction)
    }
}

/// Effect of a reading transaction on other sessions.
const WHILE_HELD: &str = "until the last row is read, ALTER TABLE waits and vacuum removes no dead rows; set a lock_timeout for \
                          migrations meanwhile";

/// Tells whether a copy of the rows fits into our limit and the server's `temp_file_limit`. The copy may be larger than the table,
/// which does not store the default of a column added later, and may be in a more compact encoding.
async fn fits_into_a_copy(client: &Client, table: &TableFacts) -> Result<bool, SnapshotError> {
    let row = client
        .query_typed_one(
            "SELECT size, size <= LEAST($2, (SELECT CASE WHEN setting::int8 < 0 THEN $2 ELSE setting::int8 * 512 END
                                             FROM pg_settings WHERE name = 'temp_file_limit'))
             FROM (SELECT sum(pg_table_size(oid))::int8 FROM
                   (SELECT $1 UNION SELECT relid::oid FROM pg_partition_tree($1::regclass)) family (oid)) whole (size)",
            &[(&table.oid, Type::OID), (&COPY_BYTES_MAX, Type::INT8)],
        )
        .await
        .map_err(failed("reading the size of the table"))?;
    let (bytes, fits): (i64, bool) = (row.get(0), row.get(1));
    if !fits {
        tracing::warn!(
            bytes,
            "the outbox table is too large for a copy of its rows (limit: half of temp_file_limit, or {COPY_BYTES_MAX} bytes), so \
             outboxd reads them in one transaction: {WHILE_HELD}"
        );
    }
    Ok(fits)
}

/// The rows of one snapshot.
pub struct SnapshotRows {
    /// The reading session; `None` after the last row, so that neither a copy nor a transaction stays.
    reader: Option<Reader>,
    order: RowOrder,
    columns: Vec<Column>,
    rules: RowRules,
    point: Lsn,
    taken_at: Timestamp,
    rows: u64,
    encoding: Encoding,
    /// A row whose text is not converted yet.
    untranslated: Option<OutboxRow>,
}

struct Reader {
    client: Client,
    /// The current FETCH.
    batch: Option<Pin<Box<SimpleQueryStream>>>,
}

impl SnapshotRows {
    /// Takes a snapshot of the present state, without a slot. Takes the connection.
    ///
    /// # Errors
    /// [`SnapshotError`].
    pub(crate) async fn of_now(
        mut client: Client,
        database: &SourceDatabase,
        columns: &ColumnNames,
        selection: &Selection,
    ) -> Result<Self, SnapshotError> {
        // On an idle server two replays would have the same positions, and a consumer would take the second for duplicates of the
        // first. The message advances the position; pgoutput does not send it.
        let mark =
            "SELECT CASE WHEN NOT pg_is_in_recovery() THEN pg_logical_emit_message(false, 'outboxd', '') END";
        client.batch_execute(mark).await.map_err(failed("marking the snapshot's position"))?;
        let mut held = RowHold::Copy;
        loop {
            match Self::open_now(&client, database, columns, selection, held).await {
                Ok(rows) => return Ok(rows.read_by(client)),
                Err(error) => {
                    held = held.instead(&database.table, &error).ok_or(error)?;
                    client = anew(client, database).await?;
                }
            }
        }
    }

    async fn open_now(
        client: &Client,
        database: &SourceDatabase,
        columns: &ColumnNames,
        selection: &Selection,
        held: RowHold,
    ) -> Result<Self, SnapshotError> {
        prepare(client).await?;
        let table = described(client, database).await?;
        may_read(database, &table, columns)?;
        let lock = lock(&database.table, &table);
        // The lock comes before the snapshot, to which a table that is rewritten or truncated later looks empty. A role that may
        // read some columns only locks by a query, so READ COMMITTED gives each statement its own snapshot. A cursor keeps its own.
        client
            .batch_execute(&format!("BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY; {lock}"))
            .await
            .map_err(failed("opening the snapshot"))?;
        let table = described(client, database).await?;
        let point = client
            .query_typed_one("SELECT (pg_current_wal_insert_lsn() - '0/0')::int8", &[])
            .await
            .map_err(failed("reading the server's WAL position"))?;
        let point = Lsn(point.get::<_, i64>(0).cast_unsigned());
        Self::declare(client, database, &table, columns, selection, (point, held)).await
    }

    /// Declares the cursor, in a transaction whose snapshot belongs to `point`. No rows come before [`Self::read_by`].
    pub(crate) async fn declare(
        client: &Client,
        database: &SourceDatabase,
        table: &TableFacts,
        columns: &ColumnNames,
        selection: &Selection,
        (point, held): (Lsn, RowHold),
    ) -> Result<Self, SnapshotError> {
        let order = RowOrder::of(table, columns);
        let row = client
            .query_typed_one(
                "SELECT (extract(epoch FROM transaction_timestamp()) * 1000000)::int8, getdatabaseencoding()::text",
                &[],
            )
            .await
            .map_err(failed("reading the server's clock"))?;
        let (taken_at, encoding) =
            (row.get(0), Encoding::of(row.get(1), &database.endpoint, APPLICATION_NAME));
        let select = select(database, table, columns, selection, &encoding)?;
        if database.rows.unpublished.is_some() || database.rows.created_at_zone.is_some() {
            // PREPARE accepts one statement only: the operator's condition must not end it and begin another.
            client.prepare(&select).await.map_err(|error| SnapshotError::Rules(error.into()))?;
        }
        let copies = held == RowHold::Copy && fits_into_a_copy(client, table).await?;
        let hold = if copies { " WITH HOLD" } else { "" };
        client
            .batch_execute(&format!("DECLARE outboxd_rows NO SCROLL CURSOR{hold} FOR {select}"))
            .await
            .map_err(failed("beginning to read the rows"))?;
        if copies {
            // The server copies the rows now. Without a transaction, no lock stays and vacuum is not held back.
            client.batch_execute("COMMIT").await.map_err(|error| {
                SnapshotError::from(failed("copying the rows")(error)).of_copy().of_rules(&database.rows)
            })?;
        }
        Ok(Self {
            reader: None,
            order,
            columns: table.outbox_columns(),
            rules: database.rows.clone(),
            point,
            taken_at: Timestamp(taken_at),
            rows: 0,
            encoding,
            untranslated: None,
        })
    }

    /// Passes the session in which the cursor was declared.
    pub(crate) fn read_by(self, client: Client) -> Self {
        Self { reader: Some(Reader { client, batch: None }), ..self }
    }

    /// Order of the rows.
    pub fn order(&self) -> RowOrder {
        self.order
    }

    /// Columns of the rows, for the mapper.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// Place of the snapshot in WAL: it has every row committed before.
    pub fn point(&self) -> Lsn {
        self.point
    }

    /// Time of the snapshot by the server's clock.
    pub fn taken_at(&self) -> Timestamp {
        self.taken_at
    }

    /// Tells whether the last row has been read.
    pub(crate) fn is_at_end(&self) -> bool {
        self.reader.is_none()
    }

    /// Reads the next row; `None` after the last. Cancel-safe: a dropped future loses no row. Must not be called after an error.
    ///
    /// # Errors
    /// The server's, [`SnapshotError::Rules`] for a row on which the configured condition fails, and [`SnapshotError::TooManyRows`].
    pub async fn next(&mut self) -> Result<Option<OutboxRow>, SnapshotError> {
        const DOING: &str = "reading the rows";
        let failed = |error| SnapshotError::from(failed(DOING)(error)).of_rules(&self.rules);
        loop {
            if let (Some(row), Encoding::Other(translator)) = (&self.untranslated, &mut self.encoding) {
                let texts = row.values.iter().flatten().map(|value| &**value);
                let doing = "converting text";
                translator.learn(texts).await.map_err(|cause| CatalogError::Statement { doing, cause })?;
                let row = self.untranslated.take();
                return Ok(row.map(|row| translated(row, translator)));
            }
            let Some(reader) = &mut self.reader else { return Ok(None) };
            // simple_query_raw sends before it waits, so a dropped future cannot request a batch twice.
            let batch = match &mut reader.batch {
                Some(batch) => batch,
                none => none.insert(Box::pin(
                    reader
                        .client
                        .simple_query_raw(&format!("FETCH {FETCH_ROWS} FROM outboxd_rows"))
                        .await
                        .map_err(&failed)?,
                )),
            };
            match batch.next().await.transpose().map_err(&failed)? {
                Some(SimpleQueryMessage::Row(row)) => {
                    let index = u32::try_from(self.rows).map_err(|_| SnapshotError::TooManyRows)?;
                    let values = values(&row).map_err(&failed)?;
                    if values.len() != self.columns.len() {
                        let what = format!("{} values in a row", values.len());
                        return Err(nonsense(DOING, what).into());
                    }
                    self.rows += 1;
                    let row = OutboxRow {
                        position: Position { commit_lsn: Lsn(self.point.0 - 1), index },
                        committed_at: self.taken_at,
                        values: stored_values::as_stored(&self.encoding, values)
                            .ok_or_else(|| nonsense(DOING, "a value that is not in the hex format"))?,
                    };
                    if matches!(self.encoding, Encoding::Other(_)) {
                        self.untranslated = Some(row);
                        continue;
                    }
                    return Ok(Some(row));
                }
                // A batch that is not full is the last. Dropping the connection ends its transaction.
                Some(SimpleQueryMessage::CommandComplete(rows)) if rows < u64::from(FETCH_ROWS) => {
                    self.reader = None;
                }
                Some(_) => {}
                None => reader.batch = None,
            }
        }
    }
}

/// The statement that reads the selected rows in their order.
fn select(
    database: &SourceDatabase,
    table: &TableFacts,
    columns: &ColumnNames,
    selection: &Selection,
    encoding: &Encoding,
) -> Result<String, SnapshotError> {
    let value = |column: &ColumnFacts| stored_values::select(encoding, &identifier(&column.name));
    let list = table.sent_columns().map(value).collect::<Vec<_>>().join(", ");
    Ok(format!(
        "SELECT {list} FROM {}{}{}{}",
        table.kind.only(),
        database.table.quoted(),
        selection.clause(database, table, columns)?,
        RowOrder::of(table, columns).clause(table, columns),
    ))
}

/// Has the server plan the query with the configured condition and zone, for `check`. Reads no row.
pub(crate) async fn try_rules(
    client: &Client,
    database: &SourceDatabase,
    table: &TableFacts,
    columns: &ColumnNames,
) -> Result<(), SnapshotError> {
    let since = database.rows.created_at_zone.as_ref().and(there(table, &columns.created_at));
    let selection = Selection { since: since.map(|_| Timestamp(0)), aggregate: None };
    let select = select(database, table, columns, &selection, &Encoding::Utf8)?;
    let rules = |error: tokio_postgres::Error| SnapshotError::Rules(error.into());
    client.prepare(&select).await.map_err(rules)?;
    if let Some(zone) = &database.rows.created_at_zone {
        // The plan of a query does not look a zone up.
        client.batch_execute(&format!("SELECT now() AT TIME ZONE {}", literal(zone))).await.map_err(rules)?;
    }
    client.batch_execute(&format!("EXPLAIN {select}")).await.map_err(rules)
}

/// Prepares the session. With row_security = off, hidden rows are an error and not a smaller snapshot. With synchronize_seqscans, a
/// scan might begin in the middle of the table.
pub(crate) async fn prepare(client: &Client) -> Result<(), SnapshotError> {
    client
        .batch_execute(&format!("{NO_TIMEOUTS}; SET row_security = off; SET synchronize_seqscans = off"))
        .await
        .map_err(failed("preparing to read the rows"))?;
    Ok(())
}

/// Opens a session in place of one whose copy has failed. PostgreSQL keeps the temporary file of that copy, and counts it against
/// `temp_file_limit`, until the session ends.
pub(crate) async fn anew(client: Client, database: &SourceDatabase) -> Result<Client, SnapshotError> {
    let name = client
        .query_typed_one("SELECT current_setting('application_name')", &[])
        .await
        .map_err(failed("reading the name of the session"))?;
    drop(client);
    let name: &str = name.get(0);
    database.endpoint.connect_sql(name).await.map_err(|error| SnapshotError::Connect(Box::new(error)))
}

pub(crate) async fn described(
    client: &Client,
    database: &SourceDatabase,
) -> Result<TableFacts, SnapshotError> {
    let name = &database.table;
    let table = outbox_table::table(client, name, &database.publication).await?;
    let table = table.ok_or_else(|| SnapshotError::NoTable(name.clone()))?;
    match table.kind {
        TableKind::Other => Err(SnapshotError::NotATable(name.clone())),
        TableKind::Ordinary | TableKind::Partitioned => Ok(table),
    }
}

/// The statement that locks the table until the transaction ends. LOCK TABLE needs a right to the whole table.
pub(crate) fn lock(name: &TableName, table: &TableFacts) -> String {
    let (only, name) = (table.kind.only(), name.quoted());
    match table.may_select {
        true => format!("LOCK TABLE {only}{name} IN ACCESS SHARE MODE"),
        false => format!("SELECT FROM {only}{name} LIMIT 0"),
    }
}

/// Refuses a role that may not read all rows with all needed columns.
pub(crate) fn may_read(
    database: &SourceDatabase,
    table: &TableFacts,
    columns: &ColumnNames,
) -> Result<(), SnapshotError> {
    let (name, role) = (&database.table, database.endpoint.user());
    let unreadable = table.unreadable(columns);
    if !unreadable.is_empty() {
        return Err(SnapshotError::MayNotRead {
            table: name.clone(),
            columns: unreadable.join(", "),
            grant: grant_select_sql(name, table, columns, role),
        });
    }
    if table.row_security {
        return Err(SnapshotError::RowSecurity { table: name.clone(), cure: see_all_rows_sql(name, role) });
    }
    Ok(())
}

/// The statement that grants a role to read rows: all columns, or only the needed ones if the publication leaves some out.
pub(crate) fn grant_select_sql(
    name: &TableName,
    table: &TableFacts,
    columns: &ColumnNames,
    role: &str,
) -> String {
    let hides = table.columns.iter().any(|column| !column.sent && column.generated.is_none());
    let unreadable = table.unreadable(columns);
    let list = unreadable.into_iter().map(identifier).collect::<Vec<_>>().join(", ");
    let list = if hides && !list.is_empty() { format!(" ({list})") } else { String::new() };
    format!("GRANT SELECT{list} ON {} TO {}", name.quoted(), identifier(role))
}

/// Alternative statements that let a role see all rows.
pub(crate) fn see_all_rows_sql(name: &TableName, role: &str) -> String {
    format!(
        "ALTER ROLE {} BYPASSRLS; or, for every role: ALTER TABLE {} DISABLE ROW LEVEL SECURITY;",
        identifier(role),
        name.quoted()
    )
}

fn translated(row: OutboxRow, translator: &Translator) -> OutboxRow {
    let value = |value: Bytes| if value.is_ascii() { value } else { translator.translate(&value).into() };
    OutboxRow { values: row.values.into_iter().map(|text| text.map(value)).collect(), ..row }
}

/// The values of a row as slices of one buffer, because tokio-postgres does not hand over its own.
fn values(row: &SimpleQueryRow) -> Result<Vec<Option<Bytes>>, tokio_postgres::Error> {
    let texts = (0..row.len()).map(|index| row.try_get(index)).collect::<Result<Vec<_>, _>>()?;
    let mut buffer = BytesMut::with_capacity(texts.iter().flatten().map(|text| text.len()).sum());
    let ranges: Vec<Option<Range<usize>>> = texts
        .into_iter()
        .map(|text| {
            text.map(|text| {
                let start = buffer.len();
                buffer.extend_from_slice(text.as_bytes());
                start..buffer.len()
            })
        })
        .collect();
    let buffer = buffer.freeze();
    Ok(ranges.into_iter().map(|range| range.map(|range| buffer.slice(range))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::outbox_table::TIMESTAMPTZ;

    fn table(columns: &[(&str, u32, bool, Option<i64>)]) -> TableFacts {
        let column =
            |(name, type_oid, nullable, sequence_cache): &(&str, u32, bool, Option<i64>)| ColumnFacts {
                nullable: *nullable,
                sequence_cache: *sequence_cache,
                ..ColumnFacts::sample(name, *type_oid)
            };
        TableFacts::sample(columns.iter().map(column).collect())
    }

    #[test]
    fn rows_without_a_value_come_first_and_ties_are_broken_by_what_counts_rows() {
        let id = ("id", 20, false, Some(1));
        for (columns, expected) in [
            (&[id, ("seq", 20, false, None)][..], " ORDER BY \"seq\""),
            (
                &[id, ("seq", 20, true, None), ("created_at", TIMESTAMPTZ, true, None)],
                " ORDER BY \"seq\" NULLS FIRST, \"created_at\" NULLS FIRST, tableoid, ctid",
            ),
            (&[("seq", 20, true, None)], " ORDER BY \"seq\" NULLS FIRST, tableoid, ctid"),
            (
                &[id, ("created_at", TIMESTAMPTZ, false, None)],
                " ORDER BY \"created_at\", \"id\", tableoid, ctid",
            ),
            (
                &[("id", 20, false, Some(50)), ("created_at", TIMESTAMPTZ, true, None)],
                " ORDER BY \"created_at\" NULLS FIRST, tableoid, ctid",
            ),
            (&[id], ""),
        ] {
            let (table, names) = (table(columns), ColumnNames::default());
            assert_eq!(RowOrder::of(&table, &names).clause(&table, &names), expected);
        }
    }

    #[test]
    fn an_aggregate_is_a_type_and_an_id() {
        let aggregate = |kind: &str, id: &str| Ok(Aggregate { kind: kind.into(), id: id.into() });
        assert_eq!("Order/42".parse(), aggregate("Order", "42"));
        assert_eq!("Order/a/b".parse(), aggregate("Order", "a/b"));
        for bad in ["Order", "Order/", "/42", ""] {
            assert!(bad.parse::<Aggregate>().is_err(), "{bad}");
        }
    }
}
