//! Triggers, rules and functions of indexes that run when outboxd reads or writes: code of others, with the rights of its role.
//!
//! outboxd removes rows of the outbox table (clean-up) and writes its own tables. A trigger's function and what a rule puts in
//! a statement's place run as whoever writes, unless the function says otherwise; and who may replicate may use and drop every
//! slot of the server. Insert triggers of the outbox table run as the application's role, and are left out.
//!
//! A function in the condition of an index whose arguments are constants is called by the planner, even for a SELECT
//! (`RelationGetIndexPredicate`, relcache.c). Functions of extensions are left out, as only a superuser makes those.

use tokio_postgres::{Client, types::Type};

use super::{
    SourceDatabase, TableName,
    catalog::{CatalogError, failed},
    parked_table, slot_record,
};

/// A trigger or a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignCode {
    /// The table: the outbox table, a partition of it, or one of outboxd's own.
    pub table: TableName,
    /// The table is the outbox table or a partition: outboxd reads there, and only clean-up writes.
    pub in_outbox: bool,
    /// Sort of the code.
    pub kind: Kind,
    /// Name of the trigger, the rule, the index or the constraint.
    pub name: String,
}

/// Sort of the code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A trigger's function.
    Trigger,
    /// The statements of a rule.
    Rule,
    /// A function that an index calls.
    Index,
    /// A function that a CHECK of one of outboxd's own tables calls.
    Constraint,
}

/// Finds those that are enabled. `pg_trigger.tgtype` has 4 for INSERT, 8 for DELETE and 16 for UPDATE; `pg_rewrite.ev_type` has '1'
/// for SELECT and '4' for DELETE; 16384 is the first OID that is not PostgreSQL's own. Partitions repeat their parent's triggers,
/// which are left out.
pub(super) async fn find(
    client: &Client,
    database: &SourceDatabase,
) -> Result<Vec<ForeignCode>, CatalogError> {
    let TableName { schema, table } = &database.table;
    let rows = client
        .query_typed(
            "WITH outbox AS (SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                             WHERE n.nspname = $1 AND c.relname = $2),
                  written (oid, in_outbox) AS (
                      SELECT oid, true FROM outbox
                      UNION SELECT relid::oid, true FROM outbox, pg_partition_tree(outbox.oid::regclass)
                      UNION SELECT c.oid, false FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                            WHERE n.nspname = $3 AND c.relname IN ($4, $5)),
                  calls AS (
                      SELECT d.classid, d.objid FROM pg_depend d
                      WHERE d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass) AND d.refobjid >= 16384
                      AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.classid = d.refclassid AND e.objid = d.refobjid
                                      AND e.deptype = 'e'))
             SELECT n.nspname::text, c.relname::text, w.in_outbox, found.kind, found.name
             FROM written w JOIN pg_class c ON c.oid = w.oid JOIN pg_namespace n ON n.oid = c.relnamespace,
                  LATERAL (SELECT 1, t.tgname::text FROM pg_trigger t
                           WHERE t.tgrelid = w.oid AND NOT t.tgisinternal AND t.tgparentid = 0 AND t.tgenabled IN ('O', 'A')
                           AND t.tgtype & CASE WHEN w.in_outbox THEN 8 ELSE 28 END <> 0
                           UNION ALL
                           SELECT 2, r.rulename::text FROM pg_rewrite r
                           WHERE r.ev_class = w.oid AND r.ev_enabled IN ('O', 'A') AND r.ev_type <> '1'
                           AND (r.ev_type = '4' OR NOT w.in_outbox)
                           UNION ALL
                           SELECT 3, i.indexrelid::regclass::text FROM pg_index i
                           WHERE i.indrelid = w.oid AND ('pg_class'::regclass::oid, i.indexrelid) IN (SELECT * FROM calls)
                           UNION ALL
                           SELECT 4, k.conname::text FROM pg_constraint k
                           WHERE k.conrelid = w.oid AND NOT w.in_outbox
                           AND ('pg_constraint'::regclass::oid, k.oid) IN (SELECT * FROM calls)) found (kind, name)
             ORDER BY 3 DESC, 1, 2, 4, 5",
            &[
                (schema, Type::TEXT),
                (table, Type::TEXT),
                (&database.schema, Type::TEXT),
                (&slot_record::TABLE, Type::TEXT),
                (&parked_table::TABLE, Type::TEXT),
            ],
        )
        .await
        .map_err(failed("looking for triggers, rules and functions that run when outboxd reads or writes"))?;
    let found = rows.iter().map(|row| ForeignCode {
        table: TableName { schema: row.get(0), table: row.get(1) },
        in_outbox: row.get(2),
        kind: match row.get::<_, i32>(3) {
            1 => Kind::Trigger,
            2 => Kind::Rule,
            3 => Kind::Index,
            _ => Kind::Constraint,
        },
        name: row.get(4),
    });
    Ok(found.collect())
}
