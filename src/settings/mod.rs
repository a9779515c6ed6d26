//! outboxd's configuration keys: reads file and environment with [`configuration`] into each room's options, or lists every problem.
//!
//! Knows the names, ranges and defaults of all keys. A test compares them with `config/outboxd.toml`, which documents them. Opens no
//! connection.

mod arguments;
pub(crate) mod broker;
mod exchanges;
mod names;
mod source;
mod subscriptions;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::Path,
    time::Duration,
};

use crate::{
    message::Mapping,
    postgres::SourceDatabase,
    rabbitmq::publishing::Pattern,
    relay::{self, RelayOptions, SharedWindow},
};
use amqp_publisher::{FenceMemory, PublisherOptions, publisher::exchange_limit::ExchangeLimit};
use configuration::{self, Origins, Section};
pub use configuration::{Origin, Problem, SettingsError};

/// Prefix of the environment variables that override the file. `__` in a name stands for a dot.
pub const ENVIRONMENT_PREFIX: &str = "OUTBOXD__";

/// The whole configuration, checked as far as possible without a connection.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Address of the admin endpoints; `None` switches them off.
    pub admin_listen: Option<SocketAddr>,
    /// The broker, and the durable subscriptions on it.
    pub broker: PublisherOptions,
    /// The sources by name; at least one.
    pub sources: BTreeMap<String, Source>,
    /// Longest wait of a shutdown for confirms.
    pub drain_timeout: Duration,
}

/// One outbox table.
#[derive(Clone, Debug)]
pub struct Source {
    /// Database, slot, publication and table.
    pub database: SourceDatabase,
    /// Mapping of rows to messages.
    pub mapping: Mapping,
    /// Delivery: ordering, window, policies.
    pub relay: RelayOptions,
    /// `delivery.exchanges_max`.
    pub exchanges_max: usize,
}

impl Source {
    /// Makes the relay's source of this name, which publishes to `broker`.
    pub fn at(self, name: &str, broker: &PublisherOptions) -> relay::Source {
        let Source { database, mapping, relay, exchanges_max } = self;
        let exchange = Pattern::new(mapping.exchange.pieces(&mapping.source));
        let exchange_limit = ExchangeLimit::new(exchanges_max, exchange.text());
        let broker =
            PublisherOptions { exchange_limit, fence_memory: FenceMemory::default(), ..broker.clone() };
        relay::Source { name: name.to_owned(), database, mapping, broker, relay }
    }
}

/// Tells whether an environment variable of this process begins with [`ENVIRONMENT_PREFIX`].
pub fn environment_says_something() -> bool {
    let (environment, problems) = configuration::environment(|name| name.starts_with(ENVIRONMENT_PREFIX));
    !environment.is_empty() || !problems.is_empty()
}

/// Reads `file`, if there is one, overridden by the variables of this process that begin with [`ENVIRONMENT_PREFIX`].
///
/// # Errors
///
/// Returns every problem at once, each with file or variable, key and cure. No problem shows a secret.
pub fn load(file: Option<&Path>) -> Result<Settings, SettingsError> {
    let (environment, mut problems) = configuration::environment(|name| name.starts_with(ENVIRONMENT_PREFIX));
    match load_with(file, &environment) {
        Ok(settings) if problems.is_empty() => Ok(settings),
        Ok(_) => Err(SettingsError { problems }),
        Err(error) => {
            problems.extend(error.problems);
            Err(SettingsError { problems })
        }
    }
}

/// Reads like [`load`], from the given environment. Variables without the prefix are ignored.
///
/// # Errors
///
/// See [`load`].
pub fn load_with(
    file: Option<&Path>,
    environment: &BTreeMap<String, String>,
) -> Result<Settings, SettingsError> {
    configuration::read(&Origins { file, prefix: ENVIRONMENT_PREFIX, environment }, from_root)
}

/// Reads only the address of the admin endpoints; `None` means that they are switched off. Problems of other keys are not reported.
///
/// Where `OUTBOXD__ADMIN__LISTEN` gives the address, the file is not read.
///
/// # Errors
///
/// Returns every problem of the keys of `admin`, or the problem that keeps the file from being read.
pub fn admin_listen(file: Option<&Path>) -> Result<Option<SocketAddr>, SettingsError> {
    let of_admin = format!("{ENVIRONMENT_PREFIX}ADMIN__");
    let (environment, problems) = configuration::environment(|name| name.starts_with(&of_admin));
    if !problems.is_empty() {
        return Err(SettingsError { problems });
    }
    admin_listen_with(file, &environment)
}

/// Reads like [`admin_listen`], from the given environment.
fn admin_listen_with(
    file: Option<&Path>,
    environment: &BTreeMap<String, String>,
) -> Result<Option<SocketAddr>, SettingsError> {
    let file = file.filter(|_| !environment.contains_key(&format!("{ENVIRONMENT_PREFIX}ADMIN__LISTEN")));
    let origins = Origins { file, prefix: ENVIRONMENT_PREFIX, environment };
    configuration::read(&origins, |mut root| admin(&mut root.section("admin")))
}

/// Address of the admin endpoints: `Some(None)` where they are switched off, `None` after a reported problem.
fn admin(section: &mut Section<'_>) -> Option<Option<SocketAddr>> {
    let enabled = section.flag("enabled", true);
    let listen = section.parsed("listen", Some("127.0.0.1:9464"), |text| {
        text.parse::<SocketAddr>().map_err(|_| {
            ("must be an IP address and a port".into(), "write for instance \"127.0.0.1:9464\"".into())
        })
    });
    if enabled { listen.map(Some) } else { Some(None) }
}

/// Reads every key from the tree of file and environment. Returns `None` after a reported problem. A value may come with problems, too.
pub fn from_root(mut root: Section<'_>) -> Option<Settings> {
    let mut section = root.section("admin");
    let admin_listen = admin(&mut section);
    section.finish();
    let drain_timeout = root.seconds("drain_timeout_s", 1..=3600, 30);
    let broker = broker::read(&mut root);

    let mut sections = root.section("sources");
    let mut sources = BTreeMap::new();
    let window = SharedWindow::default();
    let names = sections.names();
    if names.is_empty() {
        root.problem("sources", "there is no source", "add a section [sources.NAME] with postgres.url");
    }
    for name in names {
        let section = sections.named_section(&name, "<source>");
        if let Some(source) = source::read(&name, section, broker.confirm_timeout, &window) {
            sources.insert(name, source);
        }
    }
    refuse_shared_slots(&sections, &sources);
    sections.finish();
    root.finish();

    Some(Settings { admin_listen: admin_listen?, broker: broker.options, sources, drain_timeout })
}

/// Refuses a slot of two sources: a slot streams to one connection at a time, so the second source would stand by for ever.
fn refuse_shared_slots(sections: &Section<'_>, sources: &BTreeMap<String, Source>) {
    let mut seen = BTreeSet::new();
    for (name, source) in sources {
        let place = source.database.endpoint.describe();
        // All databases of a server share the names of slots.
        let server = place.rsplit_once('/').map_or(&*place, |(server, _)| server).to_owned();
        if !seen.insert((server, &source.database.slot)) {
            sections.problem(
                &format!("{name}.postgres.slot"),
                format!("another source on this server already uses the slot \"{}\"", source.database.slot),
                "set a different slot for each source",
            );
        }
    }
}

#[cfg(test)]
mod tests;
