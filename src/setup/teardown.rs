//! Removal of a source's slot, record and publication. Objects of other programs and owners stay, and so do parked rows: they were
//! never published, and nobody has discarded them.

use std::fmt;

use crate::{
    parking::parked_table,
    postgres::{SourceDatabase, statement::CatalogError},
    preflight::{Facts, Problem},
    slot::{
        creation::{self, SlotError},
        facts::SlotFacts,
        publication::{self, PublicationFacts},
        record,
    },
};
use pg_replication::ConnectError;

/// A step that is done. Its text is a line for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removed {
    /// The slot, the record or the publication.
    Object {
        /// Kind of the object.
        what: &'static str,
        /// Name of the object, or of its slot.
        name: String,
        /// Set if the object existed.
        existed: bool,
    },
    /// Parked rows, which stay.
    ParkedRowsStay(u64),
    /// The publication of another owner, or one that other tables use.
    PublicationStays {
        /// Name of the publication.
        name: String,
        /// Reason.
        why: String,
        /// The statement for its owner, as the end of the line.
        next: String,
    },
}

impl fmt::Display for Removed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Removed::Object { what, name, existed } => {
                write!(f, "{what} {name}: {}", if *existed { "dropped" } else { "was not there" })
            }
            Removed::ParkedRowsStay(rows) => write!(
                f,
                "parked messages: {rows} stay in {}; `outboxd parked` lists, requeues or discards them",
                parked_table::TABLE
            ),
            Removed::PublicationStays { name, why, next } => {
                write!(f, "publication {name}: stays, because {why}; it holds no WAL back{next}")
            }
        }
    }
}

/// Failure of a teardown.
#[derive(Debug, thiserror::Error)]
pub enum TeardownError {
    /// The database cannot be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A statement failed.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The slot is in use.
    #[error(transparent)]
    Slot(#[from] SlotError),
    /// The record lies in another schema. The next slot of this name would be taken for a gap.
    #[error("nothing is dropped: {0}")]
    LeftBehind(Problem),
    /// The slot is not outboxd's.
    #[error(
        "slot {slot} is not dropped: it is not a pgoutput slot of database {database}, so it is not outboxd's; correct postgres.slot"
    )]
    Foreign {
        /// Name of the slot.
        slot: String,
        /// Database of the source.
        database: String,
    },
}

/// Drops the slot, clears its record and drops the publication. Calls `tell` after each step.
///
/// # Errors
/// [`TeardownError`]. Steps told before it are done.
pub async fn tear_down(
    database: &SourceDatabase,
    application_name: &str,
    mut tell: impl FnMut(Removed),
) -> Result<(), TeardownError> {
    let SourceDatabase { slot, publication, .. } = database;
    let client = database.endpoint.connect_sql(application_name).await?;
    let facts = Facts::read(&client, database).await?;
    let role = &facts.server.role;
    if let Some(left) = facts.left_behind.iter().find(|found| found.is_record()) {
        return Err(TeardownError::LeftBehind(left.problem(database, facts.records, role)));
    }
    for one in facts.slots.iter().filter(|one| one.is_of(slot)) {
        may_drop(one, &facts.server.database)?;
    }
    // The slot first, because a slot in use needs the publication.
    let existed = creation::drop_slot(&client, slot).await?;
    tell(Removed::Object { what: "slot", name: slot.clone(), existed });
    let existed = record::tear_down(&client, database).await?;
    tell(Removed::Object { what: "record of slot", name: slot.clone(), existed });
    if let Some(rows @ 1..) = parked_table::count(&client, database).await? {
        tell(Removed::ParkedRowsStay(rows));
    }
    if let Some(found) = &facts.publication
        && let Some(why) = why_it_stays(found, role)
    {
        let next = next_step(database, found, &facts);
        tell(Removed::PublicationStays { name: publication.clone(), why, next });
        return Ok(());
    }
    let existed = publication::drop(&client, publication).await?;
    tell(Removed::Object { what: "publication", name: publication.clone(), existed });
    Ok(())
}

/// Refuses a slot that is in use, or that is not outboxd's: a wrong name in the configuration may be that of a standby's slot.
fn may_drop(slot: &SlotFacts, database: &str) -> Result<(), TeardownError> {
    if slot.plugin.as_deref() != Some("pgoutput") || !slot.here {
        return Err(TeardownError::Foreign { slot: slot.name.clone(), database: database.to_owned() });
    }
    if slot.active_pid.is_some() {
        let holder = slot.holder.clone().map(Box::new);
        return Err(SlotError::InUse { slot: slot.name.clone(), holder }.into());
    }
    Ok(())
}

/// The reason why the publication stays: other tables use it, or a DBA owns it.
fn why_it_stays(found: &PublicationFacts, role: &str) -> Option<String> {
    let PublicationFacts { owned, owner, .. } = found;
    let mut why = Vec::new();
    if found.is_shared() {
        why.push("it is for other tables too".to_owned());
    }
    if !owned {
        why.push(format!(
            "its owner is {owner}, and only the owner or a superuser may drop it, not role {role}"
        ));
    }
    (!why.is_empty()).then(|| why.join(", and "))
}

fn next_step(database: &SourceDatabase, found: &PublicationFacts, facts: &Facts) -> String {
    let SourceDatabase { publication, table, .. } = database;
    if !found.is_shared() {
        return format!(". To remove it: {};", publication::drop_sql(publication));
    }
    let kind = facts.table.as_ref().map(|table| table.kind);
    let remove = kind.and_then(|kind| found.drop_table_sql(publication, table, kind));
    remove.map(|sql| format!(". To take {} out of it: {sql};", table.quoted())).unwrap_or_default()
}
