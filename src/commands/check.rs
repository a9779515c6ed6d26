//! `outboxd check`: everything that `run` needs, looked at and changed in nothing. Every source and the broker are
//! looked at whatever the others lack.

use futures_util::future::{join, join_all};

use super::{
    Failure, answer,
    checklist::{Line, Section, conclusion},
};
use crate::{
    cli::Check,
    postgres,
    rabbitmq::{self, BrokerOptions},
    relay::fence_queue,
    settings::{Settings, Source},
};

/// Shown in `pg_stat_activity` and in RabbitMQ's management.
const APPLICATION_NAME: &str = "outboxd check";

pub(super) async fn run(settings: Settings, options: &Check) -> Result<(), Failure> {
    let sections = if options.offline { offline(&settings) } else { online(&settings).await };
    let (closing, result) = conclusion(&sections);
    let text: String = sections.iter().map(Section::to_string).collect();
    answer(&(text + &closing))?;
    result
}

/// Looks at all of them at the same time: what cannot be reached takes its whole connect timeout.
pub(super) async fn online(settings: &Settings) -> Vec<Section> {
    let sources = settings.sources.iter().map(async |(name, source)| {
        let Source { database, mapping, .. } = source;
        let checks = postgres::inspection::inspect(database, mapping, APPLICATION_NAME).await;
        Section::new(title(name, source), checks)
    });
    // Under a name that no instance takes: what is asked is whether the user may.
    let fences: Vec<_> =
        settings.sources.values().map(|source| fence_queue(&source.database.slot, "check")).collect();
    let broker = rabbitmq::inspection::inspect(&settings.broker, APPLICATION_NAME, &fences);
    let (mut sections, broker) = join(join_all(sources), broker).await;
    sections.push(Section::new(BROKER, broker));
    sections
}

/// The file has been read, or we would not be here; what is left are the files that it names.
fn offline(settings: &Settings) -> Vec<Section> {
    let sources = settings.sources.iter().map(|(name, source)| {
        let tls = match source.database.endpoint.validate_tls() {
            Ok(()) => Line::passed("TLS", "certificates and key can be used, as far as sslmode needs any"),
            Err(error) => {
                Line::failed("TLS", super::chain(&error), "correct postgres.url, or the file it names")
            }
        };
        Section::new(title(name, source), [Line::passed("configuration", "valid"), tls])
    });
    let broker = [
        Line::passed("configuration", subscriptions(&settings.broker)),
        rabbitmq::inspection::validate_tls(&settings.broker).into(),
    ];
    sources.chain([Section::new(BROKER, broker)]).collect()
}

fn subscriptions(broker: &BrokerOptions) -> String {
    format!("valid, {} subscriptions", broker.subscriptions.len())
}

/// The section that is nobody's source.
pub(super) const BROKER: &str = "broker";

/// A source's section.
pub(super) fn title(name: &str, source: &Source) -> String {
    format!("source {name}: {}", source.database.endpoint)
}
