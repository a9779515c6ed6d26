//! Creates a service's tables, and changes them from one version to the next, when it starts.

use tokio_postgres::Client;

use super::database::DatabaseError;
use crate::outbox::ddl;

/// Any number will do that nothing else in the database uses for an advisory lock: instances that start together take turns.
const LOCK: i64 = 0x6f75_7462_6f78;

/// Applies what has not been applied yet of the chassis's own tables (outbox and inbox) and then of `migrations`, each of which
/// is a script that is never changed once it has been released. All or nothing.
///
/// # Errors
///
/// Nothing has changed then.
pub async fn migrate(client: &mut Client, migrations: &[&str]) -> Result<(), DatabaseError> {
    let transaction = client.transaction().await?;
    transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK]).await?;
    transaction.batch_execute("CREATE TABLE IF NOT EXISTS schema_version (version bigint NOT NULL)").await?;
    let applied =
        transaction.query_opt("SELECT max(version) FROM schema_version HAVING count(*) > 0", &[]).await?;
    let applied = applied.map_or(0, |row| row.get::<_, i64>(0));
    let scripts = [ddl::OUTBOX_STANDARD, ddl::INBOX].into_iter().chain(migrations.iter().copied());
    for (version, script) in (1_i64..).zip(scripts).filter(|(version, _)| *version > applied) {
        transaction.batch_execute(script).await?;
        transaction.execute("INSERT INTO schema_version VALUES ($1)", &[&version]).await?;
        tracing::info!(version, "the database schema has been brought up to this version");
    }
    Ok(transaction.commit().await?)
}
