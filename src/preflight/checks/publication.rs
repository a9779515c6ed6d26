//! Check of the publication. A missing publication, or one without the table, is created or repaired before there is a slot, and by
//! `recover`. For an existing slot it is a gap.

use super::PUBLICATION;
use crate::{
    postgres::{
        SourceDatabase,
        outbox_table::{TableFacts, TableKind},
        sql_text::identifier,
    },
    preflight::facts::Facts,
    slot::publication::{Held, PublicationFacts, add_table_sql, create_sql},
};
use diagnostics::check::Check;

/// The meaning of a missing publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// No slot exists yet, so the publication is created.
    Made,
    /// `recover` repairs the publication and creates a new slot.
    Mended,
    /// The existing slot has skipped rows.
    Gap,
}

const RECOVER: &str = "`outboxd recover` repairs it and publishes the rows that are still in the table";

/// The cure of a fault that an owner can repair while there is a slot, but that is a gap all the same.
pub(super) fn altered_by_hand(missing: Missing, alter: String) -> String {
    match missing {
        Missing::Gap => {
            format!("{alter} and then `outboxd recover`, which publishes the rows skipped meanwhile")
        }
        Missing::Made | Missing::Mended => alter,
    }
}

/// Checks the publication; `None` without the table, which has to exist first.
pub(super) fn check(database: &SourceDatabase, facts: &Facts, missing: Missing) -> Option<Check> {
    let TableFacts { kind, owned, .. } = facts.table.as_ref()?;
    Some(of_table(database, facts, missing, *kind, *owned))
}

fn of_table(
    database: &SourceDatabase,
    facts: &Facts,
    missing: Missing,
    kind: TableKind,
    owned: bool,
) -> Check {
    let create = create_sql(&database.publication, &database.table, kind);
    let own_name = identifier(&database.publication);
    let name = format!("publication {own_name}");
    let table = database.table.quoted();
    let Some(publication) = &facts.publication else {
        return match database.create {
            _ if missing == Missing::Gap => Check::failed(
                PUBLICATION,
                format!("{name} does not exist, so PostgreSQL skips all rows written now"),
                RECOVER,
            ),
            true if facts.server.may_create && owned => {
                Check::passed(PUBLICATION, format!("{name} will be created"))
            }
            true => Check::failed(
                PUBLICATION,
                format!(
                    "{name} does not exist, and role {} may not create it, which needs CREATE on the database and the ownership of \
                     the table",
                    facts.server.role
                ),
                format!("as the table's owner: {create};"),
            ),
            false => Check::failed(
                PUBLICATION,
                format!("{name} does not exist, and postgres.create is false"),
                format!("{create};"),
            ),
        };
    };
    let PublicationFacts { all_tables, insert, held, row_filter, .. } = publication;
    if !insert {
        return Check::failed(
            PUBLICATION,
            format!("{name} does not publish inserts"),
            altered_by_hand(missing, format!("ALTER PUBLICATION {own_name} SET (publish = 'insert');")),
        );
    }
    let add = add_table_sql(&database.publication, &database.table, kind);
    let not_held = format!("{name} does not contain {table}");
    match held {
        Held::No if *all_tables => {
            return Check::failed(
                PUBLICATION,
                format!("{name} is for all tables, but does not contain {table}"),
                "see the check of the table: an unlogged, temporary or foreign table cannot be published",
            );
        }
        Held::No => {
            return match missing {
                Missing::Gap => Check::failed(PUBLICATION, not_held, RECOVER),
                Missing::Mended if publication.owned && owned => {
                    Check::passed(PUBLICATION, format!("{table} will be added to {name}"))
                }
                Missing::Mended => {
                    Check::failed(PUBLICATION, not_held, format!("as the owner of both: {add};"))
                }
                Missing::Made => Check::failed(PUBLICATION, not_held, format!("{add};")),
            };
        }
        // Rows published as partitions come under the partitions' names, and would count as rows of other tables.
        Held::AsPartitions => {
            let alter = format!("ALTER PUBLICATION {own_name} SET (publish_via_partition_root = true);");
            return Check::failed(
                PUBLICATION,
                format!(
                    "{name} publishes the partitions of {table} in place of the table, so no row would be recognised"
                ),
                altered_by_hand(missing, alter),
            );
        }
        Held::AsItself => {}
    }
    let mut more = Vec::new();
    if let Some(filter) = row_filter {
        more.push(format!("publishes only rows WHERE {filter}, while the backlog publishes all rows"));
    }
    match publication.other_tables {
        0 => {}
        others => more.push(format!("contains {others} other tables, whose rows are ignored")),
    }
    if !publication.more_operations.is_empty() {
        more.push(format!("publishes {} too, which is ignored", publication.more_operations.join(", ")));
    }
    if more.is_empty() {
        let left_out: Vec<&str> = facts.table.as_ref().map_or_else(Vec::new, |table| {
            let ordinary = table.columns.iter().filter(|column| column.generated.is_none());
            ordinary.filter(|column| !column.sent).map(|column| &*column.name).collect()
        });
        let without = match left_out.as_slice() {
            [] => String::new(),
            names => format!(", without its columns {}", names.join(", ")),
        };
        Check::passed(PUBLICATION, format!("{name} publishes inserts of {table}{without}"))
    } else {
        Check::warning(
            PUBLICATION,
            format!("{name} {}", more.join("; ")),
            match missing {
                Missing::Made if publication.is_shared() => {
                    let take_out = publication.drop_table_sql(&database.publication, &database.table, kind);
                    let take_out = take_out
                        .map(|sql| format!("; if nobody else reads {table} from this one, then: {sql};"));
                    format!(
                        "to save the server work, set postgres.publication to the name of a publication for outboxd alone{}",
                        take_out.unwrap_or_default()
                    )
                }
                Missing::Made => {
                    format!(
                        "to save the server work, create one for outboxd alone: DROP PUBLICATION {own_name}; {create};"
                    )
                }
                // The entry of the table stays, so no row is skipped.
                Missing::Gap | Missing::Mended
                    if row_filter.is_none() && publication.other_tables == 0 && !publication.is_shared() =>
                {
                    let cleanup = match database.cleanup {
                        Some(_) => " clean-up then removes no rows until you declare that all are published",
                        None => "",
                    };
                    format!("as its owner: ALTER PUBLICATION {own_name} SET (publish = 'insert');{cleanup}")
                }
                Missing::Gap | Missing::Mended => {
                    "a publication for outboxd alone would save the server work; but for the existing slot another publication is a \
                     gap, and needs `outboxd recover`"
                        .to_owned()
                }
            },
        )
    }
}
