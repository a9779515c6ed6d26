//! Compares the configuration with the broker and finds every problem at once. Only [`establish`] declares, and [`unbind`] removes,
//! anything that stays.

use std::borrow::Cow;

use super::{cures, publishing::Publishing};
use amqp_publisher::{
    connection::{CallError, ChannelId, Connection},
    error::{BrokerError, DeclareError},
    fence::{self, FenceOwner},
    probe,
    publisher::PublisherOptions,
    refusal::Reason,
    topology::{CONSISTENT_HASH, DELAYED_MESSAGE, Declaration, Destination, Exchange, is_predeclared},
};
use diagnostics::{
    check::{Check, Finding, Problem},
    remedy::Remedy,
};

/// Channel of the declarations. A failed declaration closes the channel, so each one opens it again.
const CHANNEL: ChannelId = 1;
/// Largest message sent to find out whether the broker accepts `delivery.message_bytes_max`.
const SENT_BYTES_MAX: usize = 64 << 20;
/// Stands for a text that rows fill in.
const SAMPLE: &str = "outboxd-check";

/// Connects and checks everything that `run` needs from the broker: configured exchanges and queues, room for missing queues, the
/// fences, and the publishing of the sources. Closes the connection.
pub async fn inspect(
    options: &PublisherOptions,
    connection_name: &str,
    publishing: &[Publishing],
    fences: &[String],
) -> Vec<Check> {
    let mut inspection = match Inspection::begin(options, connection_name).await {
        Ok(inspection) => inspection,
        Err(check) => return vec![check],
    };
    inspection.look_at_topology(publishing).await;
    inspection.try_queues(fences).await;
    inspection.try_fences(fences).await;
    inspection.try_publishing(publishing).await;
    let mut checks = inspection.finish().await;
    checks.extend(options.topology.exchanges.iter().filter(|exchange| !exchange.mandatory).map(given_up));
    checks
}

/// Checks that nobody owns the fences of sources whose slots nobody uses. Changes nothing. Leaves an unreachable broker to
/// [`inspect`].
pub async fn look_at_fences(
    options: &PublisherOptions,
    connection_name: &str,
    fences: &[String],
) -> Vec<Check> {
    if fences.is_empty() {
        return Vec::new();
    }
    let Ok(mut inspection) = Inspection::begin(options, connection_name).await else { return Vec::new() };
    inspection.checks.clear();
    inspection.look_at_fences(fences).await;
    inspection.finish().await
}

/// Check that names the loss of publishing without `mandatory`.
fn given_up(Exchange { name, kind, .. }: &Exchange) -> Check {
    let why = if kind == DELAYED_MESSAGE { " (RabbitMQ returns messages that it delays)" } else { "" };
    let finding = format!(
        "are published without `mandatory`{why}: a message that no queue is bound for is lost and counts as confirmed; \
         delivery.on_unroutable has no effect"
    );
    Check::passed(format!("messages to exchange '{name}'"), finding)
}

/// Connects, declares the configured exchanges, queues and bindings whatever `declare` says, and closes the connection.
pub async fn establish(options: &PublisherOptions, connection_name: &str) -> Vec<Check> {
    let mut inspection = match Inspection::begin(options, connection_name).await {
        Ok(inspection) => inspection,
        Err(check) => return vec![check],
    };
    for declaration in options.topology.plan() {
        let finding = inspection.establish(&declaration).await.map_err(of_error);
        inspection.note(declaration.object(), finding).await;
    }
    inspection.note_other_bindings().await;
    inspection.finish().await
}

/// Removes a binding that the configuration no longer has, of a queue or of a partitioned subscription's exchange. Neither `run` nor
/// `setup` removes a binding by itself.
pub async fn unbind(
    options: &PublisherOptions,
    connection_name: &str,
    exchange: &str,
    queue: &str,
    key: &str,
) -> Vec<Check> {
    let planned = options.topology.plan();
    let is_exchange = planned.iter().any(
        |declaration| matches!(declaration, Declaration::Exchange { name, kind, .. } if name == queue && kind == CONSISTENT_HASH),
    );
    let destination = if is_exchange {
        Destination::Exchange(queue.to_owned())
    } else {
        Destination::Queue(queue.to_owned())
    };
    let binding = Declaration::Binding {
        destination: destination.clone(),
        source: exchange.to_owned(),
        key: key.to_owned(),
    };
    if planned.contains(&binding) {
        let what = "is in the configuration: `run` would create it again".to_owned();
        let cure =
            format!("remove \"{key}\" from binding_keys of that subscription first, and restart outboxd");
        return vec![Check::failed(binding.object(), what, cure)];
    }
    let mut inspection = match Inspection::begin(options, connection_name).await {
        Ok(inspection) => inspection,
        Err(check) => return vec![check],
    };
    let unbound = probe::unbind(&mut inspection.connection, &destination, exchange, key).await;
    let finding = match unbound {
        Ok(()) => {
            Ok("does not exist now: messages with that key reach the queue only through other bindings"
                .to_owned())
        }
        Err(error) => Err(of_error(probe::failure(binding.object(), error, &inspection.connection))),
    };
    inspection.note(binding.object(), finding).await;
    inspection.finish().await
}

/// Checks the certificates and the key without a connection.
pub fn validate_tls(options: &PublisherOptions) -> Check {
    let connector = options.connection.tls_config();
    let finding = match connector {
        Ok(Some(_)) => Ok("certificates and key are usable".to_owned()),
        Ok(None) => Ok("not used: no URL begins with amqps://".to_owned()),
        Err(error) => Err(of_error(error)),
    };
    check("TLS", finding)
}

/// A connection for the checks, and their results so far.
struct Inspection<'o> {
    options: &'o PublisherOptions,
    name: &'o str,
    connection: Connection,
    checks: Vec<Check>,
    /// Number of missing queues that may be declared.
    missing_queues: usize,
}

impl<'o> Inspection<'o> {
    async fn begin(options: &'o PublisherOptions, name: &'o str) -> Result<Self, Check> {
        const NAME: &str = "RabbitMQ";
        match Connection::connect(&options.connection, name, 0).await {
            Ok(connection) => {
                let checks = vec![Check::passed(NAME, format!("connected to {}", connection.at()))];
                Ok(Self { options, name, connection, checks, missing_queues: 0 })
            }
            Err(error) => Err(check(NAME, Err(of_error(error)))),
        }
    }

    async fn finish(self) -> Vec<Check> {
        self.connection.close().await;
        self.checks
    }

    async fn note(&mut self, name: String, finding: Result<String, Problem>) {
        self.add(check(name, finding)).await;
    }

    async fn warn(&mut self, name: String, finding: Result<String, Problem>) {
        let finding = finding.map_or_else(Finding::Warning, Finding::Passed);
        self.add(Check { name: name.into(), finding }).await;
    }

    /// Adds a check. RabbitMQ closes the connection after some failures: the next checks use a new one.
    async fn add(&mut self, check: Check) {
        self.checks.push(check);
        if self.connection.is_lost()
            && let Ok(connection) = Connection::connect(&self.options.connection, self.name, 0).await
        {
            self.connection = connection;
        }
    }

    /// Tells whether a check of this exchange has failed, whatever its type.
    fn has_failed(&self, exchange: &str) -> bool {
        let begins = format!("exchange '{exchange}' (");
        self.checks
            .iter()
            .any(|check| check.name.starts_with(&begins) && !matches!(check.finding, Finding::Passed(_)))
    }

    async fn establish(&mut self, declaration: &Declaration) -> Result<String, BrokerError> {
        let connection = &mut self.connection;
        let was_there = on_fresh_channel(connection, declaration, false).await.is_ok();
        on_fresh_channel(connection, declaration, true).await?;
        Ok(match declaration {
            Declaration::Binding { .. } => "is there",
            _ if was_there => "was there",
            _ => "created",
        }
        .to_owned())
    }

    /// Checks the configured topology, and the exchanges that `message.exchange` names.
    async fn look_at_topology(&mut self, publishing: &[Publishing]) {
        let mut needed = self.options.topology.plan();
        for exchange in publishing.iter().filter_map(|publishing| publishing.exchange.text()) {
            let is_needed = |declaration: &Declaration| matches!(declaration, Declaration::Exchange { name, .. } if name == exchange);
            if !is_predeclared(exchange) && !needed.iter().any(is_needed) {
                needed.push(Declaration::topic_exchange(exchange));
            }
        }
        for declaration in needed {
            let finding = self.look(&declaration).await.map_err(of_error);
            self.note(declaration.object(), finding).await;
        }
        self.note_other_bindings().await;
    }

    /// Notes that neither `run` nor `setup` removes bindings that the configuration no longer has.
    async fn note_other_bindings(&mut self) {
        if !self.options.topology.subscriptions.is_empty() {
            let finding = "binding keys that were removed from the configuration stay bound, and AMQP cannot list them: list them with \
                           `rabbitmqctl list_bindings`, and remove them with `outboxd setup --unbind EXCHANGE QUEUE KEY`";
            self.note("other bindings".to_owned(), Ok(finding.to_owned())).await;
        }
    }

    /// Checks one exchange, queue or binding. A passive declare tells only whether the object exists. An active declare of an existing
    /// object compares and changes nothing (AMQP 0-9-1 reference, queue.declare "equivalent"), but needs the permission to configure, so
    /// it is left out with `rabbitmq.declare = false`.
    async fn look(&mut self, declaration: &Declaration) -> Result<String, BrokerError> {
        let (connection, declare) = (&mut self.connection, self.options.topology.declare);
        if let Declaration::Binding { destination, source, key } = declaration {
            return match declare {
                true => match probe::bind(connection, destination, source, key).await {
                    Err(error) => Err(probe::failure(declaration.object(), error, connection)),
                    Ok(()) => {
                        Ok("`run` and `setup` declare it (AMQP cannot tell whether it exists)".to_owned())
                    }
                },
                false => Ok(
                    "not verified, because AMQP cannot tell whether it exists; see rabbitmqctl list_bindings"
                        .to_owned(),
                ),
            };
        }
        match on_fresh_channel(connection, declaration, false).await {
            Ok(()) if !declare => {
                return Ok("exists; not compared, because of rabbitmq.declare = false".to_owned());
            }
            Ok(()) => {}
            Err(BrokerError::Declare { error: DeclareError { reason: Reason::Missing, .. }, .. })
                if declare =>
            {
                probe::declare(connection, declaration).await?;
                if let Declaration::Queue { .. } = declaration {
                    self.missing_queues += 1;
                }
                let plugin = match declaration {
                    Declaration::Exchange { kind, .. } => plugin(kind),
                    _ => None,
                };
                let plugin = plugin.map(|plugin| format!(", with the plugin {plugin}")).unwrap_or_default();
                return Ok(format!("missing; `run` and `setup` will declare it{plugin}"));
            }
            Err(error) => return Err(error),
        }
        on_fresh_channel(connection, declaration, true).await?;
        Ok(match &declaration.uncompared()[..] {
            [] => "exists, as configured".to_owned(),
            names => format!("exists, as configured; RabbitMQ does not compare {}", names.join(", ")),
        })
    }

    /// Checks that the virtual host has room for the missing queues: declares as many exclusive queues until the inspection ends.
    async fn try_queues(&mut self, fences: &[String]) {
        let (Some(fence), missing) = (fences.first(), self.missing_queues) else { return };
        for number in 0..missing {
            let acquired = fence::acquire(&mut self.connection, &format!("{fence}-{number}")).await;
            let Err(BrokerError::ChannelClosed { refusal, .. }) = acquired else { continue };
            if refusal.reason() == Reason::QueueLimit {
                let what = format!(
                    "{missing} queues are missing, and the limit leaves room for {number}: {}",
                    refusal.text
                );
                let cure = cures::of_refusal(&refusal);
                return self.note("room for queues".to_owned(), Err(problem(what, cure))).await;
            }
            // The test needs the permission for a fence, whose own check reports the lack of it.
            return;
        }
    }

    /// Checks that this user may declare the fences. The queues end with the connection.
    async fn try_fences(&mut self, fences: &[String]) {
        for queue in fences {
            let finding = match fence::acquire(&mut self.connection, queue).await {
                Ok(()) => Ok("may be declared: only one of several instances publishes at a time".to_owned()),
                Err(error) => {
                    let (why, cure) = match error {
                        BrokerError::ChannelClosed { refusal, .. } => {
                            let cure = cures::of_fence(&refusal);
                            (refusal.text, cure)
                        }
                        error => (error.to_string(), "see the broker's log".to_owned()),
                    };
                    let what = format!(
                        "may not be declared and read, so an instance that hangs may publish at the same time as its successor: {why}"
                    );
                    Err(problem(what, cure))
                }
            };
            self.warn(format!("queue '{queue}'"), finding).await;
        }
    }

    /// Checks the owners of the fences, as long as the connection lives.
    async fn look_at_fences(&mut self, fences: &[String]) {
        for queue in fences {
            let name = format!("queue '{queue}'");
            match fence::owner(&mut self.connection, queue).await {
                Ok(None) => {}
                Ok(Some(owner)) => {
                    let what = format!(
                        "belongs to {}, although nobody uses the slot: `run` publishes nothing until the queue is free",
                        owner.whose()
                    );
                    let found = problem(what, cures::of_taken_fence(queue, owner));
                    // An instance that starts, or hangs, has its connection without the slot for a moment, and a node may come back.
                    let finding = match owner {
                        FenceOwner::Nobody { .. } => Finding::Failed(found),
                        _ => Finding::Warning(found),
                    };
                    self.add(Check { name: name.into(), finding }).await;
                }
                Err(error) => {
                    let what = format!(
                        "its owner is unknown, and `run` publishes nothing while another connection owns it: {error}"
                    );
                    let cure = "check whether the node of this queue is down (rabbitmqctl cluster_status), and start it"
                        .to_owned();
                    self.warn(name, Err(problem(what, cure))).await;
                }
            }
            if self.connection.is_lost() {
                return;
            }
        }
    }

    /// Checks that the broker accepts the sources' messages, as far as these are known without a row.
    async fn try_publishing(&mut self, publishing: &[Publishing]) {
        let topology = &self.options.topology;
        let mut tried = Vec::new();
        for source in publishing {
            for exchange in source.exchanges(topology) {
                let keys = source.keys(exchange, &topology.subscriptions);
                if !tried.contains(&(exchange, keys.clone())) && !self.has_failed(exchange) {
                    let keys: Vec<&str> = keys.iter().copied().collect();
                    self.try_exchange(exchange, &source.routing_key.filled(SAMPLE), &keys).await;
                }
                tried.push((exchange, keys));
            }
            if source.exchanges(topology).is_empty() {
                self.try_unnamed(source).await;
            }
        }
        if let Some(bytes) = publishing.iter().map(|source| source.message_bytes_max).max() {
            self.try_size(bytes).await;
        }
    }

    /// Checks publishing to a known exchange, with the known routing keys.
    async fn try_exchange(&mut self, exchange: &str, sample: &str, keys: &[&str]) {
        let name = match exchange {
            "" => "publishing to the default exchange".to_owned(),
            exchange => format!("publishing to exchange '{exchange}'"),
        };
        let unknown = [sample];
        for key in if keys.is_empty() { &unknown } else { keys } {
            match probe::publish(&mut self.connection, exchange, key, 0).await {
                Ok(()) => {}
                Err(CallError::Refused(refusal)) => match refusal.reason() {
                    Reason::Missing if self.options.topology.declare => {}
                    Reason::TopicPermission if keys.is_empty() => {
                        let what = format!(
                            "this user's topic permissions allow some routing keys only, and the keys of the rows are not known \
                             here: {}",
                            refusal.text
                        );
                        let cure = "compare the topic permissions with the keys that message.routing_key gives (rabbitmqctl \
                                    list_user_topic_permissions)"
                            .to_owned();
                        return self.warn(name, Err(problem(what, cure))).await;
                    }
                    _ => {
                        let error = DeclareError::new("the exchange", refusal);
                        return self.note(name, Err(of_declare(&error))).await;
                    }
                },
                Err(CallError::Lost(_)) => return self.note_untried(name).await,
            }
        }
        let finding = match keys {
            [] => "this user may publish to it".to_owned(),
            keys => {
                format!("this user may publish to it with the known routing keys: {}", keys.join(", "))
            }
        };
        self.note(name, Ok(finding)).await;
    }

    /// Checks publishing to exchanges that only rows name, with a sample name.
    async fn try_unnamed(&mut self, source: &Publishing) {
        let name = format!("publishing to exchanges '{}'", source.exchange);
        let exchange = source.exchange.filled(SAMPLE);
        let declared = match self.options.topology.declare {
            true => probe::declare(&mut self.connection, &Declaration::topic_exchange(&exchange)).await,
            false => Ok(()),
        };
        let refused = match declared {
            Err(BrokerError::Declare { error, .. }) => Some(error),
            Err(_) => return self.note_untried(name).await,
            Ok(()) => {
                match probe::publish(&mut self.connection, &exchange, &source.routing_key.filled(SAMPLE), 0)
                    .await
                {
                    Err(CallError::Refused(refusal)) => {
                        Some(DeclareError::new(format!("exchange '{exchange}'"), refusal))
                    }
                    Err(CallError::Lost(_)) => return self.note_untried(name).await,
                    Ok(()) => None,
                }
            }
        };
        let finding = match refused
            .filter(|error| !matches!(error.reason, Reason::Missing | Reason::TopicPermission))
        {
            None => Ok("only rows name these exchanges; a test with a sample name passed".to_owned()),
            Some(error) => Err(problem(
                format!("only rows name these exchanges; with a sample name, {}", error.what()),
                cures::of_declare(&error),
            )),
        };
        self.warn(name, finding).await;
    }

    /// Checks that the broker accepts messages of `delivery.message_bytes_max`.
    async fn try_size(&mut self, bytes: usize) {
        let name = "message size".to_owned();
        let sent = bytes.min(SENT_BYTES_MAX);
        // RabbitMQ checks the size first. Another refusal by the default exchange therefore says that the size is accepted.
        let answered = probe::publish(&mut self.connection, "", probe::UNUSED_KEY, sent).await;
        let finding = match answered {
            Err(CallError::Lost(_)) => return self.note_untried(name).await,
            Err(CallError::Refused(refusal)) if refusal.reason() == Reason::MessageTooLarge => Err(problem(
                format!(
                    "delivery.message_bytes_max is {bytes}, and the broker's limit is lower: {}",
                    refusal.text
                ),
                cures::of_refusal(&refusal),
            )),
            _ if sent < bytes => Ok(format!(
                "the broker accepts {sent} bytes; delivery.message_bytes_max = {bytes} was not tested"
            )),
            _ => Ok(format!("the broker accepts {bytes} bytes (delivery.message_bytes_max)")),
        };
        self.note(name, finding).await;
    }

    /// Warns of a check that was impossible: the connection ended, or the broker accepts no messages now.
    async fn note_untried(&mut self, name: String) {
        let what = match self.connection.blocked() {
            Some(reason) => format!("not tested: the broker accepts no messages now ({reason})"),
            None => "not tested: the connection was lost, or the broker did not answer in time".to_owned(),
        };
        let cure = "see the broker's alarms and log (rabbitmq-diagnostics alarms), and repeat the command"
            .to_owned();
        self.warn(name, Err(problem(what, cure))).await;
    }
}

/// Plugin that provides an exchange type.
fn plugin(kind: &str) -> Option<&'static str> {
    match kind {
        CONSISTENT_HASH => Some("rabbitmq_consistent_hash_exchange"),
        DELAYED_MESSAGE => Some("rabbitmq_delayed_message_exchange"),
        _ => None,
    }
}

async fn on_fresh_channel(
    connection: &mut Connection,
    declaration: &Declaration,
    create: bool,
) -> Result<(), BrokerError> {
    connection.open_channel(CHANNEL).await?;
    declaration.apply(connection, CHANNEL, create).await?;
    connection.close_channel(CHANNEL).await
}

fn check(name: impl Into<Cow<'static, str>>, finding: Result<String, Problem>) -> Check {
    Check { name: name.into(), finding: finding.map_or_else(Finding::Failed, Finding::Passed) }
}

fn problem(what: impl Into<String>, cure: impl Into<String>) -> Problem {
    Problem::new(what, Remedy::by_person(cure))
}

fn of_error(error: BrokerError) -> Problem {
    match error {
        BrokerError::Declare { error, .. } => of_declare(&error),
        error => problem(
            cures::what(&error),
            cures::of(&error).unwrap_or_else(|| "see the broker's log".to_owned()),
        ),
    }
}

fn of_declare(error: &DeclareError) -> Problem {
    problem(error.what(), cures::of_declare(error))
}
