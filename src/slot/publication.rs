//! The publication: how it contains the outbox table, whether that has changed, and the statements that create, repair or drop it.
//!
//! The plugin uses the publication as it was when a row was written. A row written while the publication was missing, or did not
//! contain the table, is skipped silently, and the slot moves on. So there are two questions. [`facts`] describes the publication
//! now, for `check`. [`publishing`] names the entry that publishes the table, and is asked again and again: if the entry changes,
//! rows were skipped.

use std::{fmt, num::ParseIntError, str::FromStr};

use tokio_postgres::{Client, types::Type};

use crate::postgres::{
    SourceDatabase, TableName,
    outbox_table::TableKind,
    sql_text::identifier,
    sqlstate,
    statement::{CatalogError, execute, failed},
};
use pg_replication::{ReplicationError, ServerError};

/// The entry that publishes the inserts of the outbox table. While both parts stay the same, no row is skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishedBy {
    /// OID of the catalog entry that puts the table into the publication: its row in `pg_publication_rel`, its schema's row in
    /// `pg_publication_namespace`, or the publication itself if it is for all tables. The OID changes when the table is removed and
    /// added again, also with another row filter.
    pub entry: u32,
    /// `xmin` of the publication's row in `pg_publication`, which changes with every ALTER PUBLICATION of the publication itself.
    pub altered_by: u32,
}

/// The text in the record, such as `16405.771`.
impl fmt::Display for PublishedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.entry, self.altered_by)
    }
}

impl FromStr for PublishedBy {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        let (entry, altered_by) = text.split_once('.').unwrap_or((text, ""));
        Ok(Self { entry: entry.parse()?, altered_by: altered_by.parse()? })
    }
}

/// State of the publication of the outbox table's inserts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Publishing {
    /// The entry publishes the inserts.
    By(PublishedBy),
    /// The inserts are not published.
    Not(Unpublished),
    /// No table has the name. A renamed table is still published.
    NoTable,
}

impl Publishing {
    /// The entry that publishes the inserts, if any.
    pub fn by(self) -> Option<PublishedBy> {
        match self {
            Publishing::By(by) => Some(by),
            Publishing::Not(_) | Publishing::NoTable => None,
        }
    }
}

/// The reason why rows are skipped. The text follows the publication's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unpublished {
    /// The publication does not exist.
    Missing,
    /// The publication does not contain the table.
    NotHeld,
    /// The publication does not publish inserts.
    NoInserts,
    /// The publication sends the rows of a partitioned table under the names of its partitions, which are not the outbox table.
    AsPartitions,
}

impl fmt::Display for Unpublished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unpublished::Missing => "does not exist",
            Unpublished::NotHeld => "does not contain the table",
            Unpublished::NoInserts => "does not publish inserts",
            Unpublished::AsPartitions => {
                "publishes the partitions in place of the table (publish_via_partition_root = false)"
            }
        })
    }
}

/// Reads the entry that publishes the table's inserts. Cheap for a publication of any size.
///
/// # Errors
/// [`CatalogError`].
pub async fn publishing(client: &Client, database: &SourceDatabase) -> Result<Publishing, CatalogError> {
    // Every entry depends on its publication and on its table or schema (publication_add_relation, publication_add_schema:
    // pg_publication.c). So pg_depend serves all versions; pg_publication_namespace exists since 15. A partition belongs to the
    // publication of its ancestors, unless its rows are published under the ancestor's name.
    let row = client
        .query_typed_one(
            "WITH p AS (SELECT oid, xmin::text::int8 AS altered_by, pubinsert, puballtables, pubviaroot
                        FROM pg_publication WHERE pubname = $1),
                  outbox AS (SELECT c.oid, c.relnamespace, c.relkind FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                             WHERE n.nspname = $2 AND c.relname = $3)
             SELECT outbox.oid IS NOT NULL, p.oid IS NOT NULL, COALESCE(p.pubinsert, false),
                    COALESCE(outbox.relkind = 'p' AND NOT p.pubviaroot, false), p.altered_by,
                    CASE WHEN p.puballtables THEN p.oid ELSE (
                        SELECT min(d.objid) FROM pg_depend d JOIN pg_depend held ON held.classid = d.classid AND held.objid = d.objid
                        WHERE d.refclassid = 'pg_publication'::regclass AND d.refobjid = p.oid
                        AND (held.refclassid = 'pg_namespace'::regclass AND held.refobjid = outbox.relnamespace
                             OR held.refclassid = 'pg_class'::regclass
                             AND (held.refobjid = outbox.oid
                                  OR NOT p.pubviaroot AND held.refobjid IN (SELECT relid FROM pg_partition_ancestors(outbox.oid))))
                    ) END
             FROM (VALUES (0)) one LEFT JOIN p ON true LEFT JOIN outbox ON true",
            &[
                (&database.publication, Type::TEXT),
                (&database.table.schema, Type::TEXT),
                (&database.table.table, Type::TEXT),
            ],
        )
        .await
        .map_err(failed("reading whether the table is published"))?;
    let altered_by =
        row.get::<_, Option<i64>>(4).and_then(|xmin| u32::try_from(xmin).ok()).unwrap_or_default();
    Ok(match (row.get(0), row.get(1), row.get(2), row.get(3), row.get::<_, Option<u32>>(5)) {
        (_, false, ..) => Publishing::Not(Unpublished::Missing),
        (false, ..) => Publishing::NoTable,
        (true, true, _, _, None) => Publishing::Not(Unpublished::NotHeld),
        (true, true, false, ..) => Publishing::Not(Unpublished::NoInserts),
        (true, true, true, true, _) => Publishing::Not(Unpublished::AsPartitions),
        (true, true, true, false, Some(entry)) => Publishing::By(PublishedBy { entry, altered_by }),
    })
}

/// The way in which a publication contains a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// Not at all.
    No,
    /// Under the table's own name.
    AsItself,
    /// As partitions: rows of a partitioned table are sent under the names of the partitions.
    AsPartitions,
}

/// A publication, seen from the outbox table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicationFacts {
    /// FOR ALL TABLES.
    pub all_tables: bool,
    /// Set if the role is, or is a member of, the owner, as ALTER PUBLICATION and DROP PUBLICATION require.
    pub owned: bool,
    /// Owner.
    pub owner: String,
    /// Set if INSERT is published.
    pub insert: bool,
    /// Other published operations: `update`, `delete`, `truncate`.
    pub more_operations: Vec<&'static str>,
    /// `publish_via_partition_root`.
    pub via_partition_root: bool,
    /// The way in which the outbox table is contained.
    pub held: Held,
    /// Row filter of the outbox table (15 and later).
    pub row_filter: Option<String>,
    /// Number of other tables, without partitions of the outbox table.
    pub other_tables: i64,
    /// Set if the publication names the outbox table, and does not just contain all tables or its schema.
    pub lists_table: bool,
    /// Set if the publication has a column list for the outbox table.
    pub lists_columns: bool,
}

impl PublicationFacts {
    /// Tells whether the publication is for other tables, too, now or as soon as there are any.
    pub(crate) fn is_shared(&self) -> bool {
        let holds_unnamed = self.held != Held::No && !self.lists_table;
        self.all_tables || self.other_tables > 0 || holds_unnamed
    }

    /// The statement that removes the outbox table and keeps the others; `None` if the publication does not name the table.
    pub(crate) fn drop_table_sql(&self, name: &str, table: &TableName, kind: TableKind) -> Option<String> {
        self.lists_table.then(|| drop_table_sql(name, table, kind))
    }
}

/// The statement that removes the table from a publication.
pub(crate) fn drop_table_sql(name: &str, table: &TableName, kind: TableKind) -> String {
    format!("ALTER PUBLICATION {} DROP TABLE {}{}", identifier(name), kind.only(), table.quoted())
}

/// Reads the [`PublicationFacts`]; `None` if the publication does not exist.
///
/// # Errors
/// [`CatalogError::Statement`].
pub async fn facts(
    client: &Client,
    name: &str,
    table: &TableName,
) -> Result<Option<PublicationFacts>, CatalogError> {
    // The view pg_publication_tables covers FOR ALL TABLES, schemas and partitions. It has a partitioned table without partitions
    // only under publish_via_partition_root, so pg_publication_rel is read, too. The row filter of a partition counts as well.
    let row = client
        .query_typed_opt(
            "WITH p AS (SELECT * FROM pg_publication WHERE pubname = $1),
                  outbox AS (SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                             WHERE n.nspname = $2 AND c.relname = $3),
                  held AS (SELECT c.oid, to_jsonb(t) AS facts
                           FROM pg_publication_tables t JOIN pg_namespace n ON n.nspname = t.schemaname
                           JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename
                           WHERE t.pubname = $1),
                  family AS (SELECT oid FROM outbox
                             UNION SELECT relid::oid FROM outbox, pg_partition_tree(outbox.oid::regclass)),
                  ours AS (SELECT facts FROM held WHERE oid IN (SELECT oid FROM family)),
                  named AS (SELECT to_jsonb(r) AS facts FROM pg_publication_rel r
                            WHERE r.prpubid IN (SELECT oid FROM p) AND r.prrelid IN (SELECT oid FROM outbox))
             SELECT p.puballtables, p.pubinsert, p.pubupdate, p.pubdelete, p.pubtruncate, p.pubviaroot,
                    EXISTS (SELECT FROM held WHERE oid IN (SELECT oid FROM outbox)),
                    EXISTS (SELECT FROM ours) OR EXISTS (SELECT FROM named),
                    (SELECT min(facts ->> 'rowfilter') FROM ours),
                    (SELECT count(*) FROM held WHERE oid NOT IN (SELECT oid FROM family)),
                    pg_has_role(p.pubowner, 'USAGE'), pg_get_userbyid(p.pubowner)::text, EXISTS (SELECT FROM named),
                    EXISTS (SELECT FROM named WHERE facts ->> 'prattrs' IS NOT NULL)
             FROM p",
            &[(&name, Type::TEXT), (&table.schema, Type::TEXT), (&table.table, Type::TEXT)],
        )
        .await
        .map_err(failed("reading the publication"))?;
    Ok(row.map(|row| PublicationFacts {
        all_tables: row.get(0),
        owned: row.get(10),
        owner: row.get(11),
        insert: row.get(1),
        more_operations: [(2, "update"), (3, "delete"), (4, "truncate")]
            .into_iter()
            .filter_map(|(index, name)| row.get::<_, bool>(index).then_some(name))
            .collect(),
        via_partition_root: row.get(5),
        held: match (row.get(6), row.get(7)) {
            (true, _) => Held::AsItself,
            (false, true) => Held::AsPartitions,
            (false, false) => Held::No,
        },
        row_filter: row.get(8),
        other_tables: row.get(9),
        lists_table: row.get(12),
        lists_columns: row.get(13),
    }))
}

/// The statement that creates the publication, for inserts of this one table. A partitioned table is published under its own name,
/// because partitions come and go and may have their columns in another order.
pub(crate) fn create_sql(name: &str, table: &TableName, kind: TableKind) -> String {
    let via_root = match kind {
        TableKind::Partitioned => ", publish_via_partition_root = true",
        TableKind::Ordinary | TableKind::Other => "",
    };
    format!(
        "CREATE PUBLICATION {} FOR TABLE {}{} WITH (publish = 'insert'{via_root})",
        identifier(name),
        kind.only(),
        table.quoted(),
    )
}

/// Creates the publication. Returns `false` if it existed already.
///
/// # Errors
/// [`CatalogError::Statement`].
pub async fn create(
    client: &Client,
    name: &str,
    table: &TableName,
    kind: TableKind,
) -> Result<bool, CatalogError> {
    execute(client, "creating the publication", &create_sql(name, table, kind), sqlstate::DUPLICATE_OBJECT)
        .await
}

impl SourceDatabase {
    /// Tells whether the error is the refusal to send rows written while the publication did not exist
    /// (`get_publication_by_name`: up to version 17 an ERROR with SQLSTATE `undefined_object` that names it).
    pub fn is_unpublished(&self, error: &ReplicationError) -> bool {
        let names_it = |error: &ServerError| error.message.contains(&format!("\"{}\"", self.publication));
        error.server().is_some_and(|error| error.code == sqlstate::UNDEFINED_OBJECT && names_it(error))
    }
}

/// The statement that adds the table to a publication.
pub(crate) fn add_table_sql(name: &str, table: &TableName, kind: TableKind) -> String {
    format!("ALTER PUBLICATION {} ADD TABLE {}{}", identifier(name), kind.only(), table.quoted())
}

/// Creates the publication if it is missing, and adds the table if it is not contained. Other faults are left to the publication's
/// owner.
///
/// # Errors
/// [`CatalogError`].
pub async fn mend(client: &Client, database: &SourceDatabase, kind: TableKind) -> Result<(), CatalogError> {
    let SourceDatabase { publication, table, .. } = database;
    match publishing(client, database).await? {
        Publishing::Not(Unpublished::Missing) => {
            create(client, publication, table, kind).await?;
        }
        Publishing::Not(Unpublished::NotHeld) => {
            // Another instance may be faster.
            let add = add_table_sql(publication, table, kind);
            execute(client, "adding the table to the publication", &add, sqlstate::DUPLICATE_OBJECT).await?;
        }
        _ => {}
    }
    Ok(())
}

/// The statement that drops the publication.
pub(crate) fn drop_sql(name: &str) -> String {
    format!("DROP PUBLICATION {}", identifier(name))
}

/// Drops the publication. Returns `false` if there was none.
///
/// # Errors
/// [`CatalogError::Statement`].
pub async fn drop(client: &Client, name: &str) -> Result<bool, CatalogError> {
    execute(client, "dropping the publication", &drop_sql(name), sqlstate::UNDEFINED_OBJECT).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_down_is_read_again() {
        let by = PublishedBy { entry: 16_405, altered_by: 4_000_000_000 };
        assert_eq!(by.to_string().parse(), Ok(by));
        assert!("16405".parse::<PublishedBy>().is_err() && "".parse::<PublishedBy>().is_err());
    }
}
