//! Code of other owners that runs with the rights of outboxd's role: triggers, rules, policies, defaults and functions.
//!
//! **Writes.** outboxd removes rows of the outbox table (clean-up) and writes its own tables. Triggers and rules run with the
//! writer's rights, unless their function says otherwise. A role that may replicate may use and drop every slot of the server.
//! Insert triggers of the outbox table run as the application's role and are left out. A cascading foreign key acts as the owner of
//! its table, but up to 17 that table's AFTER triggers run as the role that removed the row. So do AFTER triggers of tables written
//! by its rules and BEFORE triggers, at the end of the statement or at the commit.
//!
//! **Reads.** The planner calls a function with constant arguments even for a SELECT, if it stands in the condition of an index, in
//! extended statistics, or in a partition key (`RelationGetIndexPredicate`, relcache.c; `get_relation_statistics`, plancat.c;
//! `RelationBuildPartitionKey`, partcache.c). CHECK constraints of partitions are not called, because sessions have
//! `constraint_exclusion = off`.
//!
//! **Owners.** Functions whose owner is outboxd's role, or can become it as a superuser can, are not foreign. Functions of an
//! extension count by their owners, because any role can add a function to an extension of its own.

use tokio_postgres::{Client, types::Type};

use crate::{
    parking::parked_table,
    postgres::{
        SourceDatabase, TableName,
        statement::{CatalogError, failed},
    },
    slot::record,
};

/// Code of another owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignCode {
    /// Table: the outbox table, a partition of it, one that refers to it, or one of outboxd's own.
    pub table: TableName,
    /// Set unless the table is one of outboxd's own or refers to one. outboxd reads such a table at most; only clean-up writes there.
    pub in_outbox: bool,
    /// Kind of the code.
    pub kind: Kind,
    /// Name of the trigger, the rule, the index, the constraint, the column, the policy, the statistics or the owner.
    pub name: String,
}

/// Kind of the code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Function of a trigger.
    Trigger,
    /// Statements of a rule.
    Rule,
    /// Function called by an index, or a domain that it casts to.
    Index,
    /// CHECK on one of outboxd's own tables, which have none.
    Constraint,
    /// Default on one of outboxd's own tables that outboxd has not set.
    Default,
    /// Generated column of one of outboxd's own tables, which have none.
    Generated,
    /// Function called by the key of a partitioned table.
    PartitionKey,
    /// User-defined type in one of outboxd's own tables: a domain calls functions.
    Type,
    /// Policy that applies to the role.
    Policy,
    /// Function called by extended statistics.
    Statistics,
    /// View or foreign table in the place of one of outboxd's own tables.
    NoTable,
    /// Other owner of one of outboxd's own tables, who may add any of these.
    Owner,
    /// Other owner of the schema of outboxd's own tables, who may replace them. `table` has no table name then.
    SchemaOwner,
}

/// Finds the code that is enabled.
///
/// `pg_trigger.tgtype` has 2 for BEFORE, 4 for INSERT, 8 for DELETE and 16 for UPDATE. `pg_rewrite.ev_type` has '1' for SELECT, '2'
/// for UPDATE and '4' for DELETE. 16384 is the first OID that is not PostgreSQL's own. A partition repeats the triggers of its
/// parent: they are reported for the parent only. Up to 14 such a trigger counts as internal.
///
/// Parts: 1 is the outbox table with its partitions, 2 are tables reached by its cascades, 3 are outboxd's own tables, 4 are tables
/// reached by the cascades of these.
pub(crate) async fn find(
    client: &Client,
    database: &SourceDatabase,
) -> Result<Vec<ForeignCode>, CatalogError> {
    let TableName { schema, table } = &database.table;
    let rows = client
        .query_typed(
            "WITH RECURSIVE outbox AS (SELECT c.oid, c.relowner FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                             WHERE n.nspname = $1 AND c.relname = $2),
                  below (oid) AS (SELECT oid FROM outbox
                                  UNION SELECT relid::oid FROM outbox, pg_partition_tree(outbox.oid::regclass)),
                  own (oid) AS (SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                                WHERE n.nspname = $3 AND c.relname IN ($4, $5)),
                  referring (oid, part) AS (
                      SELECT k.conrelid, f.part
                      FROM pg_constraint k JOIN (SELECT oid, 2 FROM below UNION ALL SELECT oid, 4 FROM own) f (oid, part) ON f.oid = k.confrelid
                      WHERE k.contype = 'f' AND k.confdeltype IN ('c', 'n', 'd')
                      UNION SELECT k.conrelid, r.part FROM pg_constraint k JOIN referring r ON r.oid = k.confrelid
                      WHERE k.contype = 'f' AND (k.confdeltype IN ('c', 'n', 'd') OR k.confupdtype IN ('c', 'n', 'd'))),
                  looked_at (oid, part) AS (
                      SELECT oid, 1 FROM below
                      UNION ALL SELECT oid, 3 FROM own
                      UNION ALL SELECT oid, max(part) FROM referring
                                WHERE oid NOT IN (SELECT oid FROM below UNION ALL SELECT oid FROM own) GROUP BY oid),
                  calls AS (
                      SELECT d.classid, d.objid FROM pg_depend d
                      LEFT JOIN pg_operator o ON d.refclassid = 'pg_operator'::regclass AND o.oid = d.refobjid
                      JOIN pg_proc p ON p.oid = CASE WHEN d.refclassid = 'pg_proc'::regclass THEN d.refobjid ELSE o.oprcode::oid END
                      WHERE d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass) AND d.refobjid >= 16384
                      AND NOT pg_has_role(p.proowner, current_user, 'MEMBER'))
             SELECT n.nspname::text, c.relname::text, w.part < 3, found.kind, found.name, w.part
             FROM looked_at w JOIN pg_class r ON r.oid = w.oid,
                  LATERAL (SELECT 1, t.tgname::text,
                                  COALESCE((SELECT p.tgrelid FROM pg_partition_ancestors(w.oid) a
                                            JOIN pg_trigger p ON p.tgrelid = a.relid AND p.tgname = t.tgname AND p.tgparentid = 0
                                            WHERE t.tgparentid <> 0 LIMIT 1), w.oid)
                           FROM pg_trigger t
                           WHERE t.tgrelid = w.oid AND t.tgenabled IN ('O', 'A')
                           AND (NOT t.tgisinternal OR t.tgparentid <> 0 AND t.tgfoid >= 16384)
                           AND NOT EXISTS (SELECT FROM pg_trigger p JOIN looked_at q ON q.oid = p.tgrelid WHERE p.oid = t.tgparentid)
                           AND t.tgtype & CASE w.part WHEN 1 THEN 8 WHEN 3 THEN 28 ELSE 24 END <> 0
                           UNION ALL
                           SELECT 2, u.rulename::text, w.oid FROM pg_rewrite u
                           WHERE u.ev_class = w.oid AND u.ev_enabled IN ('O', 'A') AND u.ev_type <> '1'
                           AND (u.ev_type = '4' OR u.ev_type = '2' AND w.part <> 1 OR w.part = 3)
                           UNION ALL
                           SELECT 3, i.indexrelid::regclass::text, w.oid FROM pg_index i
                           WHERE i.indrelid = w.oid AND w.part IN (1, 3)
                           AND (('pg_class'::regclass::oid, i.indexrelid) IN (SELECT * FROM calls)
                                OR w.part = 3 AND EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass
                                       AND d.objid = i.indexrelid AND d.refclassid = 'pg_type'::regclass AND d.refobjid >= 16384))
                           UNION ALL
                           SELECT 4, k.conname::text, w.oid FROM pg_constraint k
                           WHERE k.conrelid = w.oid AND w.part = 3 AND k.contype = 'c'
                           UNION ALL
                           SELECT CASE WHEN a.atttypid >= 16384 THEN 6 WHEN a.attgenerated <> '' THEN 12 ELSE 5 END, a.attname::text, w.oid
                           FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
                           WHERE a.attrelid = w.oid AND w.part = 3 AND r.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped
                           AND (a.atttypid >= 16384 OR pg_get_expr(d.adbin, d.adrelid) <> 'clock_timestamp()')
                           UNION ALL
                           SELECT 7, p.polname::text, w.oid FROM pg_policy p
                           WHERE p.polrelid = w.oid AND w.part IN (1, 3) AND row_security_active(w.oid)
                           UNION ALL
                           SELECT 8, format('%s.%I', s.stxnamespace::regnamespace, s.stxname), w.oid FROM pg_statistic_ext s
                           WHERE s.stxrelid = w.oid AND w.part IN (1, 3)
                           AND ('pg_statistic_ext'::regclass::oid, s.oid) IN (SELECT * FROM calls)
                           UNION ALL
                           SELECT 13, '', w.oid WHERE w.part = 1 AND ('pg_class'::regclass::oid, w.oid) IN (SELECT * FROM calls)
                           UNION ALL
                           SELECT 9, '', w.oid WHERE w.part = 3 AND r.relkind <> 'r'
                           UNION ALL
                           SELECT 10, pg_get_userbyid(r.relowner)::text, w.oid
                           WHERE w.part = 3 AND NOT pg_has_role(r.relowner, current_user, 'MEMBER')
                           AND r.relowner NOT IN (SELECT relowner FROM outbox)) found (kind, name, place)
                  JOIN pg_class c ON c.oid = found.place JOIN pg_namespace n ON n.oid = c.relnamespace
             UNION ALL
             SELECT n.nspname::text, '', false, 11, pg_get_userbyid(s.owner)::text, 5
             FROM pg_namespace n, pg_database d,
                  LATERAL (SELECT CASE pg_get_userbyid(n.nspowner) WHEN 'pg_database_owner' THEN d.datdba ELSE n.nspowner END) s (owner)
             WHERE n.nspname = $3 AND d.datname = current_database() AND NOT pg_has_role(s.owner, current_user, 'MEMBER')
             AND s.owner NOT IN (SELECT relowner FROM outbox)
             ORDER BY 3 DESC, 6, 1, 2, 4, 5",
            &[
                (schema, Type::TEXT),
                (table, Type::TEXT),
                (&database.schema, Type::TEXT),
                (&record::TABLE, Type::TEXT),
                (&parked_table::TABLE, Type::TEXT),
            ],
        )
        .await
        .map_err(failed("searching for code of other owners that runs when outboxd reads or writes"))?;
    let found = rows.iter().map(|row| ForeignCode {
        table: TableName { schema: row.get(0), table: row.get(1) },
        in_outbox: row.get(2),
        kind: match row.get::<_, i32>(3) {
            1 => Kind::Trigger,
            2 => Kind::Rule,
            3 => Kind::Index,
            4 => Kind::Constraint,
            5 => Kind::Default,
            6 => Kind::Type,
            7 => Kind::Policy,
            8 => Kind::Statistics,
            9 => Kind::NoTable,
            10 => Kind::Owner,
            11 => Kind::SchemaOwner,
            12 => Kind::Generated,
            _ => Kind::PartitionKey,
        },
        name: row.get(4),
    });
    Ok(found.collect())
}
