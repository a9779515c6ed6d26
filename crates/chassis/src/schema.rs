//! Creates a service's tables, and changes them from one version to the next, when it starts.
//!
//! Connections see no schema but `pg_catalog`, so that nobody's function is called in place of PostgreSQL's. So scripts and
//! statements name the schema of every table: `public`.

use tokio_postgres::{Client, Transaction};

use super::database::DatabaseError;

/// Any number will do that nothing else in the database uses for an advisory lock: instances that start together take turns.
const LOCK: i64 = 0x6f75_7462_6f78;

/// The chassis's own tables, each with its script. A service may have made one beforehand, with `outboxd schema`.
const OWN: [(&str, &str); 2] = [("outbox", outbox_schema::OUTBOX_STANDARD), ("inbox", outbox_schema::INBOX)];

/// Makes today's inbox of version 0.1.0's, whose rows did not say which source their message came from.
const INBOX_OF_0_1_0: &str = "
ALTER TABLE public.inbox
  ADD COLUMN IF NOT EXISTS source text NOT NULL DEFAULT '*',
  ADD COLUMN IF NOT EXISTS replay text NOT NULL DEFAULT '',
  DROP CONSTRAINT inbox_pkey,
  ADD PRIMARY KEY (consumer, source, message_id, replay);
CREATE INDEX IF NOT EXISTS inbox_age ON public.inbox (consumer, received_at);
";

/// A schema with the tables of a service that ran as this role, by a `search_path` of the role's or the database's, and the statements
/// that move them: every table of the schema that belongs to who made `schema_version`, which is always the service itself.
/// A stranger's tables are not taken for these.
const ELSEWHERE: &str = "
SELECT n.nspname::text, string_agg(format('ALTER TABLE %I.%I SET SCHEMA public;', n.nspname, t.relname), ' ' ORDER BY t.relname)
FROM pg_class v JOIN pg_namespace n ON n.oid = v.relnamespace
JOIN pg_class t ON t.relnamespace = n.oid AND t.relowner = v.relowner AND t.relkind IN ('r', 'p') AND NOT t.relispartition
WHERE v.relname = 'schema_version' AND v.relkind = 'r' AND v.relpersistence = 'p' AND n.nspname <> 'public'
AND pg_has_role(v.relowner, current_user, 'MEMBER')
AND EXISTS (SELECT FROM pg_class i WHERE i.relnamespace = n.oid AND i.relname = 'inbox' AND i.relkind = 'r'
            AND 2 = (SELECT count(*) FROM pg_attribute a WHERE a.attrelid = i.oid AND a.attname IN ('consumer', 'message_id')))
GROUP BY 1 ORDER BY 1 LIMIT 1";

/// A service's own tables.
#[derive(Clone, Copy, Debug)]
pub struct Schema {
    /// Scripts, one for each version, never changed in effect once they have been released.
    pub migrations: &'static [&'static str],
    /// Tables whose content comes from elsewhere, so that they may be dropped. They are made anew, empty, by all scripts, which
    /// therefore leave alone what is there (`IF NOT EXISTS`). A table that is not listed holds what nobody else has.
    pub derived: &'static [&'static str],
}

impl Schema {
    /// Makes the chassis's tables if they are not there and in no other schema either, brings version 0.1.0's up to date, and applies
    /// the scripts that have not been applied yet. All or nothing.
    ///
    /// # Errors
    ///
    /// Nothing has changed then.
    pub async fn migrate(&self, client: &mut Client) -> Result<(), DatabaseError> {
        let transaction = client.transaction().await?;
        transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK]).await?;
        if !exists(&transaction, "inbox").await?
            && let Some(row) = transaction.query_opt(ELSEWHERE, &[]).await?
        {
            return Err(DatabaseError::Elsewhere { schema: row.get(0), move_sql: row.get(1) });
        }
        for (table, script) in OWN {
            if !exists(&transaction, table).await? {
                transaction.batch_execute(&in_public(script)).await?;
            }
        }
        let has_replay = "SELECT EXISTS (SELECT FROM pg_attribute \
                          WHERE attrelid = 'public.inbox'::regclass AND attname = 'replay')";
        if !transaction.query_one(has_replay, &[]).await?.get::<_, bool>(0) {
            transaction.batch_execute(INBOX_OF_0_1_0).await?;
            tracing::info!(
                "the inbox of version 0.1.0 has been brought up to date: its key holds the source"
            );
        }
        let versions = "CREATE TABLE IF NOT EXISTS public.schema_version (version bigint PRIMARY KEY)";
        transaction.batch_execute(versions).await?;
        let select = "SELECT coalesce(max(version), 0) FROM public.schema_version";
        let mut applied: i64 = transaction.query_one(select, &[]).await?.get(0);
        let missing = self.missing(&transaction).await?;
        if applied > 0 && !missing.is_empty() {
            let tables = missing.join(", ");
            tracing::warn!(
                tables,
                "tables were dropped, and are made anew, empty; their content has to be made anew as well"
            );
            transaction.execute("DELETE FROM public.schema_version", &[]).await?;
            applied = 0;
        }
        for (version, script) in (1_i64..).zip(self.migrations).filter(|(version, _)| *version > applied) {
            transaction.batch_execute(script).await?;
            transaction.execute("INSERT INTO public.schema_version VALUES ($1)", &[&version]).await?;
            tracing::info!(version, "the database schema has been brought up to this version");
        }
        Ok(transaction.commit().await?)
    }

    /// The derived tables that are not there.
    async fn missing(&self, transaction: &Transaction<'_>) -> Result<Vec<&'static str>, DatabaseError> {
        let mut missing = Vec::new();
        for table in self.derived {
            if !exists(transaction, table).await? {
                missing.push(*table);
            }
        }
        Ok(missing)
    }
}

/// A script of [`OWN`], which leaves the schema to whoever runs it, for the schema `public`.
fn in_public(script: &str) -> String {
    script.replace("CREATE TABLE ", "CREATE TABLE public.").replace(" ON inbox ", " ON public.inbox ")
}

async fn exists(transaction: &Transaction<'_>, table: &str) -> Result<bool, DatabaseError> {
    let select = "SELECT to_regclass('public.' || $1::text) IS NOT NULL";
    Ok(transaction.query_one(select, &[&table]).await?.get(0))
}
