//! Looks at everything that `run` needs of a database, finds every problem in one go, and changes nothing.
//!
//! [`preflight`] judges what the catalog says; added here is whether the catalog can be reached at all, whether the
//! server gives us a replication connection, whether the slot is the one that was there before, and whether the templates
//! find their columns.

use super::{
    SourceDatabase,
    catalog::{CatalogError, Facts, TableFacts},
    continuity::{Continuity, Evidence},
    error::{AuthenticationError, Chain, ConnectError, WireError},
    hosting::Hosting,
    preflight::{self, Check, Problem},
    replication::{ReplicationConnection, ReplicationError, SystemIdentity},
    slot_record::{self, EvidenceError, SlotRecord},
    snapshot::{self, RowRules},
    sql_text::identifier,
};
use crate::outbox::{Column, ColumnNames, Mapping, MissingColumn};
use tokio_postgres::Client;

const CONNECTION: &str = "connection";
const REPLICATION: &str = "replication connection";
const INSUFFICIENT_PRIVILEGE: &str = "42501";
/// The cure for a pooler in PostgreSQL's place.
const POOLER: &str = "put the server's own host and port into postgres.url, not those of a pooler";

/// Findings about one source.
pub struct Inspection {
    /// Everything that was looked at.
    pub checks: Vec<Check>,
    /// Set when ids of messages are numbers of the table, see [`Mapping::ids_are_numbers`]; `None` when that could not be seen.
    pub ids_are_numbers: Option<bool>,
}

/// Connects in both ways and closes both connections. A database that cannot be reached gives one check, which failed.
pub async fn inspect(database: &SourceDatabase, mapping: &Mapping, application_name: &str) -> Inspection {
    let mut ids_are_numbers = None;
    let mut hosting = Hosting::own();
    let client = match database.endpoint.connect_sql(application_name).await {
        Ok(client) => client,
        Err(error) => {
            return Inspection {
                checks: vec![unreachable(CONNECTION, database, hosting, &error)],
                ids_are_numbers,
            };
        }
    };
    let mut checks = vec![Check::passed(CONNECTION, as_role(database))];
    match Facts::read(&client, &database.table, &database.publication, &database.slot).await {
        Ok(facts) => {
            hosting = facts.server.hosting;
            checks.extend(preflight::checks(database, &mapping.columns, &facts));
            if let Some(table) = &facts.table {
                let columns = table.outbox_columns();
                checks.push(templates(database, mapping, &facts, &columns));
                ids_are_numbers = Some(mapping.ids_are_numbers(&columns));
                checks.extend(rules(&client, database, table, &mapping.columns).await);
            }
        }
        Err(error) => checks.push(unreadable(&error)),
    }
    let connection = ReplicationConnection::connect(database, application_name).await;
    let evidence = match connection {
        Ok(mut connection) => Evidence::gather(&client, &mut connection, database, None).await,
        Err(error) => Err(error.into()),
    };
    match evidence {
        Ok(evidence) => {
            let SystemIdentity { system_id, timeline, xlogpos, .. } = &evidence.server;
            let server = format!("system {system_id}, timeline {timeline}, WAL at {xlogpos}");
            checks.push(Check::passed(REPLICATION, server));
            checks.push(continuity(mapping, &database.slot, &evidence));
            checks.extend(database.cleanup.and_then(|_| unpublished_rows(database, &evidence)));
        }
        Err(EvidenceError::Replication(ReplicationError::Connect(error))) => {
            checks.push(unreachable(REPLICATION, database, hosting, &error));
        }
        Err(error) => {
            checks.push(Check::failed(REPLICATION, Chain(&error).to_string(), "see the server's log"));
        }
    }
    Inspection { checks, ids_are_numbers }
}

/// Check that the ids of a source's messages tell them from those of the `others`, sources that have numbers for ids, too.
pub fn message_ids(ids_are_numbers: bool, others: &[&str]) -> Check {
    const NAME: &str = "message ids";
    match (ids_are_numbers, others) {
        (false, _) => Check::passed(NAME, "are not mere numbers of the table"),
        (true, []) => Check::passed(
            NAME,
            "are numbers, unique in this table only: an inbox that takes messages of another outbox, too, needs outbox-source in \
             its key",
        ),
        (true, others) => Check::warning(
            NAME,
            format!(
                "are numbers, as those of {}: both send the same ones, and an inbox without outbox-source in its key takes the \
                 second message for a copy of the first and drops it",
                others.join(", ")
            ),
            "consumers of both need (source, message_id) as the key (`outboxd schema` prints it); or set message.id = \
             \"{source}-{id}\", which changes the ids of copies that are sent again",
        ),
    }
}

/// Check that the server takes the condition and the zone of the configuration.
async fn rules(
    client: &Client,
    database: &SourceDatabase,
    table: &TableFacts,
    columns: &ColumnNames,
) -> Option<Check> {
    const NAME: &str = "selection of rows";
    let RowRules { unpublished, created_at_zone, .. } = &database.rows;
    let given = [
        unpublished.as_ref().map(|_| "outbox.unpublished"),
        created_at_zone.as_ref().map(|_| "outbox.created_at_zone"),
    ];
    let given = given.into_iter().flatten().collect::<Vec<_>>().join(" and ");
    if given.is_empty() {
        return None;
    }
    Some(match snapshot::try_rules(client, database, table, columns).await {
        Ok(()) => Check::passed(NAME, format!("the server takes {given}")),
        Err(error) => Check::failed(
            NAME,
            Chain(&error).to_string(),
            format!("correct {given}: an SQL condition on the table's columns, a zone of pg_timezone_names"),
        ),
    })
}

fn as_role(database: &SourceDatabase) -> String {
    let role = format!("as role {}", identifier(database.endpoint.user()));
    match file_names(database) {
        None => role,
        Some(files) => format!("{role}; read for every connection: {files}"),
    }
}

/// The files that hold the connection string and the password.
fn file_names(database: &SourceDatabase) -> Option<String> {
    let files: Vec<String> =
        database.endpoint.files().iter().map(|file| file.display().to_string()).collect();
    (!files.is_empty()).then(|| files.join(" and "))
}

/// Whether the slot is the one that was there before.
fn continuity(mapping: &Mapping, slot: &str, evidence: &Evidence) -> Check {
    const NAME: &str = "continuity";
    match evidence.judge(None) {
        Ok(Continuity::First) => Check::passed(NAME, "a first slot: nothing is recorded of an earlier one"),
        Ok(Continuity::Adopted) => Check::passed(NAME, "nothing is recorded of the slot yet"),
        Ok(Continuity::Same) => Check::passed(NAME, "the slot is the one that was there before"),
        Err(gap) => Check::failed(
            NAME,
            format!("{slot} {gap}"),
            format!(
                "`outboxd recover --source {}` makes a new slot and publishes the rows that the table still has",
                mapping.source
            ),
        ),
    }
}

/// Whether clean-up may take what is in the table for published.
fn unpublished_rows(database: &SourceDatabase, evidence: &Evidence) -> Option<Check> {
    const NAME: &str = "unpublished rows";
    let record = evidence.record.as_ref().filter(|record| !record.is_torn_down());
    let altered = record.is_some_and(|record| {
        record.published_by.zip(evidence.publishing.by()).is_some_and(|(before, now)| before != now)
    });
    let why = match (record, &evidence.slot) {
        (None, Some(_)) => {
            "outboxd has not made the slot, so rows that are in the table when it begins may be older than it"
        }
        (None, None) => return None,
        (Some(SlotRecord { unaccounted: Some(why), .. }), _) => why,
        (Some(_), _) if altered => {
            "the publication was altered, and may have published no inserts for a time"
        }
        (Some(_), _) => return None,
    };
    Some(Check::warning(
        NAME,
        format!("{why}; clean-up removes nothing before somebody has looked after them"),
        format!(
            "when you have, and `run` has begun: {}; then restart outboxd",
            slot_record::account_sql(database)
        ),
    ))
}

fn unreadable(error: &CatalogError) -> Check {
    Check::failed(
        "catalog",
        Chain(error).to_string(),
        "outboxd needs PostgreSQL 13 or later, and reads the system catalogs",
    )
}

/// The check that fails when the server refuses the role a replication connection, although it took an SQL connection. The
/// connection is the only proof of the privilege: with Amazon RDS a membership gives it, and `rolreplication` stays false.
pub fn replication_refused(
    database: &SourceDatabase,
    hosting: &Hosting,
    error: &ReplicationError,
) -> Option<Check> {
    match error {
        ReplicationError::Connect(error) if error.sqlstate() == Some(INSUFFICIENT_PRIVILEGE) => {
            Some(unreachable(REPLICATION, database, hosting, error))
        }
        _ => None,
    }
}

fn unreachable(
    name: &'static str,
    database: &SourceDatabase,
    hosting: &Hosting,
    error: &ConnectError,
) -> Check {
    Check::failed(name, Chain(error).to_string(), cure(name, database, hosting, &error.cause))
}

/// SQLSTATEs are those of the manual's appendix "PostgreSQL Error Codes".
fn cure(name: &'static str, database: &SourceDatabase, hosting: &Hosting, cause: &WireError) -> String {
    let role = identifier(database.endpoint.user());
    let in_database = identifier(database.endpoint.database());
    let files = match file_names(database) {
        None => " in postgres.url, postgres.password or the password file".to_owned(),
        Some(files) => format!(" in {files}, which outboxd reads for every connection"),
    };
    let cure = match cause {
        WireError::Server(server) if server.is_of_pooler() => POOLER,
        WireError::SettingsDropped(_) => POOLER,
        WireError::Server(server) => match (server.code.as_str(), name) {
            ("28P01", _) => {
                return format!(
                    "correct the user or the password{files}; or ALTER ROLE {role} PASSWORD '...';"
                );
            }
            ("28000", _) => {
                return format!(
                    "if role {role} is missing, make it with the statements of `outboxd setup --print-sql`; otherwise let it \
                     into database {in_database} by a line of pg_hba.conf, then SELECT pg_reload_conf();"
                );
            }
            ("3D000", _) => {
                return format!("correct the database in postgres.url, or CREATE DATABASE {in_database};");
            }
            (INSUFFICIENT_PRIVILEGE, REPLICATION) => {
                return hosting.grant_replication(database.endpoint.user());
            }
            (INSUFFICIENT_PRIVILEGE, _) => {
                return format!("GRANT CONNECT ON DATABASE {in_database} TO {role};");
            }
            ("53300", REPLICATION) => {
                let raise = hosting.set_parameter("max_wal_senders = 20");
                return format!("raise max_wal_senders, for instance: {raise}");
            }
            ("53300", _) => "raise max_connections, or the CONNECTION LIMIT of the role or the database",
            ("57P03", _) => "the server is starting or stopping: try again in a moment",
            _ => "see the server's log",
        },
        WireError::Io { doing: "looking up the host name", .. } => "correct the host in postgres.url",
        WireError::Io { .. } => {
            "check that PostgreSQL runs there, that it listens on this address and port (listen_addresses, port), and the \
             firewall"
        }
        WireError::Timeout(_) => "check host and port, and whether a firewall drops the packets",
        WireError::Tls { .. } | WireError::TlsNotOffered => {
            "correct sslmode, sslrootcert, sslcert or sslkey in postgres.url, or the server's certificate"
        }
        WireError::Endpoint(_) => "correct postgres.url, or the file it names",
        WireError::Authentication(
            AuthenticationError::PasswordMissing | AuthenticationError::PasswordFile(_),
        ) => "set postgres.password or postgres.password_file, or correct the password file",
        WireError::Authentication(AuthenticationError::MethodNotAllowed(_)) => {
            "correct the method in pg_hba.conf, or require_auth in postgres.url"
        }
        WireError::Authentication(_) => "correct the password, or the method in pg_hba.conf",
        WireError::SessionNotSuitable { .. } => {
            "list the primary's host in postgres.url too, or remove target_session_attrs"
        }
        WireError::Closed { .. } | WireError::Protocol(_) | WireError::Sql(_) => {
            "check that the port is PostgreSQL's, and see the server's log"
        }
    };
    cure.to_owned()
}

/// Whether the columns that templates name are there. The columns of `outbox.columns` have checks of their own.
fn templates(database: &SourceDatabase, mapping: &Mapping, facts: &Facts, columns: &[Column]) -> Check {
    const NAME: &str = "templates";
    let missing = match mapping.resolve(columns) {
        Ok(_) => Vec::new(),
        Err(error) => error.missing,
    };
    let of_templates = |missing: &&MissingColumn| !missing.wanted_by.starts_with("outbox.columns.");
    let unsent = missing.iter().filter(of_templates).find_map(|missing| {
        let MissingColumn { name, wanted_by, .. } = missing;
        Some((preflight::unsent(database, &mapping.columns, name, facts)?, wanted_by))
    });
    if let Some((Problem { what, cure }, wanted_by)) = unsent {
        return Check::failed(NAME, format!("{what} ({wanted_by} wants it)"), cure);
    }
    let missing: Vec<String> = missing.iter().filter(of_templates).map(MissingColumn::to_string).collect();
    if missing.is_empty() {
        return Check::passed(NAME, "their columns are there");
    }
    Check::failed(
        NAME,
        format!("the table lacks {}", missing.join(", ")),
        "correct the templates below message, or add the column",
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::postgres::{TableName, endpoint::Endpoint, error::ServerError};
    use std::time::Duration;

    fn database() -> SourceDatabase {
        SourceDatabase {
            endpoint: Endpoint::parse("postgresql://me:s3cret@h/orders").unwrap(),
            slot: "s".into(),
            publication: "p".into(),
            create: true,
            table: TableName { schema: "public".into(), table: "outbox".into() },
            rows: Default::default(),
            cleanup: None,
            parks: false,
            wal_sender_timeout: Duration::from_secs(10),
        }
    }

    #[test]
    fn a_refusal_names_the_statement_that_lifts_it() {
        for (code, name, expected) in [
            ("28P01", CONNECTION, r#"ALTER ROLE "me" PASSWORD"#),
            ("28000", CONNECTION, r#"into database "orders" by a line of pg_hba.conf"#),
            ("3D000", CONNECTION, r#"CREATE DATABASE "orders""#),
            ("42501", CONNECTION, r#"GRANT CONNECT ON DATABASE "orders" TO "me""#),
            ("42501", REPLICATION, r#"ALTER ROLE "me" REPLICATION"#),
            ("53300", CONNECTION, "max_connections"),
            ("53300", REPLICATION, "max_wal_senders"),
            ("57P03", CONNECTION, "try again"),
            ("XX000", CONNECTION, "log"),
        ] {
            let error = WireError::from(ServerError { code: code.into(), ..ServerError::default() });
            let cure = cure(name, &database(), Hosting::own(), &error);
            assert!(cure.contains(expected), "{code}: {cure}");
            assert!(!cure.contains("s3cret"), "{cure}");
        }
    }
}
