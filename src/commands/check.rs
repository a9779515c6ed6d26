//! `outboxd check`: verifies everything that `run` needs, and changes nothing. Checks every source and the broker, whatever
//! fails elsewhere.

use std::{collections::BTreeSet, path::Path};

use futures_util::future::{join, join_all};

use super::{
    Failure, answer,
    checklist::{Section, conclusion},
};
use crate::{
    cli,
    message::{Mapping, Template},
    preflight::inspection::{self, Inspection},
    rabbitmq::{
        self,
        publishing::{Pattern, Publishing},
    },
    relay::fence_queue,
    settings::{Settings, Source},
};
use amqp_publisher::topology::Topology;
use diagnostics::check::Check;
use secret::exposure::{self, Exposure};

/// Name of the connections in `pg_stat_activity` and in RabbitMQ's management.
const APPLICATION_NAME: &str = "outboxd check";

pub(super) async fn run(
    settings: Settings,
    file: Option<&Path>,
    options: &cli::Check,
) -> Result<(), Failure> {
    let mut sections = if options.offline { offline(&settings) } else { online(&settings).await };
    sections.push(Section::new(SECRETS, secrets(&settings, file)));
    let (closing, result) = conclusion(&sections);
    let text: String = sections.iter().map(Section::to_string).collect();
    answer(&(text + &closing))?;
    result
}

/// Checks all sources and the broker at the same time: an unreachable server takes its whole connect timeout.
pub(super) async fn online(settings: &Settings) -> Vec<Section> {
    let sources = settings.sources.values().map(async |source| {
        let Source { database, mapping, .. } = source;
        inspection::inspect(database, mapping, APPLICATION_NAME).await
    });
    // Tests the permission with queue names that no instance uses.
    let fences: Vec<_> =
        settings.sources.values().map(|source| fence_queue(&source.database.slot, "check")).collect();
    let publishing: Vec<_> = settings.sources.values().map(|source| publishing(&source.mapping)).collect();
    let broker = rabbitmq::inspection::inspect(&settings.broker, APPLICATION_NAME, &publishing, &fences);
    let (inspected, broker) = join(join_all(sources), broker).await;
    // The system identifiers are known only now. These queues are looked up, never declared.
    let unused = settings.sources.values().zip(&inspected);
    let unused = unused.filter_map(|(source, inspection)| {
        Some(fence_queue(&source.database.slot, inspection.idle_on.as_deref()?))
    });
    let unused: Vec<_> = unused.collect();
    let taken = rabbitmq::inspection::look_at_fences(&settings.broker, APPLICATION_NAME, &unused).await;
    let broker = broker.into_iter().chain(taken);
    let mut sections = of_sources(settings, inspected);
    let mut broker: Vec<Check> = broker.collect();
    if let files @ [_, ..] = settings.broker.connection.files().as_slice() {
        broker.push(Check::passed("login", format!("read for every connection: {}", files.join(" and "))));
    }
    sections.push(Section::new(BROKER, broker));
    sections
}

fn of_sources(settings: &Settings, inspected: Vec<Inspection>) -> Vec<Section> {
    let numbers: Vec<_> = inspected.iter().map(|source| source.ids_are_numbers).collect();
    let sources = settings.sources.iter().zip(inspected);
    let sections = sources.map(|((name, source), Inspection { mut checks, ids_are_numbers, .. })| {
        let id = &source.mapping.id;
        let others = settings.sources.iter().zip(&numbers).filter(|((other, its), numbers)| {
            **numbers == Some(true) && *other != name && its.mapping.id == *id
        });
        let others: Vec<_> = others.map(|((other, _), _)| &**other).collect();
        checks.extend(ids_are_numbers.map(|numbers| inspection::message_ids(numbers, &others)));
        checks.extend(exchanges_of_rows(settings, source));
        Section::new(title(name, source), checks)
    });
    sections.collect()
}

/// Checks the files that the configuration names. The configuration itself is valid already.
fn offline(settings: &Settings) -> Vec<Section> {
    let sources = settings.sources.iter().map(|(name, source)| {
        let tls = match source.database.endpoint.validate_tls() {
            Ok(()) => Check::passed("TLS", "the certificates and the key that sslmode needs are usable"),
            Err(error) => {
                Check::failed("TLS", super::chain(&error), "correct postgres.url, or the file it names")
            }
        };
        let lines = [Check::passed("configuration", configuration(source)), tls];
        Section::new(title(name, source), lines.into_iter().chain(exchanges_of_rows(settings, source)))
    });
    let broker = [
        Check::passed(
            "configuration",
            subscriptions(&settings.broker.topology)
                + &read_for_every_connection(&settings.broker.connection.files()),
        ),
        rabbitmq::inspection::validate_tls(&settings.broker),
    ];
    sources.chain([Section::new(BROKER, broker)]).collect()
}

/// Checks for secret files that other users may read or replace, and for passwords sent unencrypted.
fn secrets(settings: &Settings, file: Option<&Path>) -> Vec<Check> {
    let configuration =
        file.filter(|file| std::fs::read_to_string(file).is_ok_and(|text| exposure::holds_password(&text)));
    let of_sources = settings
        .sources
        .values()
        .flat_map(|source| source.database.endpoint.secret_files())
        .map(Path::to_owned);
    let of_broker = settings.broker.connection.secret_files();
    let files: BTreeSet<_> =
        configuration.map(Path::to_owned).into_iter().chain(of_sources).chain(of_broker).collect();
    let exposed: Vec<_> = files.iter().filter_map(|file| Exposure::of(file)).collect();
    let mut lines: Vec<Check> = match exposed.as_slice() {
        [] => vec![Check::passed("secret files", "no other user of this machine can read or replace one")],
        exposed => exposed
            .iter()
            .map(|exposure| Check::warning("secret files", exposure.to_string(), exposure.cure()))
            .collect(),
    };
    lines.extend(settings.broker.connection.unencrypted_hosts().iter().map(|host| {
        Check::warning(
            "login",
            format!(
                "amqp:// sends the password for RabbitMQ at {host}, and every message, unencrypted over the network"
            ),
            "use amqps:// (port 5671, rabbitmq.tls_ca_file), or a private network between the two hosts",
        )
    }));
    lines
}

fn configuration(source: &Source) -> String {
    let files = source.database.endpoint.files();
    let files: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    "valid".to_owned() + &read_for_every_connection(&files)
}

fn read_for_every_connection(files: &[String]) -> String {
    match files {
        [] => String::new(),
        files => format!("; read for every connection: {}", files.join(" and ")),
    }
}

fn subscriptions(topology: &Topology) -> String {
    let Topology { exchanges, subscriptions, .. } = topology;
    format!("valid, {} exchanges, {} subscriptions", exchanges.len(), subscriptions.len())
}

/// Limit on the exchanges that `run` declares because rows name them.
fn exchanges_of_rows(settings: &Settings, source: &Source) -> Option<Check> {
    let exchange = publishing(&source.mapping).exchange;
    let is_named_by_rows = exchange.text().is_none() && settings.broker.topology.declare;
    is_named_by_rows.then(|| {
        let max = source.exchanges_max;
        let finding = format!(
            "`run` declares at most {max} exchanges {exchange} that rows name, besides those of the configuration and those that \
             exist (delivery.exchanges_max); a row that names one more falls under delivery.on_invalid"
        );
        Check::passed("exchanges of rows", finding)
    })
}

/// Exchange and routing key of a source, as far as the configuration fixes them.
pub(super) fn publishing(mapping: &Mapping) -> Publishing {
    let pattern = |template: &Template| Pattern::new(template.pieces(&mapping.source));
    Publishing {
        exchange: pattern(&mapping.exchange),
        routing_key: pattern(&mapping.routing_key),
        message_bytes_max: mapping.message_bytes_max,
    }
}

/// Title of the section about secrets.
const SECRETS: &str = "secrets";

/// Title of the broker's section.
pub(super) const BROKER: &str = "broker";

/// Title of a source's section.
pub(super) fn title(name: &str, source: &Source) -> String {
    format!("source {name}: {}", source.database.endpoint)
}
