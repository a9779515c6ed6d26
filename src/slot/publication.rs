//! The publication: how it holds the outbox table, whether it has held it all the time, and the statements that make, mend or
//! drop it.
//!
//! The plugin looks the publication up as it was when a row was written. A row that was written while the publication was
//! missing, or did not hold the table, is skipped without a word, and the slot moves on. So two questions are told apart:
//! what a publication is like now ([`facts`], for `check`), and by what the table's inserts get into the stream
//! ([`publishing`]), which is asked again and again: should it be another than before, rows were skipped.

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

/// The entry by which the inserts of the outbox table get into the stream. As long as both parts stay the same, no row was skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishedBy {
    /// OID of the catalog's entry that puts the table into the publication: its row in `pg_publication_rel`, its schema's in
    /// `pg_publication_namespace`, or the publication itself when that is for all tables. A table that was taken out and put
    /// back has another, and so has one that is held with another row filter.
    pub entry: u32,
    /// `xmin` of the publication's row in `pg_publication`: another after whatever ALTER PUBLICATION says of the publication
    /// itself, what it publishes among it.
    pub altered_by: u32,
}

/// The text that is written down: `16405.771`.
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

/// The way of the outbox table's inserts into the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Publishing {
    /// They do.
    By(PublishedBy),
    /// They do not.
    Not(Unpublished),
    /// There is no table of that name. One that was renamed is still published.
    NoTable,
}

impl Publishing {
    /// The entry by which they do, if they do.
    pub fn by(self) -> Option<PublishedBy> {
        match self {
            Publishing::By(by) => Some(by),
            Publishing::Not(_) | Publishing::NoTable => None,
        }
    }
}

/// The reason for which rows are skipped. A sentence whose subject, the publication, goes before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unpublished {
    /// There is no publication.
    Missing,
    /// It does not hold the table.
    NotHeld,
    /// It does not publish inserts.
    NoInserts,
    /// It publishes a partitioned table under the names of its partitions, which nobody takes for the outbox table.
    AsPartitions,
}

impl fmt::Display for Unpublished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unpublished::Missing => "does not exist",
            Unpublished::NotHeld => "does not hold the table",
            Unpublished::NoInserts => "does not publish inserts",
            Unpublished::AsPartitions => "publishes the table as its partitions",
        })
    }
}

/// Looks by what the table's inserts get into the stream. Cheap, however many tables the publication holds.
///
/// # Errors
/// [`CatalogError`].
pub async fn publishing(client: &Client, database: &SourceDatabase) -> Result<Publishing, CatalogError> {
    // Every entry depends on its publication and on what it puts in (publication_add_relation, publication_add_schema:
    // pg_publication.c), so pg_depend has those of all versions, although pg_publication_namespace is of 15 and later. A
    // partition is held by what holds one of its ancestors, unless that is published under the ancestor's name.
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
        .map_err(failed("looking whether the table is published"))?;
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

/// The way in which a publication holds a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// Not at all.
    No,
    /// Its rows are sent as its own.
    AsItself,
    /// A partitioned table whose rows are sent as those of the partitions.
    AsPartitions,
}

/// A publication, seen from the outbox table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicationFacts {
    /// FOR ALL TABLES.
    pub all_tables: bool,
    /// The role is, or is a member of, its owner, which ALTER PUBLICATION and DROP PUBLICATION need.
    pub owned: bool,
    /// Its owner.
    pub owner: String,
    /// Publishes INSERT.
    pub insert: bool,
    /// What else it publishes: `update`, `delete`, `truncate`.
    pub more_operations: Vec<&'static str>,
    /// `publish_via_partition_root`.
    pub via_partition_root: bool,
    /// How it holds the outbox table.
    pub held: Held,
    /// The outbox table's row filter (15 and later).
    pub row_filter: Option<String>,
    /// How many other tables it holds, partitions of the outbox table not counted.
    pub other_tables: i64,
    /// Names the outbox table, and does not hold it as one of all tables or of a schema.
    pub lists_table: bool,
    /// Has a list of the outbox table's columns.
    pub lists_columns: bool,
}

impl PublicationFacts {
    /// Tells whether it is for more than the outbox table, now or as soon as there are other tables.
    pub(crate) fn is_shared(&self) -> bool {
        let holds_unnamed = self.held != Held::No && !self.lists_table;
        self.all_tables || self.other_tables > 0 || holds_unnamed
    }

    /// The statement that takes the outbox table out, and leaves all others in; `None` where it is not by name that it is held.
    pub(crate) fn drop_table_sql(&self, name: &str, table: &TableName, kind: TableKind) -> Option<String> {
        self.lists_table.then(|| drop_table_sql(name, table, kind))
    }
}

/// The statement that takes the table out of a publication.
pub(crate) fn drop_table_sql(name: &str, table: &TableName, kind: TableKind) -> String {
    format!("ALTER PUBLICATION {} DROP TABLE {}{}", identifier(name), kind.only(), table.quoted())
}

/// Reads the [`PublicationFacts`]; `None` when there is no such publication.
///
/// # Errors
/// [`CatalogError::Statement`].
pub async fn facts(
    client: &Client,
    name: &str,
    table: &TableName,
) -> Result<Option<PublicationFacts>, CatalogError> {
    // The view pg_publication_tables knows of FOR ALL TABLES, of schemas and of partitions. A partitioned table without
    // partitions is in it only under publish_via_partition_root, hence the look at pg_publication_rel.
    // A row filter of a partition that is published for itself matters no less.
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

/// The statement that makes the publication: inserts, this one table; a partitioned one under its own name, because
/// its partitions come and go and may differ in the order of their columns.
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

/// Makes the publication; `false` when there was one of that name already.
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
    /// The server refused to send what was written while the publication did not exist (`get_publication_by_name`: up to
    /// version 17 an ERROR with SQLSTATE `undefined_object` that names it).
    pub fn is_unpublished(&self, error: &ReplicationError) -> bool {
        let names_it = |error: &ServerError| error.message.contains(&format!("\"{}\"", self.publication));
        error.server().is_some_and(|error| error.code == sqlstate::UNDEFINED_OBJECT && names_it(error))
    }
}

/// The statement that puts the table into a publication that does not hold it.
pub(crate) fn add_table_sql(name: &str, table: &TableName, kind: TableKind) -> String {
    format!("ALTER PUBLICATION {} ADD TABLE {}{}", identifier(name), kind.only(), table.quoted())
}

/// Makes the publication whole: makes it if it is missing, and puts the table in if it is not held. What is wrong with it
/// otherwise is for its owner to alter.
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
            // Somebody else may be faster.
            let add = add_table_sql(publication, table, kind);
            execute(client, "putting the table into the publication", &add, sqlstate::DUPLICATE_OBJECT)
                .await?;
        }
        _ => {}
    }
    Ok(())
}

/// The statement that drops the publication.
pub(crate) fn drop_sql(name: &str) -> String {
    format!("DROP PUBLICATION {}", identifier(name))
}

/// Drops the publication; `false` when there was none.
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
