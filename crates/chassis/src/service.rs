//! Life of one service: its tables, queues, HTTP endpoints, and an end in order.

use std::{collections::BTreeSet, time::Duration};

use amqp_publisher::topology::{Exchange, QueueType, Subscription};
use futures_util::{FutureExt, future::BoxFuture};
use tokio::{net::TcpListener, sync::watch, task::JoinSet, time::timeout};
use utoipa_axum::router::OpenApiRouter;

use super::{
    asyncapi::{Description, MessageType},
    consumer::ConsumerOptions,
    database::{Database, DatabaseError},
    health::Health,
    http,
    inbox::{self, Handler, Inbox, Progress, ProgressReader, Retention},
    metrics::Metrics,
    outbox,
    saga::{self, Command, Definition, Orchestrator, Sagas, Silence},
    schema::Schema,
    settings::Settings,
};
use process::{
    backoff::Backoff,
    failure::Failure,
    shutdown::{Shutdown, StopSignals, shutdown},
};

/// Parts of a service, while they are assembled.
pub struct Service {
    settings: Settings,
    database: Database,
    metrics: Metrics,
    health: Health,
    shutdown: Shutdown,
    /// What is sent and received, for `/asyncapi.json`.
    description: Description,
    /// Consumers, which start when the tables exist.
    consumers: Vec<BoxFuture<'static, ()>>,
}

impl Service {
    /// Returns the service's database.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// Describes message types for `/asyncapi.json`. Of these, the document has what the service sends and receives.
    pub fn describe(&mut self, messages: Vec<MessageType>) {
        self.description.know(messages);
    }

    /// Names the events `event_types` of the aggregate type `aggregate_type` that the service writes to its outbox, for
    /// `/asyncapi.json`.
    pub fn publish(&mut self, aggregate_type: &str, event_types: &[&str]) {
        self.description.send(&outbox::events_of(aggregate_type), event_types);
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
            metrics: self.metrics.clone(),
        };
        self.consumers.push(saga::watch(silence, self.shutdown.clone()).boxed());
        for Command { channel, command_type, replies } in definitions.iter().flat_map(Definition::commands) {
            let replies: Vec<&str> = replies.iter().map(|(reply_type, _)| *reply_type).collect();
            self.description.send_command(channel, command_type, S::REPLY_CHANNEL, &replies);
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
        self.description.receive(exchange_name, binding_keys, queue);
        let (progress, reader) = watch::channel(Progress::default());
        let inbox = Inbox {
            name: self.settings.name,
            options: ConsumerOptions {
                connection: self.settings.broker.clone(),
                declare: self.settings.declare,
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
            metrics: self.metrics.clone(),
            health: self.health.clone(),
            progress,
        };
        self.consumers.push(inbox::consume(inbox, self.shutdown.clone()).boxed());
        if let Some(age) = self.settings.inbox_retention {
            let retention = Retention {
                queue: queue.to_owned(),
                age,
                database: self.database.clone(),
                metrics: self.metrics.clone(),
                progress: reader.clone(),
            };
            self.consumers.push(inbox::retain(retention, self.shutdown.clone()).boxed());
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
    let listener = TcpListener::bind(&settings.listen).await.map_err(|error| {
        let listen = &settings.listen;
        Failure::Runtime(format!(
            "cannot listen on {listen}: {error}; stop what uses that address, or set listen to another"
        ))
    })?;
    let mut stop = StopSignals::listen().map_err(|error| Failure::runtime(&error))?;
    let (trigger, ended) = shutdown();
    let mut service = Service {
        database: Database::new(settings.database.clone(), settings.name, settings.database_connections_max)
            .map_err(|error| Failure::runtime(&error))?,
        metrics: Metrics::new().map_err(|error| Failure::runtime(&error))?,
        health: Health::default(),
        shutdown: ended.clone(),
        description: Description::default(),
        consumers: Vec::new(),
        settings,
    };
    let api = assemble(&mut service);
    let Service { settings, metrics, health, consumers, database, description, .. } = service;
    let (ready, is_ready) = watch::channel(false);
    let messages = description.document(settings.name);
    let router = http::router(settings.name, api, messages, metrics, is_ready, health);
    let mut answering = tokio::spawn(http::serve(listener, router, settings.database_connections_max, ended));
    tokio::select! {
        () = prepared(&database, schema) => {}
        signal = stop.next() => {
            tracing::info!(signal, "stopped before the database was ready");
            return Ok(());
        }
    }
    ready.send_replace(true);
    let mut consumers: JoinSet<()> = consumers.into_iter().collect();
    tracing::info!(listen = settings.listen, "{} is up", settings.name);

    tokio::select! {
        signal = stop.next() => {
            tracing::info!(signal, drain_timeout_s = settings.drain_timeout.as_secs(), "draining; a second signal ends at once");
        }
        ended = &mut answering => {
            return Err(Failure::Runtime(format!("the HTTP endpoints ended by themselves: {ended:?}")));
        }
        Some(ended) = consumers.join_next() => {
            return Err(Failure::Runtime(format!("a consumer ended by itself: {ended:?}")));
        }
    }
    trigger.request(settings.drain_timeout);
    let drained = async {
        while consumers.join_next().await.is_some() {}
        // Keep-alive connections without a request are closed; requests under way are answered.
        let _ = answering.await;
    };
    tokio::select! {
        drained = timeout(settings.drain_timeout, drained) => match drained {
            Ok(()) => tracing::info!("drained"),
            Err(_) => return Err(Failure::Runtime(
                "work in progress did not end within drain_timeout_s; what was not committed is done again at the next start".to_owned(),
            )),
        },
        _ = stop.next() => return Err(Failure::Runtime("stopped by a second signal".to_owned())),
    }
    Ok(())
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
