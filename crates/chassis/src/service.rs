//! Service with a database: its tables, its queues, and its life.

use std::{collections::BTreeSet, time::Duration};

use amqp_publisher::topology::{Exchange, QueueType, Subscription};
use tokio::sync::watch;
use utoipa_axum::router::OpenApiRouter;

use super::{
    asyncapi::MessageType,
    base::Base,
    consumer::ConsumerOptions,
    database::{Database, DatabaseError},
    inbox::{self, Handler, Inbox, Progress, ProgressReader, Retention},
    outbox,
    saga::{self, Command, Definition, Orchestrator, Sagas, Silence},
    schema::Schema,
    settings::Settings,
};
use process::{backoff::Backoff, failure::Failure};

/// Parts of a service, while they are assembled.
pub struct Service {
    settings: Settings,
    database: Database,
    /// Consumers are its tasks, which start when the tables exist.
    base: Base,
}

impl Service {
    /// Returns the service's database.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// Describes message types for `/asyncapi.json`. Of these, the document has what the service sends and receives.
    pub fn describe(&mut self, messages: Vec<MessageType>) {
        self.base.describe(messages);
    }

    /// Names the events `event_types` of the aggregate type `aggregate_type` that the service writes to its outbox, for
    /// `/asyncapi.json`.
    pub fn publish(&mut self, aggregate_type: &str, event_types: &[&str]) {
        self.base.description.send(&outbox::events_of(aggregate_type), event_types);
    }

    /// Consumes the events `event_types` of the aggregate type `aggregate_type` from the durable queue `queue`, which
    /// is declared if it does not exist. One instance at a time gets its messages, in order (single active consumer).
    pub fn consume(
        &mut self,
        queue: &str,
        aggregate_type: &str,
        event_types: &[&str],
        handler: impl Handler,
    ) -> ProgressReader {
        self.listen(queue, &outbox::events_of(aggregate_type), None, event_types, handler)
    }

    /// Handles the commands `command_types` that are sent to the channel `channel`: a direct exchange and a queue of that name, from
    /// which one instance at a time gets them.
    pub fn handle_commands(&mut self, channel: &str, command_types: &[&str], handler: impl Handler) {
        self.listen(channel, channel, Some(direct(channel)), command_types, handler);
    }

    /// Coordinates sagas by the replies to their commands, and counts those that wait for one for too long.
    pub fn orchestrate<S: Sagas>(&mut self, sagas: S) {
        let definitions = sagas.definitions();
        let silence = Silence {
            limit: self.settings.saga.silence,
            saga_types: definitions.iter().map(|definition| definition.saga_type).collect(),
            database: self.database.clone(),
            metrics: self.base.metrics.clone(),
        };
        self.base.spawn(saga::watch(silence, self.base.shutdown()));
        for Command { channel, command_type, replies } in definitions.iter().flat_map(Definition::commands) {
            let replies: Vec<&str> = replies.iter().map(|(reply_type, _)| *reply_type).collect();
            self.base.description.send_command(channel, command_type, S::REPLY_CHANNEL, &replies);
        }
        let replies: BTreeSet<&str> = definitions.iter().flat_map(Definition::reply_types).collect();
        let replies: Vec<&str> = replies.into_iter().collect();
        let channel = S::REPLY_CHANNEL;
        self.listen(channel, channel, Some(direct(channel)), &replies, Orchestrator(sagas));
    }

    /// Consumes `queue`, bound to `exchange`.
    fn listen(
        &mut self,
        queue: &str,
        exchange_name: &str,
        exchange: Option<Exchange>,
        binding_keys: &[&str],
        handler: impl Handler,
    ) -> ProgressReader {
        self.base.description.receive(exchange_name, binding_keys, queue);
        let (progress, reader) = watch::channel(Progress::default());
        let inbox = Inbox {
            name: self.settings.base.name,
            options: ConsumerOptions {
                connection: self.settings.base.broker.clone(),
                declare: self.settings.base.declare,
                exchange,
                subscription: Subscription {
                    queue: queue.to_owned(),
                    exchange: exchange_name.to_owned(),
                    binding_keys: binding_keys.iter().map(|&key| key.to_owned()).collect(),
                    queue_type: QueueType::Quorum,
                    partitions: 1,
                    single_active_consumer: true,
                    dead_letter: true,
                    arguments: Vec::new(),
                },
                prefetch: self.settings.prefetch,
            },
            database: self.database.clone(),
            handler,
            metrics: self.base.metrics.clone(),
            health: self.base.health.clone(),
            progress,
        };
        self.base.spawn(inbox::consume(inbox, self.base.shutdown()));
        if let Some(age) = self.settings.inbox_retention {
            let retention = Retention {
                queue: queue.to_owned(),
                age,
                database: self.database.clone(),
                metrics: self.base.metrics.clone(),
                progress: reader.clone(),
            };
            self.base.spawn(inbox::retain(retention, self.base.shutdown()));
        }
        reader
    }
}

/// Runs a service until SIGTERM, SIGINT or SIGQUIT. `schema` has its tables. `assemble` registers its queues and
/// returns its API.
///
/// The service waits for a database or broker that cannot be reached, at the start and later. Until its tables exist,
/// it answers requests with 503.
///
/// # Errors
///
/// [`Failure`] when the address is in use, signals cannot be caught, the HTTP server or a consumer ends by itself, or
/// work in progress does not end within `drain_timeout_s`.
pub async fn run(
    settings: Settings,
    schema: &Schema,
    assemble: impl FnOnce(&mut Service) -> OpenApiRouter,
) -> Result<(), Failure> {
    // Bound before anything is changed, so that an address in use is found at once.
    let base = Base::open(settings.base.clone()).await?;
    let connections_max = settings.database_connections_max;
    let database = Database::new(settings.database.clone(), settings.base.name, connections_max)
        .map_err(|error| Failure::runtime(&error))?;
    let mut service = Service { settings, database: database.clone(), base };
    let api = assemble(&mut service);
    service.base.run(api, connections_max, prepared(&database, schema)).await
}

/// Waits for the database, and migrates its tables.
async fn prepared(database: &Database, schema: &Schema) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    loop {
        let migrated = async {
            let mut connection = database.connection().await?;
            schema.migrate(&mut connection).await
        };
        let Err(error): Result<(), DatabaseError> = migrated.await else { return };
        let wait = backoff.next_wait();
        tracing::warn!(%error, "the database is not ready; trying again in {} ms", wait.as_millis());
        tokio::time::sleep(wait).await;
    }
}

/// A point-to-point channel's exchange.
fn direct(channel: &str) -> Exchange {
    Exchange {
        name: channel.to_owned(),
        kind: "direct".to_owned(),
        durable: true,
        mandatory: true,
        arguments: Vec::new(),
    }
}
