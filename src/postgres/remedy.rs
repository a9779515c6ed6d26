//! Remedies of refused connections and failed statements: one list for `check`, log, `/readyz` and `status`.
//!
//! What the catalog tells before anything fails is judged in [`preflight`](super::preflight), with the same kind of cures.

use super::{
    endpoint::Endpoint,
    hosting::Hosting,
    sql_text::identifier,
    wire_error::{AuthenticationError, WireError},
};
use crate::remedy::Remedy;

/// The cure for a pooler in PostgreSQL's place.
const POOLER: &str = "put the server's own host and port into postgres.url, not those of a pooler";

/// Kind of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConnectionKind {
    /// For SQL.
    Sql,
    /// In replication mode.
    Replication,
}

/// Remedy of a connection that could not be made. SQLSTATEs are those of the manual's appendix "PostgreSQL Error Codes".
pub(super) fn of_connection(
    kind: ConnectionKind,
    endpoint: &Endpoint,
    hosting: &Hosting,
    cause: &WireError,
) -> Remedy {
    let role = identifier(endpoint.user());
    let database = identifier(endpoint.database());
    match cause {
        WireError::Server(server) if server.is_of_pooler() => Remedy::by_person(POOLER),
        WireError::SettingsDropped { .. } => Remedy::by_person(POOLER),
        WireError::Server(server) => match (server.code.as_str(), kind) {
            ("28P01", _) => Remedy::by_person(format!(
                "correct the user or the password{}; or ALTER ROLE {role} PASSWORD '...';",
                place_of_password(endpoint)
            )),
            ("28000", _) => Remedy::by_person(format!(
                "if role {role} is missing, make it with the statements of `outboxd setup --print-sql`; otherwise let it \
                 into database {database} by a line of pg_hba.conf, then SELECT pg_reload_conf();"
            )),
            ("3D000", _) => Remedy::by_person(format!(
                "correct the database in postgres.url, or CREATE DATABASE {database};"
            )),
            ("42501", ConnectionKind::Replication) => {
                Remedy::by_person(hosting.grant_replication(endpoint.user()))
            }
            ("42501", ConnectionKind::Sql) => {
                Remedy::by_person(format!("GRANT CONNECT ON DATABASE {database} TO {role};"))
            }
            ("53300", ConnectionKind::Replication) => {
                let raise = hosting.set_parameter("max_wal_senders = N");
                Remedy::by_time(format!("raise max_wal_senders, with N above what it is: {raise}"))
            }
            ("53300", ConnectionKind::Sql) => {
                Remedy::by_time("raise max_connections, or the CONNECTION LIMIT of the role or the database")
            }
            ("57P03", _) => Remedy::by_time("the server is starting or stopping: try again in a moment"),
            _ => Remedy::by_time("see the server's log"),
        },
        WireError::Io { doing: "looking up the host name", .. } => {
            Remedy::by_time("correct the host in postgres.url")
        }
        WireError::Io { .. } => Remedy::by_time(
            "check that PostgreSQL runs there, that it listens on this address and port (listen_addresses, port), and the \
             firewall",
        ),
        WireError::Timeout(_) => {
            Remedy::by_time("check host and port, and whether a firewall drops the packets")
        }
        WireError::Tls { .. } | WireError::TlsNotOffered => Remedy::by_person(
            "correct sslmode, sslrootcert, sslcert or sslkey in postgres.url, or the server's certificate",
        ),
        WireError::Endpoint(_) => Remedy::by_person("correct postgres.url, or the file it names"),
        WireError::Authentication(error) => Remedy::by_person(match error {
            AuthenticationError::PasswordMissing | AuthenticationError::PasswordFile(_) => {
                "set postgres.password or postgres.password_file, or correct the password file"
            }
            AuthenticationError::MethodNotAllowed(_) => {
                "correct the method in pg_hba.conf, or require_auth in postgres.url"
            }
            AuthenticationError::ClearTextRefused { .. } | AuthenticationError::Md5Refused { .. } => {
                "set sslmode=verify-full and sslrootcert in postgres.url; or write scram-sha-256 in pg_hba.conf and set the role's \
                 password again with password_encryption = scram-sha-256"
            }
            _ => "correct the password, or the method in pg_hba.conf",
        }),
        // A failover may be under way.
        WireError::SessionNotSuitable { .. } => {
            Remedy::by_time("list the primary's host in postgres.url too, or remove target_session_attrs")
        }
        WireError::Closed { .. } | WireError::Protocol(_) | WireError::Sql(_) => {
            Remedy::by_time("check that the port is PostgreSQL's, and see the server's log")
        }
    }
}

/// Remedy of a statement or command that the server refused, where there is one that `check` does not know better from the catalog.
pub(super) fn of_statement(cause: &WireError) -> Option<Remedy> {
    match cause.sqlstate()? {
        // insufficient_privilege
        "42501" => {
            Some(Remedy::by_person("`outboxd check` prints the statement that grants what is missing"))
        }
        // undefined_table, invalid_schema_name, undefined_column: the next attempt looks at the catalog.
        "42P01" | "3F000" | "42703" => Some(Remedy::by_time("`outboxd check` says what is missing")),
        // read_only_sql_transaction
        "25006" => Some(Remedy::by_time(
            "the connection leads to a server that takes no writes: with several hosts, set target_session_attrs=read-write",
        )),
        // disk_full
        "53100" => Some(Remedy::by_time("make room on the disk of the server")),
        // lock_not_available
        "55P03" => {
            Some(Remedy::by_time("somebody keeps the table locked: pg_locks shows who, end that transaction"))
        }
        // query_canceled
        "57014" => Some(Remedy::by_time(
            "see what PostgreSQL is waiting for (pg_stat_activity, application_name outboxd...)",
        )),
        _ => None,
    }
}

/// Remedy of rows that could not be parked.
pub(super) fn of_parking(cause: &WireError) -> Option<Remedy> {
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

/// The files that hold the connection string and the password.
pub(super) fn file_names(endpoint: &Endpoint) -> Option<String> {
    let files: Vec<String> = endpoint.files().iter().map(|file| file.display().to_string()).collect();
    (!files.is_empty()).then(|| files.join(" and "))
}

fn place_of_password(endpoint: &Endpoint) -> String {
    match file_names(endpoint) {
        None => " in postgres.url, postgres.password or the password file".to_owned(),
        Some(files) => format!(" in {files}, which outboxd reads for every connection"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{postgres::wire_error::ServerError, remedy::Mender};

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

    #[test]
    fn a_refusal_names_the_statement_that_lifts_it_and_whether_somebody_has_to() {
        use ConnectionKind::{Replication, Sql};
        let endpoint = Endpoint::parse("postgresql://me:s3cret@h/orders").unwrap();
        for (code, kind, expected, mender) in [
            ("28P01", Sql, r#"ALTER ROLE "me" PASSWORD"#, Mender::Person),
            ("28000", Sql, r#"into database "orders" by a line of pg_hba.conf"#, Mender::Person),
            ("3D000", Sql, r#"CREATE DATABASE "orders""#, Mender::Person),
            ("42501", Sql, r#"GRANT CONNECT ON DATABASE "orders" TO "me""#, Mender::Person),
            ("42501", Replication, r#"ALTER ROLE "me" REPLICATION"#, Mender::Person),
            ("53300", Sql, "max_connections", Mender::Time),
            ("53300", Replication, "max_wal_senders", Mender::Time),
            ("57P03", Sql, "try again", Mender::Time),
            ("XX000", Sql, "log", Mender::Time),
        ] {
            let error = WireError::from(ServerError { code: code.into(), ..ServerError::default() });
            let remedy = of_connection(kind, &endpoint, Hosting::own(), &error);
            assert!(remedy.cure.contains(expected), "{code}: {}", remedy.cure);
            assert_eq!(remedy.mender, mender, "{code}");
            assert!(!remedy.cure.contains("s3cret"), "{}", remedy.cure);
        }
    }
}
