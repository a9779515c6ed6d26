//! Remedies of failed commands and statements: one list for `check`, log, `/readyz` and `status`.
//!
//! What the catalog tells before anything fails is judged in [`preflight`](super::preflight), with the same kind of cures.

use pg_replication::{ReplicationError, WireError};

use super::sqlstate;
use diagnostics::remedy::Remedy;

/// Remedy of what went wrong on a replication connection, where it is known.
pub(crate) fn of_replication(error: &ReplicationError) -> Option<Remedy> {
    match error {
        ReplicationError::Connect(error) => Some((*error.remedy).clone()),
        _ => error.cause().and_then(of_statement),
    }
}

/// Remedy of a statement or command that the server refused, where there is one that `check` does not know better from the catalog.
pub(crate) fn of_statement(cause: &WireError) -> Option<Remedy> {
    match cause.sqlstate()? {
        sqlstate::INSUFFICIENT_PRIVILEGE => {
            Some(Remedy::by_person("`outboxd check` prints the statement that grants what is missing"))
        }
        // The next attempt looks at the catalog.
        sqlstate::UNDEFINED_TABLE | sqlstate::INVALID_SCHEMA_NAME | sqlstate::UNDEFINED_COLUMN => {
            Some(Remedy::by_time("`outboxd check` says what is missing"))
        }
        sqlstate::READ_ONLY_SQL_TRANSACTION => Some(Remedy::by_time(
            "the connection leads to a server that takes no writes: with several hosts, set target_session_attrs=read-write",
        )),
        sqlstate::DISK_FULL => Some(Remedy::by_time("make room on the disk of the server")),
        sqlstate::LOCK_NOT_AVAILABLE => {
            Some(Remedy::by_time("somebody keeps the table locked: pg_locks shows who, end that transaction"))
        }
        sqlstate::QUERY_CANCELED => Some(Remedy::by_time(
            "see what PostgreSQL is waiting for (pg_stat_activity, application_name outboxd...)",
        )),
        _ => None,
    }
}

/// Remedy of rows that could not be parked.
pub(crate) fn of_parking(cause: &WireError) -> Option<Remedy> {
    let sqlstate = cause.sqlstate()?;
    of_statement(cause).or_else(|| {
        Some(Remedy::by_time(match sqlstate {
            // Class of statements that do not fit what they are about.
            code if code.starts_with("42") => {
                "outboxd_parked is not as outboxd makes it: `outboxd setup --print-sql` has the statement"
            }
            _ => "see PostgreSQL's log",
        }))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use pg_replication::ServerError;

    #[test]
    fn a_row_that_cannot_be_parked_has_the_cure_of_its_statement_or_one_of_its_own() {
        for (code, expected) in [
            ("42501", "`outboxd check` prints the statement"),
            ("42P01", "`outboxd check` says"),
            ("42804", "outboxd_parked is not as outboxd makes it"),
            ("25006", "target_session_attrs=read-write"),
            ("53100", "disk"),
            ("55P03", "locked: pg_locks"),
            ("57014", "pg_stat_activity"),
            ("XX000", "log"),
        ] {
            let error = WireError::from(ServerError { code: code.into(), ..ServerError::default() });
            let remedy = of_parking(&error).unwrap();
            assert!(remedy.cure.contains(expected), "{code}: {}", remedy.cure);
        }
    }
}
