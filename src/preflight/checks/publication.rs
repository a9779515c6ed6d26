//! The publication. One that is missing, or does not hold the table, is made or mended where nothing is lost by that: before
//! there is a slot, or by `recover`. To a slot that is there it is a gap.

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
    /// It is made, for there is no slot yet.
    Made,
    /// It is made, and so is a new slot.
    Mended,
    /// A slot that is there has passed rows over.
    Gap,
}

const RECOVER: &str = "`outboxd recover` makes it whole, and publishes the rows that the table still has";

/// The cure of what can be altered by hand while there is a slot, but is a gap all the same.
pub(super) fn altered_by_hand(missing: Missing, alter: String) -> String {
    match missing {
        Missing::Gap => {
            format!("{alter} and then `outboxd recover`, which publishes what was not sent meanwhile")
        }
        Missing::Made | Missing::Mended => alter,
    }
}

/// `None` without the table: whether it is published cannot be told before outbox.table is right.
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
                format!("{name} does not exist, so what is written now is never sent"),
                RECOVER,
            ),
            true if facts.server.may_create && owned => {
                Check::passed(PUBLICATION, format!("{name} will be created"))
            }
            true => Check::failed(
                PUBLICATION,
                format!(
                    "{name} does not exist, and role {} may not create it: that takes CREATE on the database and the \
                    ownership of the table",
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
    let not_held = format!("{name} does not hold {table}");
    match held {
        Held::No if *all_tables => {
            return Check::failed(
                PUBLICATION,
                format!("{name} holds all tables, but not {table}"),
                "an unlogged, temporary or foreign table cannot be published: see the check of the table",
            );
        }
        Held::No => {
            return match missing {
                Missing::Gap => Check::failed(PUBLICATION, not_held, RECOVER),
                Missing::Mended if publication.owned && owned => {
                    Check::passed(PUBLICATION, format!("{table} will be put into {name}"))
                }
                Missing::Mended => Check::failed(
                    PUBLICATION,
                    not_held,
                    format!("as the owner of both: {add}; and then `outboxd recover` again"),
                ),
                Missing::Made => Check::failed(PUBLICATION, not_held, format!("{add};")),
            };
        }
        // What is published as partitions comes under their names, and would be taken for rows of other tables.
        Held::AsPartitions => {
            let alter = format!("ALTER PUBLICATION {own_name} SET (publish_via_partition_root = true);");
            return Check::failed(
                PUBLICATION,
                format!("{name} publishes {table} as its partitions"),
                altered_by_hand(missing, alter),
            );
        }
        Held::AsItself => {}
    }
    let mut more = Vec::new();
    if let Some(filter) = row_filter {
        more.push(format!("publishes only rows WHERE {filter}, and the backlog is not filtered"));
    }
    match publication.other_tables {
        0 => {}
        others => more.push(format!("holds {others} other tables, whose rows are ignored")),
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
                        .map(|sql| format!("; where nobody else reads {table} from this one, then: {sql};"));
                    format!(
                        "one for outboxd alone costs the server less: set postgres.publication to a name of its own{}",
                        take_out.unwrap_or_default()
                    )
                }
                Missing::Made => {
                    format!(
                        "one for outboxd alone costs the server less: DROP PUBLICATION {own_name}; {create};"
                    )
                }
                Missing::Gap | Missing::Mended => {
                    "one for outboxd alone costs the server less; but as there is a \
                     slot, another publication is a gap, and takes `outboxd recover`"
                        .to_owned()
                }
            },
        )
    }
}
