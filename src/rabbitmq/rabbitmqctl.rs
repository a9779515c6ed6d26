//! rabbitmqctl commands for a user with only the permissions that the configuration needs.

use std::collections::BTreeSet;

use super::publishing::{Pattern, Publishing};
use amqp_publisher::{
    BrokerError, ConnectionOptions,
    topology::{Argument, CONSISTENT_HASH, Declaration, Destination, TOPIC, Topology, is_predeclared},
};
use diagnostics::shell_word::quoted;

/// Name of the default exchange in permissions.
const DEFAULT_EXCHANGE: &str = "amq.default";

/// Names of exchanges and queues, as alternatives of one regular expression.
#[derive(Default)]
struct Names(BTreeSet<String>);

impl Names {
    fn name(&mut self, name: &str) {
        self.0.insert(escaped(if name.is_empty() { DEFAULT_EXCHANGE } else { name }));
    }

    fn pattern(&mut self, pattern: &Pattern) {
        match pattern.text() {
            Some(name) => self.name(name),
            None => {
                self.0.insert(pattern.pieces().map(|piece| piece.map_or(".*".to_owned(), escaped)).collect());
            }
        }
    }

    /// Anchored regular expression, because RabbitMQ matches anywhere in a name. Without names, it matches only the empty text.
    fn regex(&self) -> String {
        let names: Vec<&str> = self.0.iter().map(String::as_str).collect();
        match &*names {
            [] => "^$".to_owned(),
            [name] => format!("^{name}$"),
            names => format!("^({})$", names.join("|")),
        }
    }
}

/// Names that need each of RabbitMQ's three permissions.
#[derive(Default)]
struct Rights {
    configure: Names,
    write: Names,
    read: Names,
}

impl Rights {
    fn of(topology: &Topology, publishing: &[Publishing], fences: &[Pattern]) -> Self {
        let mut rights = Self::default();
        for fence in fences {
            rights.configure.pattern(fence);
            // Consuming from the queue tells when it is deleted.
            rights.read.pattern(fence);
        }
        for source in publishing {
            rights.write.pattern(&source.exchange);
            if topology.declare && !source.exchange.text().is_some_and(is_predeclared) {
                rights.configure.pattern(&source.exchange);
            }
        }
        if topology.declare {
            topology.plan().iter().for_each(|declaration| rights.declare(declaration));
        }
        rights
    }

    /// Adds the permissions of a declaration (<https://www.rabbitmq.com/docs/access-control#authorisation>).
    fn declare(&mut self, declaration: &Declaration) {
        match declaration {
            Declaration::Exchange { name, arguments, .. } => {
                self.configure.name(name);
                self.lead(name, arguments, "alternate-exchange");
            }
            Declaration::Queue { name, arguments } => {
                self.configure.name(name);
                self.lead(name, arguments, "x-dead-letter-exchange");
            }
            Declaration::Binding {
                destination: Destination::Queue(name) | Destination::Exchange(name),
                source,
                ..
            } => {
                self.write.name(name);
                self.read.name(source);
            }
        }
    }
}

impl Rights {
    /// Adds the permissions of an argument that forwards messages to an exchange: read here, write there.
    fn lead(&mut self, from: &str, arguments: &[(String, Argument)], argument: &str) {
        let to = arguments.iter().find_map(|(name, value)| match value {
            Argument::Text(exchange) if name == argument => Some(exchange),
            _ => None,
        });
        if let Some(exchange) = to {
            self.read.name(from);
            self.write.name(exchange);
        }
    }
}

/// Commands for a POSIX shell, with comments. `fences` are the names of the sources' exclusive queues.
///
/// # Errors
///
/// Fails when a URL of the configuration is invalid.
pub fn commands(
    connection: &ConnectionOptions,
    topology: &Topology,
    publishing: &[Publishing],
    fences: &[Pattern],
) -> Result<String, BrokerError> {
    let mut text = String::new();
    let mut seen = BTreeSet::new();
    for at in connection.endpoints()? {
        let (vhost, user) = (quoted(at.vhost()), quoted(at.user()));
        if !seen.insert((vhost.clone(), user.clone())) {
            continue;
        }
        text += &format!("# ==== {at}: run this on a node of that broker, as an administrator ====\n");
        text += "# Only for a virtual host or a user that is missing. add_user asks for the password.\n";
        if at.vhost() != "/" {
            text += &format!("rabbitmqctl add_vhost {vhost}\n");
        }
        text += &format!("rabbitmqctl add_user {user}\n");
        text += "# Permissions to configure, write and read. They replace the user's permissions in that virtual host.\n";
        let Rights { configure, write, read } = Rights::of(topology, publishing, fences);
        let [configure, write, read] = [configure, write, read].map(|names| quoted(&names.regex()));
        text += &format!("rabbitmqctl set_permissions -p {vhost} {user} {configure} {write} {read}\n");
        text += &topic_permissions(topology, publishing, &vhost, &user);
    }
    let is_hash = |declaration: &Declaration| matches!(declaration, Declaration::Exchange { kind, .. } if kind == CONSISTENT_HASH);
    if topology.plan().iter().any(is_hash) {
        text += "# For subscriptions with partitions: run this on every node.\nrabbitmq-plugins enable rabbitmq_consistent_hash_exchange\n";
    }
    Ok(text)
}

/// Commands that limit the routing keys for writing and binding, for each known topic exchange. RabbitMQ allows all keys without them.
fn topic_permissions(topology: &Topology, publishing: &[Publishing], vhost: &str, user: &str) -> String {
    let subscriptions = &topology.subscriptions;
    let exchanges: BTreeSet<&str> = publishing.iter().flat_map(|source| source.exchanges(topology)).collect();
    let mut text = String::new();
    let is_topic = |name: &str| {
        let described = topology.exchanges.iter().find(|exchange| exchange.name == name);
        !is_predeclared(name) && described.is_none_or(|exchange| exchange.kind == TOPIC)
    };
    for exchange in exchanges.into_iter().filter(|exchange| is_topic(exchange)) {
        let (mut write, mut read) = (Names::default(), Names::default());
        for source in publishing.iter().filter(|source| source.exchange.fits(exchange)) {
            write.pattern(&source.routing_key);
        }
        for subscription in subscriptions.iter().filter(|subscription| subscription.exchange == exchange) {
            subscription.binding_keys.iter().for_each(|key| read.keys(key));
        }
        let [write, read] = [write, read].map(|names| quoted(&names.regex()));
        let exchange = quoted(exchange);
        text += &format!("rabbitmqctl set_topic_permissions -p {vhost} {user} {exchange} {write} {read}\n");
    }
    match text.is_empty() {
        true => text,
        false => format!(
            "# Routing keys for publishing and for binding. Without these commands all keys are allowed.\n{text}"
        ),
    }
}

impl Names {
    /// Adds a routing key. Unlike a name, a key may be empty.
    fn keys(&mut self, key: &str) {
        self.0.insert(escaped(key));
    }
}

/// Regular expression that matches this text only.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        if r"\.^$|?*+()[]{}".contains(c) {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;
    use amqp_publisher::{
        Client,
        topology::{QueueType, Subscription},
    };

    #[test]
    fn rights_are_as_few_as_the_configuration_needs() {
        let subscription = Subscription {
            queue: "it's.orders".to_owned(),
            exchange: "Order.events".to_owned(),
            binding_keys: vec!["OrderCreated".to_owned(), "#.eu".to_owned()],
            queue_type: QueueType::Quorum,
            partitions: 1,
            single_active_consumer: true,
            dead_letter: true,
            arguments: Vec::new(),
        };
        let connection = ConnectionOptions {
            client: Client { product: "a test", version: "1" },
            rotating: None,
            urls: vec![
                "amqp://shop:s3cret@h1/my%20shop".to_owned(),
                "amqp://shop:s3cret@h2/my%20shop".to_owned(),
            ],
            heartbeat: Duration::from_secs(1),
            connect_timeout: Duration::from_secs(1),
            ca_file: None,
            client_cert: None,
        };
        let mut topology =
            Topology { declare: true, subscriptions: vec![subscription], ..Topology::default() };
        let publishing = [Publishing {
            exchange: Pattern::new([None, Some(".events")]),
            routing_key: Pattern::new([None]),
            message_bytes_max: 1,
        }];
        let fences = [Pattern::new([Some("outboxd.publisher.a."), None])];
        let commands = super::commands(&connection, &topology, &publishing, &fences).unwrap();
        let lines: Vec<&str> = commands.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            lines,
            [
                "rabbitmqctl add_vhost 'my shop'",
                "rabbitmqctl add_user shop",
                r"rabbitmqctl set_permissions -p 'my shop' shop '^(.*\.events|Order\.events|it'\''s\.orders|it'\''s\.orders\.dead|outboxd\.publisher\.a\..*)$' '^(.*\.events|amq\.default|it'\''s\.orders)$' '^(Order\.events|it'\''s\.orders|outboxd\.publisher\.a\..*)$'",
                r"rabbitmqctl set_topic_permissions -p 'my shop' shop Order.events '^.*$' '^(#\.eu|OrderCreated)$'",
            ]
        );
        topology.declare = false;
        let commands = super::commands(&connection, &topology, &publishing, &fences).unwrap();
        assert!(
            commands.contains(
                r"set_permissions -p 'my shop' shop '^outboxd\.publisher\.a\..*$' '^.*\.events$' '^outboxd\.publisher\.a\..*$'"
            ),
            "{commands}"
        );
    }
}
