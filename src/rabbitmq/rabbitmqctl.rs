//! The commands by which an administrator makes a user that may do what the configuration needs, and no more.

use std::collections::BTreeSet;

use super::publishing::{Pattern, Publishing};
use amqp_publisher::{
    BrokerError, ConnectionOptions,
    topology::{Argument, CONSISTENT_HASH, Declaration, Destination, TOPIC, Topology, is_predeclared},
};
use diagnostics::shell_word::quoted;

/// The name by which permissions know the default exchange.
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

    /// Anchored: RabbitMQ takes a match anywhere for one. Without names it matches the empty text alone, which is no name.
    fn regex(&self) -> String {
        let names: Vec<&str> = self.0.iter().map(String::as_str).collect();
        match &*names {
            [] => "^$".to_owned(),
            [name] => format!("^{name}$"),
            names => format!("^({})$", names.join("|")),
        }
    }
}

/// Names that a user needs each of the three rights for.
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
            // To be told when it is deleted.
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

    /// Rights as RabbitMQ asks for them (<https://www.rabbitmq.com/docs/access-control#authorisation>).
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
    /// An exchange or queue whose argument leads messages on to an exchange: they are read here and written there.
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

/// The commands, for a POSIX shell, with what they are for. `fences` are the queues by which sources keep others from publishing.
///
/// # Errors
///
/// A URL of the configuration is none.
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
        text += &format!("# ==== {at}: run this there, as an administrator ====\n");
        text += "# Virtual host and user, where they are missing. add_user asks for the password.\n";
        if at.vhost() != "/" {
            text += &format!("rabbitmqctl add_vhost {vhost}\n");
        }
        text += &format!("rabbitmqctl add_user {user}\n");
        text += "# Rights to configure, write and read; they replace the ones that the user has there.\n";
        let Rights { configure, write, read } = Rights::of(topology, publishing, fences);
        let [configure, write, read] = [configure, write, read].map(|names| quoted(&names.regex()));
        text += &format!("rabbitmqctl set_permissions -p {vhost} {user} {configure} {write} {read}\n");
        text += &topic_permissions(topology, publishing, &vhost, &user);
    }
    let is_hash = |declaration: &Declaration| matches!(declaration, Declaration::Exchange { kind, .. } if kind == CONSISTENT_HASH);
    if topology.plan().iter().any(is_hash) {
        text += "# For subscriptions with partitions, on every node.\nrabbitmq-plugins enable rabbitmq_consistent_hash_exchange\n";
    }
    Ok(text)
}

/// Which routing keys the user may write, and bind by, for each topic exchange that is known. Without such a command all are allowed.
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
            "# Routing keys to write, and to bind by; without these commands all are allowed.\n{text}"
        ),
    }
}

impl Names {
    /// A key, which unlike a name may be empty.
    fn keys(&mut self, key: &str) {
        self.0.insert(escaped(key));
    }
}

/// Text as a regular expression that matches it alone.
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
