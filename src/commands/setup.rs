//! `outboxd setup`: publication, slot and RabbitMQ topology. Nothing is created unless everything can be, and what is
//! there is left alone, so that it can be repeated.
//!
//! Whoever calls it wants things created: `postgres.create` and `rabbitmq.declare` say what `run` may do.

use std::collections::HashSet;

use super::{
    Failure, answer, answer_verbatim,
    check::{self, BROKER, title},
    checklist::{Section, conclusion, of_broker, step_failed},
};
use crate::{
    backfill::{
        backlog::{self, BacklogError},
        snapshot::SnapshotError,
    },
    cli::Setup,
    message::Timestamp,
    parking::parked_table,
    postgres::{
        SourceDatabase,
        outbox_table::{self, TableFacts, TableKind},
        own_table,
        statement::CatalogError,
    },
    preflight::{
        self,
        dba_script::{self, SlotMaker, comment},
    },
    rabbitmq::{self, cures, publishing::Pattern, rabbitmqctl},
    relay::{BacklogPolicy, fence_queue, watch_slot_creation},
    settings::{Settings, Source},
    slot::{
        continuity::SlotHistory,
        creation,
        facts::slot_progress,
        publication,
        record::{self, SlotRecord},
        usage,
    },
};
use amqp_publisher::PublisherOptions;
use diagnostics::check::Check;

const APPLICATION_NAME: &str = "outboxd setup";

pub(super) async fn run(mut settings: Settings, options: &Setup) -> Result<(), Failure> {
    if options.print_sql {
        return answer_verbatim(&scripts(&settings));
    }
    if options.print_rabbitmqctl {
        return answer_verbatim(&administration(&settings)?);
    }
    if let Some([exchange, queue, key]) = options.unbind.as_deref() {
        let broker = &settings.broker;
        let unbound = rabbitmq::inspection::unbind(broker, APPLICATION_NAME, exchange, queue, key).await;
        let sections = [Section::new(BROKER, unbound.into_iter().map(of_broker))];
        answer(&sections[0].to_string())?;
        return conclusion(&sections).1;
    }
    let may_run_create: HashSet<String> = settings
        .sources
        .iter_mut()
        .filter_map(|(name, source)| {
            std::mem::replace(&mut source.database.create, true).then(|| name.clone())
        })
        .collect();
    settings.broker.topology.declare = true;

    let checked = check::online(&settings).await;
    let (_, result) = conclusion(&checked);
    if result.is_err() {
        let failed = checked.into_iter().filter(Section::has_failed).map(Section::failures);
        answer(&failed.map(|section| section.to_string()).collect::<String>())?;
        return Err(Failure::Runtime("nothing has been created: mend the above first".to_owned()));
    }

    // Queues before slots: a slot without them would only gather WAL.
    let topology = rabbitmq::inspection::establish(&settings.broker, APPLICATION_NAME).await;
    let mut sections = vec![Section::new(BROKER, topology.into_iter().map(of_broker))];
    answer(&sections[0].to_string())?;
    if sections[0].has_failed() {
        return conclusion(&sections).1;
    }
    for (name, source) in &settings.sources {
        let section = Section::new(title(name, source), create(source, may_run_create.contains(name)).await);
        // Each at once, for the next one may have to wait.
        answer(&section.to_string())?;
        sections.push(section);
    }
    conclusion(&sections).1
}

async fn create(source: &Source, may_run_create: bool) -> Vec<Check> {
    let database = &source.database;
    let publication = match publication(database).await {
        Ok(publication) => publication,
        Err(error) => return vec![step_failed("publication", &*error)],
    };
    let made = slot(source, may_run_create).await;
    let mut lines = vec![publication, made.unwrap_or_else(|error| step_failed("slot", &*error))];
    if database.parks {
        let made = parked(database).await;
        lines.push(made.unwrap_or_else(|error| step_failed(PARKED, &*error)));
    }
    lines
}

const PARKED: &str = "parked messages";

/// The table for rows that policy puts aside.
async fn parked(database: &SourceDatabase) -> Step {
    let client = database.endpoint.connect_sql(APPLICATION_NAME).await?;
    let there = own_table::own_table(&client, &database.schema, parked_table::TABLE).await?.exists;
    if !there {
        parked_table::create_table(&client, database).await?;
    }
    Ok(Check::passed(PARKED, outcome(parked_table::TABLE, !there)))
}

/// Writes down that there is a slot now, which nobody has had yet. A table that had no rows then has none unpublished.
async fn record(
    database: &SourceDatabase,
    made: Timestamp,
    empty: bool,
) -> Result<(), Box<dyn std::error::Error>> {
    let client = database.endpoint.connect_sql(APPLICATION_NAME).await?;
    let mut replication = database.connect_replication(APPLICATION_NAME).await?;
    let history = SlotHistory::gather(&client, &mut replication, database, None).await?;
    let SlotHistory { server, slot, publishing, .. } = history;
    // Whoever dropped it meanwhile is followed by the first slot.
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

type Step = Result<Check, Box<dyn std::error::Error>>;

/// Made before the slot: when WAL is decoded, the publication is looked up as it was at that time.
async fn publication(database: &SourceDatabase) -> Step {
    let client = database.endpoint.connect_sql(APPLICATION_NAME).await?;
    let SourceDatabase { publication: name, table, .. } = database;
    let kind = kind(&client, database).await?;
    let created = match publication::facts(&client, name, table).await? {
        Some(_) => false,
        // Nothing is mended here under a slot that is there: the checks before have said what that takes.
        None => publication::create(&client, name, table, kind).await?,
    };
    Ok(Check::passed("publication", outcome(name, created)))
}

async fn kind(
    client: &tokio_postgres::Client,
    database: &SourceDatabase,
) -> Result<TableKind, Box<dyn std::error::Error>> {
    match outbox_table::table(client, &database.table, &database.publication).await? {
        Some(TableFacts { kind, .. }) => Ok(kind),
        None => Err(Box::new(SnapshotError::NoTable(database.table.clone()))),
    }
}

async fn slot(source: &Source, may_run_create: bool) -> Step {
    const NAME: &str = "slot";
    let database = &source.database;
    let name = &database.slot;
    let client = database.endpoint.connect_sql(APPLICATION_NAME).await?;
    record::create_table(&client, database).await?;
    if let Some(there) = slot_progress(&client, name).await? {
        let line = slot_there(database).await?;
        let fits = there.serves() && there.active_pid.is_none();
        if fits && database.makes_failover(there.failover) {
            let mut replication = database.connect_replication(APPLICATION_NAME).await?;
            // `run` is faster, and does the same.
            if !replication.make_failover(name).await? {
                return Ok(line);
            }
            return Ok(Check::passed(
                preflight::SLOT,
                format!("{name} was there, and is a failover slot now"),
            ));
        }
        return Ok(line);
    }
    let made = Timestamp::now();
    tracing::info!(slot = name, "creating the slot, once every transaction that writes now has ended");
    let waits = |reason: String| tracing::warn!("{reason}");
    match source.relay.backlog {
        BacklogPolicy::Skip => {
            let making = creation::create_slot(&client, name, database.failover);
            match watch_slot_creation(database, APPLICATION_NAME, making, waits).await {
                Ok(()) => {
                    let kind = kind(&client, database).await?;
                    let empty = outbox_table::is_empty(&client, &database.table, kind).await?;
                    record(database, made, empty).await?;
                    Ok(Check::passed(NAME, outcome(name, true)))
                }
                Err(CatalogError::SlotExists(_)) => slot_there(database).await,
                Err(error) => Err(error.into()),
            }
        }
        BacklogPolicy::Publish => {
            let replication = database.connect_replication(APPLICATION_NAME).await?;
            let making = backlog::create_slot_if_table_is_empty(replication, client, database);
            Ok(match watch_slot_creation(database, APPLICATION_NAME, making, waits).await {
                Ok(true) => {
                    record(database, made, true).await?;
                    Check::passed(NAME, outcome(name, true))
                }
                Ok(false) if may_run_create => Check::passed(
                    NAME,
                    format!(
                        "{name} left to `run`, which publishes the rows of {} first",
                        database.table.quoted()
                    ),
                ),
                Ok(false) => Check::failed(
                    NAME,
                    format!(
                        "{name} not created: {} has rows, and `run` could publish them only before it makes the slot",
                        database.table.quoted()
                    ),
                    "set postgres.create = true until `run` has done so, or backlog = \"skip\"",
                ),
                Err(BacklogError::AlreadyThere(_) | BacklogError::Busy(_)) => {
                    return slot_there(database).await;
                }
                Err(error) => return Err(error.into()),
            })
        }
    }
}

/// Check of a slot that was there, or that somebody else makes at this moment.
async fn slot_there(database: &SourceDatabase) -> Step {
    let name = &database.slot;
    let client = database.endpoint.connect_sql(APPLICATION_NAME).await?;
    let uses = usage::read(&client, &database.schema, name).await?;
    let is_made = uses.iter().any(|one| one.slot == *name && one.is_made);
    if let Some(refusal) = preflight::slot_refusal(database, &uses, !is_made) {
        return Ok(refusal);
    }
    let maker = uses.iter().find_map(|one| one.holder.as_ref()).filter(|_| !is_made);
    Ok(Check::passed(
        preflight::SLOT,
        match maker {
            Some(holder) => format!("{name} is being made by {holder}"),
            None => outcome(name, false),
        },
    ))
}

fn outcome(name: &str, created: bool) -> String {
    format!("{name} {}", if created { "created" } else { "was there" })
}

/// Output of `--print-rabbitmqctl`.
fn administration(settings: &Settings) -> Result<String, Failure> {
    let sources = settings.sources.values();
    let publishing: Vec<_> = sources.clone().map(|source| check::publishing(&source.mapping)).collect();
    let fence = |source: &Source| Pattern::new([Some(&*fence_queue(&source.database.slot, "")), None]);
    let fences: Vec<_> = sources.map(fence).collect();
    let PublisherOptions { connection, topology, .. } = &settings.broker;
    rabbitmqctl::commands(connection, topology, &publishing, &fences)
        .map_err(|error| Failure::Runtime(cures::explain(&error)))
}

/// The output of `--print-sql`: statements for each source's database, and the broker's side as comments.
fn scripts(settings: &Settings) -> String {
    let mut text = String::new();
    for (name, source) in &settings.sources {
        let slot = match source.relay.backlog {
            BacklogPolicy::Publish if source.database.create => SlotMaker::Run,
            BacklogPolicy::Publish | BacklogPolicy::Skip => SlotMaker::Script,
        };
        text += &comment(&format!("==== {}: run this there, as a superuser ====", title(name, source)));
        text += &dba_script::script(&source.database, &source.mapping.columns, slot);
        text.push('\n');
    }
    let needed = settings.broker.topology.plan();
    if !needed.is_empty() {
        let by = if settings.broker.topology.declare {
            "`run` declares it"
        } else {
            "`outboxd setup` declares it"
        };
        text += &comment(&format!("==== {BROKER}: {by} ===="));
        text.extend(needed.iter().map(|declaration| comment(&declaration.to_string())));
        text += &comment("`outboxd setup --print-rabbitmqctl` prints the rights that this takes");
    }
    text
}
