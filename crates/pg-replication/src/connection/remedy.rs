//! Remedies of failed connections.
//!
//! Texts name libpq's options and, where the caller's configuration has the cure, the caller's own words ([`Words`]).

use super::{
    endpoint::{Endpoint, Words},
    hosting::Hosting,
    wire_error::{AuthenticationError, WireError},
};
use crate::sqlstate;
use diagnostics::remedy::Remedy;

use crate::quote::identifier;

/// Kind of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConnectionKind {
    /// An SQL session.
    Sql,
    /// A session in replication mode.
    Replication,
}

/// Returns the remedy of a failed connection.
pub(crate) fn of_connection(
    kind: ConnectionKind,
    endpoint: &Endpoint,
    hosting: &Hosting,
    cause: &WireError,
) -> Remedy {
    let role = identifier(endpoint.user());
    let database = identifier(endpoint.database());
    let Words { connection_string, password, make_role } = endpoint.words();
    let pooler =
        || format!("put the server's own host and port into {connection_string}, not those of a pooler");
    match cause {
        WireError::Server(server) if server.is_of_pooler() => Remedy::by_person(pooler()),
        WireError::SettingsDropped { .. } => Remedy::by_person(pooler()),
        WireError::Server(server) => match (server.code.as_str(), kind) {
            (sqlstate::INVALID_PASSWORD, _) => Remedy::by_person(format!(
                "correct the user or the password{}; or ALTER ROLE {role} PASSWORD '...'; PostgreSQL refuses a role that does not \
                 exist in the same words: {make_role}",
                place_of_password(endpoint)
            )),
            (sqlstate::INVALID_AUTHORIZATION_SPECIFICATION, _) => Remedy::by_person(format!(
                "if role {role} is missing, {make_role}; otherwise let it into database {database} by a line of pg_hba.conf, \
                 then SELECT pg_reload_conf();"
            )),
            (sqlstate::INVALID_CATALOG_NAME, _) => Remedy::by_person(format!(
                "correct the database in {connection_string}, or CREATE DATABASE {database};"
            )),
            (sqlstate::INSUFFICIENT_PRIVILEGE, ConnectionKind::Replication) => {
                Remedy::by_person(hosting.grant_replication(endpoint.user()))
            }
            (sqlstate::INSUFFICIENT_PRIVILEGE, ConnectionKind::Sql) => {
                Remedy::by_person(format!("GRANT CONNECT ON DATABASE {database} TO {role};"))
            }
            (sqlstate::TOO_MANY_CONNECTIONS, ConnectionKind::Replication) => {
                let raise = hosting.set_parameter("max_wal_senders = N");
                Remedy::by_time(format!("raise max_wal_senders, with N above its current value: {raise}"))
            }
            (sqlstate::TOO_MANY_CONNECTIONS, ConnectionKind::Sql) => {
                Remedy::by_time("raise max_connections, or the CONNECTION LIMIT of the role or the database")
            }
            (sqlstate::CANNOT_CONNECT_NOW, _) => {
                Remedy::by_time("the server is starting or stopping: try again in a moment")
            }
            _ => Remedy::by_time("see the server's log"),
        },
        WireError::Io { doing: "looking up the host name", .. } => {
            Remedy::by_time(format!("correct the host in {connection_string}"))
        }
        WireError::Io { .. } => Remedy::by_time(
            "check that PostgreSQL runs there and listens on this address and port (listen_addresses, port), and check the \
             firewall",
        ),
        WireError::Timeout(_) => {
            Remedy::by_time("check the host, the port, and whether a firewall drops packets")
        }
        WireError::Tls { .. } | WireError::TlsNotOffered => Remedy::by_person(format!(
            "correct sslmode, sslrootcert, sslcert or sslkey in {connection_string}, or the server's certificate"
        )),
        WireError::Endpoint(_) => {
            Remedy::by_person(format!("correct {connection_string}, or the file that it names"))
        }
        WireError::Authentication(error) => Remedy::by_person(match error {
            AuthenticationError::PasswordMissing | AuthenticationError::PasswordFile(_) => {
                format!("set {password}, or correct the password file")
            }
            AuthenticationError::MethodNotAllowed(_) => {
                format!("correct the method in pg_hba.conf, or require_auth in {connection_string}")
            }
            AuthenticationError::ClearTextRefused { .. } | AuthenticationError::Md5Refused { .. } => {
                format!(
                    "set sslmode=verify-full and sslrootcert in {connection_string}; or write scram-sha-256 in pg_hba.conf and set \
                     the role's password again with password_encryption = scram-sha-256"
                )
            }
            _ => "correct the password, or the method in pg_hba.conf".to_owned(),
        }),
        // During a failover the new primary may not be ready yet.
        WireError::SessionNotSuitable { .. } => Remedy::by_time(format!(
            "list the primary's host in {connection_string} too, or remove target_session_attrs"
        )),
        WireError::Closed { .. } | WireError::Protocol(_) | WireError::Sql(_) => {
            Remedy::by_time("check that this is PostgreSQL's port, and see the server's log")
        }
    }
}

fn place_of_password(endpoint: &Endpoint) -> String {
    let Words { connection_string, password, .. } = endpoint.words();
    match endpoint.file_names() {
        None => format!(" in {connection_string} or the password file, or set {password}"),
        Some(files) => format!(" in {files}, which is read for every connection"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::connection::wire_error::ServerError;
    use diagnostics::remedy::Mender;

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

    #[test]
    fn a_cure_names_the_keys_of_the_callers_configuration() {
        let words =
            Words { connection_string: "db.url", password: "db.password", make_role: "run make-role" };
        let endpoint = Endpoint::parse("postgresql://me@h/orders").unwrap().with_words(words);
        let refused = |code: &str| ServerError { code: code.into(), ..ServerError::default() }.into();
        for (cause, expected) in [
            (refused("28P01"), "in db.url or the password file, or set db.password;"),
            (refused("28P01"), "in the same words: run make-role"),
            (refused("28000"), "is missing, run make-role;"),
            (WireError::TlsNotOffered, "in db.url"),
            (AuthenticationError::PasswordMissing.into(), "set db.password, or"),
        ] {
            let cure = of_connection(ConnectionKind::Sql, &endpoint, Hosting::own(), &cause).cure;
            assert!(cure.contains(expected), "{cure}");
        }
    }
}
