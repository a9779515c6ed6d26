//! Creation of a source's publication, slot and tables. Each step leaves an existing object alone, so that it can be repeated.

use std::error::Error;

use tokio_postgres::Client;

use crate::{
    backfill::{
        backlog::{self, BacklogError},
        snapshot::SnapshotError,
    },
    message::Timestamp,
    parking::parked_table,
    postgres::{
        SourceDatabase,
        outbox_table::{self, TableFacts, TableKind},
        own_table,
    },
    preflight,
    relay::{BacklogPolicy, watch_slot_creation},
    slot::{
        continuity::SlotHistory,
        creation::{self, SlotError},
        publication,
        record::{self, SlotRecord},
        usage,
    },
};
use diagnostics::{chain, check::Check};

/// The creation of one source's objects.
pub struct Creation<'a> {
    /// The source's database.
    pub database: &'a SourceDatabase,
    /// `backlog`: the fate of rows that are older than the slot.
    pub backlog: BacklogPolicy,
    /// `postgres.create`: set if `run` may create the slot after the backlog.
    pub may_run_create: bool,
    /// Name of the connections, shown in `pg_stat_activity`.
    pub application_name: &'a str,
}

type Step = Result<Check, Box<dyn Error>>;

impl Creation<'_> {
    /// Creates what is missing. Returns a check for each step; nothing is created after a failed publication.
    pub async fn run(&self) -> Vec<Check> {
        let failed = |name, error: Box<dyn Error>| {
            Check::failed(name, chain(&*error), "see `outboxd check`, then repeat the command")
        };
        let publication = match self.publication().await {
            Ok(publication) => publication,
            Err(error) => return vec![failed(preflight::PUBLICATION, error)],
        };
        let slot = self.slot().await.unwrap_or_else(|error| failed(preflight::SLOT, error));
        let mut checks = vec![publication, slot];
        if self.database.parks {
            checks.push(self.parked().await.unwrap_or_else(|error| failed(preflight::PARKED, error)));
        }
        checks
    }

    /// Creates the publication. It must exist before the slot, because the plugin uses the publication as it was when a row was
    /// written. Under an existing slot nothing is repaired: the checks before have the cure.
    async fn publication(&self) -> Step {
        let SourceDatabase { publication: name, table, .. } = self.database;
        let client = self.connect().await?;
        let kind = self.kind(&client).await?;
        let created = match publication::facts(&client, name, table).await? {
            Some(_) => false,
            None => publication::create(&client, name, table, kind).await?,
        };
        Ok(Check::passed(preflight::PUBLICATION, outcome(name, created)))
    }

    async fn slot(&self) -> Step {
        let Creation { database, application_name, .. } = *self;
        let name = &database.slot;
        let client = self.connect().await?;
        record::create_table(&client, database).await?;
        let slots = usage::read(&client, &database.schema, name).await?;
        if let Some(there) = slots.iter().find(|one| one.name == *name) {
            let fits = there.serves() && there.active_pid.is_none();
            if fits && database.makes_failover(there.failover) {
                let mut replication = database.connect_replication(application_name).await?;
                if replication.make_failover(name).await? {
                    let what = format!("{name} was there, and is a failover slot now");
                    return Ok(Check::passed(preflight::SLOT, what));
                }
            }
            return self.existing_slot().await;
        }
        let made = Timestamp::now();
        tracing::info!(
            slot = name,
            "creating the slot after all open transactions that have written have ended"
        );
        let waits = |reason: String| tracing::warn!("{reason}");
        match self.backlog {
            BacklogPolicy::Skip => {
                let making = creation::create_slot(&client, name, database.failover);
                match watch_slot_creation(database, application_name, making, waits).await {
                    Ok(()) => {
                        let kind = self.kind(&client).await?;
                        let empty = outbox_table::is_empty(&client, &database.table, kind).await?;
                        self.record(made, empty).await?;
                        Ok(Check::passed(preflight::SLOT, outcome(name, true)))
                    }
                    Err(SlotError::Exists(_)) => self.existing_slot().await,
                    Err(error) => Err(error.into()),
                }
            }
            BacklogPolicy::Publish => {
                let replication = database.connect_replication(application_name).await?;
                let making = backlog::create_slot_if_table_is_empty(replication, client, database);
                match watch_slot_creation(database, application_name, making, waits).await {
                    Ok(true) => {
                        self.record(made, true).await?;
                        Ok(Check::passed(preflight::SLOT, outcome(name, true)))
                    }
                    Ok(false) => Ok(self.left_to_run()),
                    Err(BacklogError::AlreadyThere(_) | BacklogError::Busy(_)) => self.existing_slot().await,
                    Err(error) => Err(error.into()),
                }
            }
        }
    }

    /// The slot of a table with rows, which only `run` may create, after the backlog.
    fn left_to_run(&self) -> Check {
        let SourceDatabase { slot, table, .. } = self.database;
        let table = table.quoted();
        if self.may_run_create {
            let what = format!("{slot} left to `run`, which publishes the rows of {table} first");
            return Check::passed(preflight::SLOT, what);
        }
        Check::failed(
            preflight::SLOT,
            format!(
                "{slot} not created: {table} has rows, which are published only if `run` creates the slot after them, and \
                 postgres.create is false"
            ),
            "set postgres.create = true until `run` has created the slot; or set backlog = \"skip\", which publishes none of the rows",
        )
    }

    /// Check of a slot that exists, or that another process creates at this moment.
    async fn existing_slot(&self) -> Step {
        let SourceDatabase { slot: name, schema, .. } = self.database;
        let client = self.connect().await?;
        let slots = usage::read(&client, schema, name).await?;
        let is_made = slots.iter().any(|one| one.name == *name && one.is_made());
        if let Some(refusal) = preflight::slot_refusal(self.database, &slots, !is_made) {
            return Ok(refusal);
        }
        let maker = slots.iter().find_map(|one| one.holder.as_ref()).filter(|_| !is_made);
        Ok(Check::passed(
            preflight::SLOT,
            match maker {
                Some(holder) => format!("{name} is being created by {holder}"),
                None => outcome(name, false),
            },
        ))
    }

    /// Writes the first record of the slot, which no instance has had yet. If the table was empty, none of its rows is unpublished.
    async fn record(&self, made: Timestamp, empty: bool) -> Result<(), Box<dyn Error>> {
        let database = self.database;
        let client = self.connect().await?;
        let mut replication = database.connect_replication(self.application_name).await?;
        let history = SlotHistory::gather(&client, &mut replication, database, None).await?;
        let SlotHistory { server, slot, publishing, .. } = history;
        // If another process has dropped the slot meanwhile, the next one is a first slot without a record.
        let Some(confirmed_flush) = slot.and_then(|slot| slot.confirmed_flush) else { return Ok(()) };
        let record = SlotRecord {
            system_id: server.system_id,
            timeline: server.timeline,
            confirmed_flush,
            confirmed_until: Some(made),
            holder: None,
            gap: None,
            published_by: publishing.by(),
            unproven: (!empty).then(|| record::LEFT_OUT.to_owned()),
            version: 1,
            as_written: true,
        };
        Ok(record::write_first(&client, database, &record).await?)
    }

    /// Creates the table of parked rows.
    async fn parked(&self) -> Step {
        let client = self.connect().await?;
        let there = own_table::own_table(&client, &self.database.schema, parked_table::TABLE).await?.exists;
        if !there {
            parked_table::create_table(&client, self.database).await?;
        }
        Ok(Check::passed(preflight::PARKED, outcome(parked_table::TABLE, !there)))
    }

    async fn connect(&self) -> Result<Client, Box<dyn Error>> {
        Ok(self.database.endpoint.connect_sql(self.application_name).await?)
    }

    async fn kind(&self, client: &Client) -> Result<TableKind, Box<dyn Error>> {
        let SourceDatabase { table, publication, .. } = self.database;
        match outbox_table::table(client, table, publication).await? {
            Some(TableFacts { kind, .. }) => Ok(kind),
            None => Err(Box::new(SnapshotError::NoTable(table.clone()))),
        }
    }
}

fn outcome(name: &str, created: bool) -> String {
    format!("{name} {}", if created { "created" } else { "was there" })
}
