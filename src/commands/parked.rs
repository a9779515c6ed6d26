//! `outboxd parked`: lists parked rows, publishes them again, or deletes them.

use serde::Serialize;

use super::{
    Failure, answer, source,
    stop::{stoppable, until_stopped},
    table::{Column, one_line, table, unknown},
};
use crate::{
    cli::{Chosen, DiscardParked, ListParked, Parked, RequeueParked},
    parking::{
        parked_rows::{self, ParkedEntry},
        requeue::{self, Fate, Selected},
    },
    preflight::facts::left_behind,
    settings::Settings,
};
use diagnostics::{check::Problem, legible};

const APPLICATION_NAME: &str = "outboxd parked";

pub(super) async fn run(settings: Settings, what: &Parked) -> Result<(), Failure> {
    match what {
        Parked::List(options) => until_stopped(list(&settings, options)).await,
        Parked::Requeue(options) => requeue(&settings, options).await,
        Parked::Discard(options) => until_stopped(discard(&settings, options)).await,
    }
}

const COLUMNS: [Column<ParkedEntry>; 7] = [
    ("POSITION", false, |row| row.position.to_string()),
    ("MESSAGE ID", false, |row| row.message_id.clone().unwrap_or_else(unknown)),
    ("AGGREGATE", false, |row| row.aggregate().map_or_else(unknown, |(kind, id)| format!("{kind}/{id}"))),
    ("EVENT TYPE", false, |row| row.event_type.clone().unwrap_or_else(unknown)),
    ("CAUSE", false, |row| row.cause.clone()),
    ("PARKED AT", false, |row| row.parked_at.to_string()),
    ("REASON", false, |row| row.reason.clone()),
];

/// A parked row in the output of `parked list --json`, without its payload.
#[derive(Serialize)]
struct Shown<'a> {
    position: String,
    cause: &'a str,
    reason: &'a str,
    message_id: Option<&'a str>,
    aggregate_type: Option<&'a str>,
    aggregate_id: Option<&'a str>,
    event_type: Option<&'a str>,
    exchange: Option<&'a str>,
    routing_key: Option<&'a str>,
    committed_at: String,
    parked_at: String,
}

impl<'a> From<&'a ParkedEntry> for Shown<'a> {
    fn from(entry: &'a ParkedEntry) -> Self {
        Self {
            position: entry.position.to_string(),
            cause: &entry.cause,
            reason: &entry.reason,
            message_id: entry.message_id.as_deref(),
            aggregate_type: entry.aggregate_type.as_deref(),
            aggregate_id: entry.aggregate_id.as_deref(),
            event_type: entry.event_type.as_deref(),
            exchange: entry.exchange.as_deref(),
            routing_key: entry.routing_key.as_deref(),
            committed_at: entry.committed_at.to_string(),
            parked_at: entry.parked_at.to_string(),
        }
    }
}

async fn list(settings: &Settings, options: &ListParked) -> Result<(), Failure> {
    let source = source(settings, &options.source)?;
    let database = &source.database;
    let client =
        database.endpoint.connect_sql(APPLICATION_NAME).await.map_err(|error| Failure::runtime(&error))?;
    let entries = parked_rows::list(&client, database).await.map_err(|error| Failure::runtime(&error))?;
    let elsewhere = left_behind::parked(&client, database).await.map_err(|error| Failure::runtime(&error))?;
    if let Some(Problem { what, cure, .. }) = elsewhere {
        tracing::warn!(source = options.source, "{what}: {cure}");
    }
    if options.json {
        let shown: Vec<Shown<'_>> = entries.iter().map(Shown::from).collect();
        return answer(&legible::document(&shown).unwrap_or_default());
    }
    answer(&if entries.is_empty() { "nothing is parked\n".to_owned() } else { table(&COLUMNS, &entries) })
}

async fn requeue(settings: &Settings, options: &RequeueParked) -> Result<(), Failure> {
    let source = source(settings, &options.source)?;
    let selected = selected(&options.chosen);
    let (mut requeued, mut staying) = (0, 0);
    let job = stoppable(settings.drain_timeout, async |shutdown| {
        requeue::requeue(&source, &selected, options.out_of_order, shutdown, |entry, fate| match fate {
            Fate::Requeued => {
                requeued += 1;
                say(entry, "requeued");
            }
            Fate::Stays(why) => {
                staying += 1;
                say(entry, &format!("stays parked: {}", one_line(why)));
            }
        })
        .await
    });
    let done = job.await?;
    answer(&format!("requeued: {requeued}, still parked: {staying}\n"))?;
    done.map_err(|error| Failure::runtime(&error))?;
    match staying {
        0 => Ok(()),
        _ => Err(Failure::Runtime(format!("{staying} rows stay parked; see the reasons above"))),
    }
}

async fn discard(settings: &Settings, options: &DiscardParked) -> Result<(), Failure> {
    let source = source(settings, &options.source)?;
    let mut discarded = 0;
    let done = requeue::discard(&source, &selected(&options.chosen), |entry| {
        discarded += 1;
        say(entry, "discarded");
    })
    .await;
    answer(&format!("discarded: {discarded}\n"))?;
    done.map_err(|error| Failure::runtime(&error))
}

fn selected(chosen: &Chosen) -> Selected {
    if chosen.all { Selected::All } else { Selected::Named(chosen.names.clone()) }
}

/// Prints each row at once, because the command may end at any time. An unreadable stdout is reported at the end.
fn say(entry: &ParkedEntry, what: &str) {
    let id = entry.message_id.as_deref().map_or_else(unknown, one_line);
    let aggregate = entry.aggregate().map_or_else(unknown, |(kind, id)| one_line(&format!("{kind}/{id}")));
    let _ = answer(&format!("{}  {id}  {aggregate}  {what}\n", entry.position));
}
