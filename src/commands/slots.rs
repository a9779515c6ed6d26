//! State of the sources without a daemon, read from their databases: each slot's position and retained WAL.

use futures_util::future::join_all;
use serde::Serialize;

use super::{
    chain,
    table::{Column, size, table, unknown},
};
use crate::{
    parking::parked_table,
    postgres::SourceDatabase,
    preflight::facts::left_behind,
    settings::Settings,
    slot::{facts::SlotFacts, usage},
};
use diagnostics::{check::Problem, legible};

/// The document of `status --json` without a daemon. Its keys mean the same as those of the daemon's `/status`.
#[derive(Debug, Serialize)]
pub(super) struct Slots {
    /// Reason why no daemon answered.
    daemon: String,
    /// Sources, sorted by name.
    sources: Vec<Slot>,
}

#[derive(Debug, Default, Serialize)]
struct Slot {
    name: String,
    slot: String,
    confirmed_lsn: Option<String>,
    lag_bytes: Option<u64>,
    slot_retained_bytes: Option<u64>,
    slot_wal_status: Option<String>,
    /// Server process that streams from the slot.
    slot_active_pid: Option<i32>,
    /// Rows in the table `outboxd_parked`.
    parked_rows: Option<u64>,
    /// User of the slot, or the reason why nothing is known.
    note: String,
}

const COLUMNS: [Column<Slot>; 9] = [
    ("SOURCE", false, |slot| slot.name.clone()),
    ("SLOT", false, |slot| slot.slot.clone()),
    ("CONFIRMED", false, |slot| slot.confirmed_lsn.clone().unwrap_or_else(unknown)),
    ("LAG", true, |slot| slot.lag_bytes.map_or_else(unknown, size)),
    ("RETAINED", true, |slot| slot.slot_retained_bytes.map_or_else(unknown, size)),
    ("WAL", false, |slot| slot.slot_wal_status.clone().unwrap_or_else(unknown)),
    ("PID", true, |slot| slot.slot_active_pid.map_or_else(unknown, |pid| pid.to_string())),
    ("PARKED", true, |slot| slot.parked_rows.map_or_else(unknown, |rows| rows.to_string())),
    ("NOTE", false, |slot| slot.note.clone()),
];

impl Slots {
    /// Asks all databases at the same time. The note of one that fails has the error.
    pub(super) async fn read(settings: &Settings, daemon: String) -> Self {
        let sources = settings.sources.iter().map(async |(name, source)| {
            let database = &source.database;
            let found = Slot { name: name.clone(), slot: database.slot.clone(), ..Slot::default() };
            let Progress { slot, parked_rows, left_behind } = match progress(database).await {
                Ok(progress) => progress,
                Err(error) => return Slot { note: chain(&*error), ..found },
            };
            let mut found = match slot {
                Some(facts) => found.with(facts),
                None => Slot { note: "there is no such slot: run `outboxd check`".into(), ..found },
            };
            for Problem { what, cure, .. } in left_behind {
                found.note += &format!("; {what}: {cure}");
            }
            Slot { parked_rows, ..found }
        });
        Self { daemon, sources: join_all(sources).await }
    }

    pub(super) fn table(&self) -> String {
        format!("{}\n\n{}", self.daemon, table(&COLUMNS, &self.sources))
    }

    pub(super) fn json(&self) -> String {
        legible::document(self).unwrap_or_default()
    }
}

/// A slot's progress, read from its database.
struct Progress {
    slot: Option<SlotFacts>,
    parked_rows: Option<u64>,
    /// Rows of outboxd's tables that are in another schema.
    left_behind: Vec<Problem>,
}

async fn progress(database: &SourceDatabase) -> Result<Progress, Box<dyn std::error::Error>> {
    let client = database.endpoint.connect_sql("outboxd status").await?;
    let slots = usage::read(&client, &database.schema, &database.slot).await?;
    let slot = slots.into_iter().find(|one| one.name == database.slot);
    Ok(Progress {
        slot,
        parked_rows: parked_table::count(&client, database).await?,
        left_behind: left_behind::problems(&client, database).await?,
    })
}

impl Slot {
    fn with(self, facts: SlotFacts) -> Self {
        let SlotFacts { database, here, holder, .. } = &facts;
        let note = match (&facts.active_pid, holder) {
            _ if database.is_some() && !here => {
                "the slot belongs to another database: run `outboxd check`".to_owned()
            }
            (_, Some(holder)) => format!("in use by {holder}"),
            (Some(_), None) => "in use".to_owned(),
            _ if facts.is_lost() => "the slot is lost: run `outboxd check`".to_owned(),
            _ => "nobody streams from it".to_owned(),
        };
        Self {
            confirmed_lsn: facts.confirmed_flush.map(|lsn| lsn.to_string()),
            lag_bytes: Some(facts.lag_bytes),
            slot_retained_bytes: Some(facts.retained_bytes),
            slot_wal_status: facts.wal_status,
            slot_active_pid: facts.active_pid,
            note,
            ..self
        }
    }
}
