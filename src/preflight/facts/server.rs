//! Facts of the server and the role's rights, read by plain SQL.

use tokio_postgres::{Client, types::Type};

use crate::postgres::statement::{CatalogError, failed};
use pg_replication::Hosting;

/// Facts of the server, and the role's rights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerFacts {
    /// `server_version_num`, 150014 for 15.14.
    pub version: i32,
    /// `wal_level`.
    pub wal_level: String,
    /// `current_database()`.
    pub database: String,
    /// The database's encoding, such as `UTF8`.
    pub encoding: String,
    /// outboxd's role.
    pub role: String,
    /// Managed service, or a server of one's own.
    pub hosting: &'static Hosting,
    /// Set if the role has CREATE on the database, as CREATE PUBLICATION requires.
    pub may_create: bool,
    /// Set on a standby.
    pub in_recovery: bool,
    /// Set if transactions of this session are read-only, as on a standby or by `default_transaction_read_only`.
    pub read_only: bool,
    /// `max_replication_slots`.
    pub slots_max: i32,
    /// Number of existing slots.
    pub slots_used: i64,
    /// `max_wal_senders`.
    pub wal_senders_max: i32,
    /// Number of active walsenders.
    pub wal_senders_used: i64,
    /// `synchronous_standby_names`.
    pub synchronous_standby_names: String,
    /// Names of the streaming standbys that the role may see.
    pub standbys: Vec<String>,
}

/// Reads the [`ServerFacts`].
///
/// # Errors
/// [`CatalogError::Statement`].
pub async fn server(client: &Client) -> Result<ServerFacts, CatalogError> {
    const DOING: &str = "reading the server's settings";
    let row = client
        .query_typed_one(
            "SELECT current_setting('server_version_num')::int4, current_setting('wal_level'), d.datname::text,
                    pg_encoding_to_char(d.encoding)::text, current_user::text,
                    ARRAY(SELECT r.rolname::text FROM pg_catalog.pg_roles r WHERE r.rolname = ANY ($1)),
                    has_database_privilege(d.oid, 'CREATE'), pg_is_in_recovery(),
                    current_setting('max_replication_slots')::int4, (SELECT count(*) FROM pg_replication_slots),
                    current_setting('max_wal_senders')::int4, (SELECT count(*) FROM pg_stat_replication),
                    current_setting('transaction_read_only')::bool,
                    current_setting('synchronous_standby_names'),
                    ARRAY(SELECT DISTINCT r.application_name FROM pg_stat_replication r
                          WHERE r.state = 'streaming' AND r.application_name <> '' AND NOT EXISTS
                              (SELECT FROM pg_replication_slots s WHERE s.active_pid = r.pid AND s.plugin IS NOT NULL))
             FROM pg_database d WHERE d.datname = current_database()",
            &[(&Hosting::markers().collect::<Vec<_>>(), Type::TEXT_ARRAY)],
        )
        .await
        .map_err(failed(DOING))?;
    Ok(ServerFacts {
        version: row.get(0),
        wal_level: row.get(1),
        database: row.get(2),
        encoding: row.get(3),
        role: row.get(4),
        hosting: Hosting::of(&row.get::<_, Vec<String>>(5)),
        may_create: row.get(6),
        in_recovery: row.get(7),
        slots_max: row.get(8),
        slots_used: row.get(9),
        wal_senders_max: row.get(10),
        wal_senders_used: row.get(11),
        read_only: row.get(12),
        synchronous_standby_names: row.get(13),
        standbys: row.get(14),
    })
}
