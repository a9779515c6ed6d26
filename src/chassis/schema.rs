//! Creates a service's tables, and changes them from one version to the next, when it starts.

use tokio_postgres::Client;

use super::database::DatabaseError;
use crate::outbox::ddl;

/// Any number will do that nothing else in the database uses for an advisory lock: instances that start together take turns.
const LOCK: i64 = 0x6f75_7462_6f78;

/// The chassis's own tables, each with its script. A service may have made one beforehand, with `outboxd schema`.
const OWN: [(&str, &str); 2] = [("outbox", ddl::OUTBOX_STANDARD), ("inbox", ddl::INBOX)];

/// Makes the chassis's tables if they are not there, and applies what has not been applied yet of `migrations`: scripts that are
/// never changed once they have been released. All or nothing.
///
/// # Errors
///
/// Nothing has changed then.
pub async fn migrate(client: &mut Client, migrations: &[&str]) -> Result<(), DatabaseError> {
    let transaction = client.transaction().await?;
    transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK]).await?;
    for (table, script) in OWN {
        let is_there = transaction.query_one("SELECT to_regclass($1) IS NOT NULL", &[&table]).await?;
        if !is_there.get::<_, bool>(0) {
            transaction.batch_execute(script).await?;
        }
    }
    let versions = "CREATE TABLE IF NOT EXISTS schema_version (version bigint PRIMARY KEY)";
    transaction.batch_execute(versions).await?;
    let applied = transaction.query_one("SELECT coalesce(max(version), 0) FROM schema_version", &[]).await?;
    let applied: i64 = applied.get(0);
    for (version, script) in (1_i64..).zip(migrations).filter(|(version, _)| *version > applied) {
        transaction.batch_execute(script).await?;
        transaction.execute("INSERT INTO schema_version VALUES ($1)", &[&version]).await?;
        tracing::info!(version, "the database schema has been brought up to this version");
    }
    Ok(transaction.commit().await?)
}
