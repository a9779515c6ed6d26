//! Schema of a service: creates its tables, and migrates them between versions, at the start.
//!
//! Connections have only `pg_catalog` on their `search_path`, so that nobody's function replaces PostgreSQL's.
//! Scripts and statements therefore qualify every table with `public`.

use tokio_postgres::{Client, Transaction};

use super::database::DatabaseError;

/// Number of an advisory lock that nothing else in the database uses: instances that start together take turns.
const LOCK: i64 = 0x6f75_7462_6f78;

/// Tables of the chassis with their scripts. A service may have created one before with `outboxd schema`.
const OWN: [(&str, &str); 2] = [("outbox", outbox_schema::OUTBOX_STANDARD), ("inbox", outbox_schema::INBOX)];

/// Migration of version 0.1.0's inbox, whose rows do not have their message's source.
const INBOX_OF_0_1_0: &str = "
ALTER TABLE public.inbox
  ADD COLUMN IF NOT EXISTS source text NOT NULL DEFAULT '*',
  ADD COLUMN IF NOT EXISTS replay text NOT NULL DEFAULT '',
  DROP CONSTRAINT inbox_pkey,
  ADD PRIMARY KEY (consumer, source, message_id, replay);
CREATE INDEX IF NOT EXISTS inbox_age ON public.inbox (consumer, received_at);
";

/// Script that adds the channel to the outbox. Every row of version 0.1.0 is an event. A row without a channel cannot be relayed.
const CHANNEL: &str = "
ALTER TABLE public.outbox ADD COLUMN channel text;
UPDATE public.outbox SET channel = aggregatetype || '.events';
ALTER TABLE public.outbox ALTER COLUMN channel SET NOT NULL;
";

/// Query of another schema with this service's tables, as after a `search_path` of the role or database, and of the
/// statements that move them: every table of the schema with the owner of `schema_version`, which is always the
/// service. Another owner's tables are ignored.
const ELSEWHERE: &str = "
SELECT n.nspname::text, string_agg(format('ALTER TABLE %I.%I SET SCHEMA public;', n.nspname, t.relname), ' ' ORDER BY t.relname)
FROM pg_class v JOIN pg_namespace n ON n.oid = v.relnamespace
JOIN pg_class t ON t.relnamespace = n.oid AND t.relowner = v.relowner AND t.relkind IN ('r', 'p') AND NOT t.relispartition
WHERE v.relname = 'schema_version' AND v.relkind = 'r' AND v.relpersistence = 'p' AND n.nspname <> 'public'
AND pg_has_role(v.relowner, current_user, 'MEMBER')
AND EXISTS (SELECT FROM pg_class i WHERE i.relnamespace = n.oid AND i.relname = 'inbox' AND i.relkind = 'r'
            AND 2 = (SELECT count(*) FROM pg_attribute a WHERE a.attrelid = i.oid AND a.attname IN ('consumer', 'message_id')))
GROUP BY 1 ORDER BY 1 LIMIT 1";

/// Tables of a service.
#[derive(Clone, Copy, Debug)]
pub struct Schema {
    /// Scripts, one for each version. A released script never changes in effect.
    pub migrations: &'static [&'static str],
    /// Tables with derived content, which may be dropped. All scripts together create them again, empty, so a script
    /// leaves existing tables alone (`IF NOT EXISTS`). A table that is not listed holds original data.
    pub derived: &'static [&'static str],
}

impl Schema {
    /// Creates the chassis's tables unless they exist here or in another schema, migrates version 0.1.0's, and
    /// applies the scripts that were not applied yet, in one transaction.
    ///
    /// # Errors
    ///
    /// [`DatabaseError`], after which nothing has changed.
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
        if !has_column(&transaction, "outbox", "channel").await? {
            transaction.batch_execute(CHANNEL).await?;
        }
        if !has_column(&transaction, "inbox", "replay").await? {
            transaction.batch_execute(INBOX_OF_0_1_0).await?;
            tracing::info!("the inbox of version 0.1.0 was migrated: its key now holds the source");
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
                "dropped tables are created again, empty; their content has to be rebuilt"
            );
            transaction.execute("DELETE FROM public.schema_version", &[]).await?;
            applied = 0;
        }
        for (version, script) in (1_i64..).zip(self.migrations).filter(|(version, _)| *version > applied) {
            transaction.batch_execute(script).await?;
            transaction.execute("INSERT INTO public.schema_version VALUES ($1)", &[&version]).await?;
            tracing::info!(version, "the database schema was migrated to this version");
        }
        Ok(transaction.commit().await?)
    }

    /// Returns the derived tables that do not exist.
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

/// Returns a script of [`OWN`], which names no schema, for the schema `public`.
fn in_public(script: &str) -> String {
    script.replace("CREATE TABLE ", "CREATE TABLE public.").replace(" ON inbox ", " ON public.inbox ")
}

async fn exists(transaction: &Transaction<'_>, table: &str) -> Result<bool, DatabaseError> {
    let select = "SELECT to_regclass('public.' || $1::text) IS NOT NULL";
    Ok(transaction.query_one(select, &[&table]).await?.get(0))
}

async fn has_column(transaction: &Transaction<'_>, table: &str, column: &str) -> Result<bool, DatabaseError> {
    let select = "SELECT EXISTS (SELECT FROM pg_attribute WHERE attrelid = to_regclass('public.' || $1::text) \
                  AND attname = $2 AND NOT attisdropped)";
    Ok(transaction.query_one(select, &[&table, &column]).await?.get(0))
}
