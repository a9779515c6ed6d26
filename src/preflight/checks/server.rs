//! Checks of the server and of the role's rights.

use super::PRIMARY;
use crate::{postgres::sql_text::identifier, preflight::facts::server::ServerFacts};
use diagnostics::check::Check;

/// Checks the server. `slots_needed` is the number of slots to be created at a time; `writes` is set if anything is to be created.
pub(super) fn checks(server: &ServerFacts, slots_needed: i64, writes: bool) -> Vec<Check> {
    let mut checks = Vec::new();
    let version = server.version / 10_000;
    checks.push(if version < 13 {
        Check::failed("version", format!("PostgreSQL {version} is too old"), "upgrade to 13 or later")
    } else {
        Check::passed("version", format!("PostgreSQL {version}"))
    });
    checks.push(if server.in_recovery {
        Check::failed_for_now(
            PRIMARY,
            "the server is a standby",
            "connect to the primary; with several hosts in postgres.url, target_session_attrs=primary finds it",
        )
    } else {
        Check::passed(PRIMARY, "the server is not a standby")
    });
    if server.read_only && !server.in_recovery {
        let (role, database) = (&server.role, &server.database);
        let check = if writes { Check::failed } else { Check::warning };
        checks.push(check(
            "read-only",
            format!(
                "sessions of role {role} in database {database} are read-only (default_transaction_read_only = on): outboxd can \
                 neither write its records nor create what is missing. An instance that already streams goes on"
            ),
            format!(
                "BEGIN READ WRITE; ALTER ROLE {} IN DATABASE {} SET default_transaction_read_only = off; COMMIT; (for this role only)",
                identifier(role),
                identifier(database)
            ),
        ));
    }
    checks.push(if server.wal_level == "logical" {
        Check::passed("wal_level", "logical")
    } else {
        Check::failed(
            "wal_level",
            format!("wal_level is {}", server.wal_level),
            server.hosting.set_wal_level(),
        )
    });
    checks.push(if server.encoding == "SQL_ASCII" {
        Check::warning(
            "encoding",
            "the database's encoding is SQL_ASCII, which does not define characters beyond ASCII: a row that is not UTF-8 cannot \
             become a message",
            "use a database whose encoding is UTF8",
        )
    } else {
        let invalid = match server.encoding.as_str() {
            "UTF8" => "",
            _ => "; a row with bytes that have no UTF-8 equivalent is invalid (delivery.on_invalid)",
        };
        Check::passed("encoding", server.encoding.clone() + invalid)
    });
    // A backlog needs a temporary slot beside the permanent one.
    let slots_free = i64::from(server.slots_max) - server.slots_used;
    checks.push(match slots_free {
        free if free >= slots_needed => {
            Check::passed("free slots", format!("{} of {}", free.max(0), server.slots_max))
        }
        free => Check::failed_for_now(
            "free slots",
            format!(
                "{} of {} replication slots {} free (max_replication_slots); creating the source's slot needs {slots_needed}",
                free.max(0),
                server.slots_max,
                if free == 1 { "is" } else { "are" }
            ),
            format!(
                "{}; or drop an unused slot",
                server.hosting.set_parameter(&format!("max_replication_slots = {}", server.slots_used + slots_needed))
            ),
        ),
    });
    checks.push(if i64::from(server.wal_senders_max) > server.wal_senders_used {
        Check::passed(
            "free walsenders",
            format!(
                "{} of {}",
                i64::from(server.wal_senders_max) - server.wal_senders_used,
                server.wal_senders_max
            ),
        )
    } else {
        Check::failed_for_now(
            "free walsenders",
            format!("all {} walsenders are in use (max_wal_senders)", server.wal_senders_max),
            server.hosting.set_parameter(&format!("max_wal_senders = {}", server.wal_senders_used + 2)),
        )
    });
    checks
}
