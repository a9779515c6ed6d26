//! Remedies of failed commands and statements, by SQLSTATE: one list for `check`, log, `/readyz` and `status`.
//!
//! [`preflight`](crate::preflight) has the remedies of faults that the catalog shows before a statement fails.

use pg_replication::{ReplicationError, WireError};

use super::sqlstate;
use diagnostics::remedy::Remedy;

/// Remedy of a failure on a replication connection, if known.
pub(crate) fn of_replication(error: &ReplicationError) -> Option<Remedy> {
    match error {
        ReplicationError::Connect(error) => Some((*error.remedy).clone()),
        _ => error.cause().and_then(of_statement),
    }
}

/// Remedy of a refused statement or command, if known.
pub(crate) fn of_statement(cause: &WireError) -> Option<Remedy> {
    match cause.sqlstate()? {
        sqlstate::INSUFFICIENT_PRIVILEGE => {
            Some(Remedy::by_person("`outboxd check` prints the missing GRANT"))
        }
        // By time, because the next attempt reads the catalog again.
        sqlstate::UNDEFINED_TABLE | sqlstate::INVALID_SCHEMA_NAME | sqlstate::UNDEFINED_COLUMN => {
            Some(Remedy::by_time("`outboxd check` names what is missing, with its cure"))
        }
        sqlstate::READ_ONLY_SQL_TRANSACTION => Some(Remedy::by_time(
            "the connection leads to a read-only server, such as a standby: with several hosts in postgres.url, set \
             target_session_attrs=read-write",
        )),
        sqlstate::DISK_FULL => Some(Remedy::by_time("free space on the disk of the PostgreSQL server")),
        sqlstate::LOCK_NOT_AVAILABLE => Some(Remedy::by_time(
            "another session keeps the table locked: find it in pg_locks and end its transaction",
        )),
        sqlstate::QUERY_CANCELED => Some(Remedy::by_time(
            "see what PostgreSQL is waiting for (pg_stat_activity, application_name outboxd...)",
        )),
        _ => None,
    }
}

/// Remedy of a failure to park rows.
pub(crate) fn of_parking(cause: &WireError) -> Option<Remedy> {
    let sqlstate = cause.sqlstate()?;
    of_statement(cause).or_else(|| {
        Some(Remedy::by_time(match sqlstate {
            // Class 42: the statement does not fit the table.
            code if code.starts_with("42") => {
                "table outboxd_parked is not as outboxd creates it: `outboxd setup --print-sql` prints the statement"
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
            ("42501", "`outboxd check` prints the missing GRANT"),
            ("42P01", "`outboxd check` names what is missing"),
            ("42804", "outboxd_parked is not as outboxd creates it"),
            ("25006", "target_session_attrs=read-write"),
            ("53100", "disk"),
            ("55P03", "locked: find it in pg_locks"),
            ("57014", "pg_stat_activity"),
            ("XX000", "log"),
        ] {
            let error = WireError::from(ServerError { code: code.into(), ..ServerError::default() });
            let remedy = of_parking(&error).unwrap();
            assert!(remedy.cure.contains(expected), "{code}: {}", remedy.cure);
        }
    }
}
