//! Open transactions that have written something, in every database of the server. PostgreSQL creates a slot only after all that
//! were open at the beginning have ended.
//!
//! PostgreSQL shows the start time of a transaction only to members of `pg_read_all_stats` and of the session's role.

use std::fmt;

use tokio_postgres::Client;

use super::temporary::temporary_name;
use crate::postgres::{
    sql_text::{identifier, literal},
    statement::{CatalogError, nonsense, text_rows},
};
use pg_replication::{ReplicationConnection, ReplicationError};

const DOING: &str = "looking for open transactions";

/// Number of transactions that a text names. A server may have hundreds open.
const NAMED_MAX: usize = 5;

/// Age in seconds at which `check` reports a transaction.
const OLD_S: u32 = 5;

/// An open transaction that has written something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenTransaction {
    /// Owner.
    pub of: Owner,
    /// Time of BEGIN or PREPARE; `None` if this role may not see it.
    pub since: Option<String>,
    /// Database.
    pub database: Option<String>,
    /// Role.
    pub user: Option<String>,
}

/// Owner of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A session.
    Session {
        /// Server process.
        pid: i32,
        /// Application name of the client.
        application: String,
    },
    /// No session: the transaction is prepared (PREPARE TRANSACTION), and outlives sessions and restarts.
    Prepared {
        /// Global identifier.
        gid: String,
    },
}

impl fmt::Display for OpenTransaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.since.as_deref().unwrap_or("a time hidden without pg_read_all_stats"))?;
        match &self.of {
            Owner::Session { pid, .. } => write!(f, " (server process {pid}")?,
            Owner::Prepared { gid } => write!(f, " (prepared, gid {}", literal(gid))?,
        }
        for (what, name) in [("database", &self.database), ("user", &self.user)] {
            if let Some(name) = name {
                write!(f, ", {what} \"{name}\"")?;
            }
        }
        match &self.of {
            Owner::Session { application, .. } if !application.is_empty() => {
                write!(f, ", application \"{application}\")")
            }
            _ => f.write_str(")"),
        }
    }
}

impl OpenTransaction {
    /// The statement that ends the transaction.
    fn end(&self) -> String {
        match (&self.of, &self.database) {
            (Owner::Session { pid, .. }, _) => format!("SELECT pg_terminate_backend({pid});"),
            (Owner::Prepared { gid }, Some(database)) => {
                format!("in database {}: ROLLBACK PREPARED {};", identifier(database), literal(gid))
            }
            (Owner::Prepared { gid }, None) => format!("ROLLBACK PREPARED {};", literal(gid)),
        }
    }
}

/// The transactions as one text, the oldest first: "transactions open since ...".
pub fn named(transactions: &[OpenTransaction]) -> String {
    let named: Vec<String> = transactions.iter().take(NAMED_MAX).map(OpenTransaction::to_string).collect();
    let more = match transactions.len().saturating_sub(NAMED_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("transactions open since {}{more}", named.join(", "))
}

/// The cure, with statements that end the transactions.
pub fn cure(transactions: &[OpenTransaction]) -> String {
    // A transaction of unknown age may be short: the process may do other work when an operator runs the statement.
    let old = transactions.iter().take(NAMED_MAX).filter(|one| one.since.is_some());
    let ends: Vec<String> = old.map(OpenTransaction::end).collect();
    match ends.as_slice() {
        [] => "if they stay open, commit or roll them back in their sessions".to_owned(),
        ends => format!("commit or roll them back in their sessions, or end them: {}", ends.join(" ")),
    }
}

/// The reason why the slot is not created yet; `None` if its creation waits for no transaction.
pub fn reason(slot: &str, transactions: &[OpenTransaction]) -> Option<String> {
    (!transactions.is_empty()).then(|| {
        format!(
            "slot {slot} is not created yet, so no message is published: PostgreSQL waits for {}; {}",
            named(transactions),
            cure(transactions)
        )
    })
}

/// Transactions that have been open for some seconds or for an unknown time, the oldest first. The creation of a slot would wait
/// for them.
///
/// # Errors
/// [`CatalogError`].
pub async fn old(client: &Client) -> Result<Vec<OpenTransaction>, CatalogError> {
    let sql = format!(
        "{OPEN} {COLUMNS} FROM open WHERE since IS NULL OR clock_timestamp() - since > interval '{OLD_S} s' ORDER BY age DESC"
    );
    read(client, &sql).await
}

/// Transactions that the creation of a slot waits for, the oldest first. Empty if nobody creates it, or it waits for none now.
///
/// # Errors
/// [`CatalogError`].
pub async fn awaited(client: &Client, slot: &str) -> Result<Vec<OpenTransaction>, CatalogError> {
    read(client, &awaited_sql(slot)).await
}

/// [`awaited`] over a replication connection.
///
/// # Errors
/// [`ReplicationError::Command`].
pub(crate) async fn awaited_by_replication(
    connection: &mut ReplicationConnection,
    slot: &str,
) -> Result<Vec<OpenTransaction>, ReplicationError> {
    let rows = connection.query(&awaited_sql(slot)).await?;
    let unexpected = || ReplicationError::unexpected_answer(DOING, "a transaction");
    rows.iter().map(|row| parse(row).ok_or_else(unexpected)).collect()
}

async fn read(client: &Client, sql: &str) -> Result<Vec<OpenTransaction>, CatalogError> {
    let rows = text_rows(client, DOING, sql).await?;
    let unexpected = || nonsense(DOING, format!("{rows:?}"));
    rows.iter().map(|row| parse(row).ok_or_else(unexpected)).collect()
}

const OPEN: &str = "WITH open AS (
         SELECT age(backend_xid) AS age, xact_start AS since, pid, NULL AS gid, datname::text AS database,
                usename::text AS role, application_name AS application
         FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()
         UNION ALL
         SELECT age(transaction), prepared, NULL, gid, database::text, owner::text, NULL FROM pg_prepared_xacts)";

const COLUMNS: &str = "SELECT pid, gid, to_char(since AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), database, role, application";

/// `SnapBuildWaitSnapshot` (snapbuild.c) waits for the running transactions one after the other, in no order. The result has those
/// that are at least as old as the one that it waits for now, and those that began before the creation did.
fn awaited_sql(slot: &str) -> String {
    format!(
        "{OPEN}, maker AS (
             SELECT s.active_pid AS pid, a.query_start AS began
             FROM pg_replication_slots s LEFT JOIN pg_stat_activity a ON a.pid = s.active_pid
             WHERE s.slot_name IN ({}, {}) AND s.slot_type = 'logical' AND s.confirmed_flush_lsn IS NULL),
         waiting AS (
             SELECT max(age(l.transactionid)) AS age, min(maker.began) AS began FROM maker JOIN pg_locks l ON l.pid = maker.pid
             WHERE l.locktype = 'transactionid' AND NOT l.granted)
         {COLUMNS} FROM open, waiting WHERE open.age >= waiting.age OR waiting.age IS NOT NULL AND open.since < waiting.began
         ORDER BY open.age DESC",
        literal(slot),
        literal(&temporary_name(slot))
    )
}

fn parse(row: &[Option<String>]) -> Option<OpenTransaction> {
    let [pid, gid, since, database, user, application] = row else { return None };
    let of = match (pid, gid) {
        (Some(pid), _) => {
            Owner::Session { pid: pid.parse().ok()?, application: application.clone().unwrap_or_default() }
        }
        (None, Some(gid)) => Owner::Prepared { gid: gid.clone() },
        (None, None) => return None,
    };
    Some(OpenTransaction { of, since: since.clone(), database: database.clone(), user: user.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(pid: i32, since: Option<&str>) -> OpenTransaction {
        let of = Owner::Session { pid, application: "psql".into() };
        let [database, user] = ["billing", "app"].map(|name| Some(name.to_owned()));
        OpenTransaction { of, since: since.map(str::to_owned), database, user }
    }

    #[test]
    fn an_open_transaction_is_named_with_what_ends_it() {
        let of = Owner::Prepared { gid: "it's".into() };
        let prepared = OpenTransaction { of, ..session(0, Some("2026-01-31T08:00:00Z")) };
        let transactions = [prepared, session(42, None)];
        let reason = reason("outboxd_orders", &transactions).unwrap_or_default();
        for part in [
            "transactions open since 2026-01-31T08:00:00Z (prepared, gid 'it''s', database \"billing\", user \"app\")",
            "a time hidden without pg_read_all_stats (server process 42, database \"billing\", user \"app\", application \"psql\")",
            "in database \"billing\": ROLLBACK PREPARED 'it''s';",
        ] {
            assert!(reason.contains(part), "{part}: {reason}");
        }
        assert!(
            !reason.contains("pg_terminate_backend"),
            "a transaction of unknown age may be short: {reason}"
        );
        assert!(cure(&[session(42, Some("2026-01-31T08:00:00Z"))]).contains("pg_terminate_backend(42)"));
        assert_eq!(super::reason("outboxd_orders", &[]), None);
    }

    #[test]
    fn of_many_open_transactions_the_oldest_are_named() {
        let many: Vec<_> = (0..100).map(|pid| session(pid, None)).collect();
        let named = named(&many);
        assert!(named.contains("process 4,") && !named.contains("process 5,"), "{named}");
        assert!(named.ends_with(" and 95 more"), "{named}");
    }
}
