//! outboxd's part of the next step after an error of RabbitMQ: its configuration keys, commands and queue names.
//!
//! The publisher's errors say what happened, and what RabbitMQ's administrator does. Only this module adds what outboxd's operator
//! does. Shows no payload.

use crate::message::Message;
use amqp_publisher::{
    connection::tls::CertificateError,
    error::{BrokerError, DeclareError, none_usable},
    fence::FenceOwner,
    publisher::Refused,
    refusal::{Reason, Refusal},
};

/// Pattern of the fences' queue names.
const FENCES: &str = r"^outboxd\.publisher\.";

/// Continuation of the cure of a refusal for this reason.
fn more(reason: Reason) -> &'static str {
    match reason {
        Reason::Login => {
            ": outboxd reads rabbitmq.url_file and rabbitmq.password_file again for every connection"
        }
        Reason::Permission => ", as `outboxd setup --print-rabbitmqctl` prints it",
        Reason::InternalExchange => " (message.exchange)",
        Reason::Missing => ", or set rabbitmq.declare = true",
        Reason::InvalidArgument => " (arguments, queue_type)",
        Reason::MessageTooLarge => {
            ", or lower delivery.message_bytes_max to the broker's limit, so that such rows fall under delivery.on_invalid"
        }
        Reason::UserConnectionLimit => ": outboxd needs one connection a source",
        Reason::UserChannelLimit => ": outboxd needs three channels a source",
        Reason::Ended => ": outboxd connects again by itself",
        _ => "",
    }
}

/// Next step after an error. `None` when the error's text has one for each of several brokers, or when there is nothing to do.
pub fn of(error: &BrokerError) -> Option<String> {
    let cure = match error {
        BrokerError::Declare { error, .. } => return Some(of_declare(error)),
        error => error.cure()?,
    };
    let more = match error {
        BrokerError::NoUrl => " (rabbitmq.url)",
        BrokerError::Certificates(CertificateError::NoPlatformRoots) => " or set rabbitmq.tls_ca_file",
        BrokerError::Tls { .. } => " (rabbitmq.tls_ca_file, rabbitmq.tls_cert_file)",
        BrokerError::FenceGone { .. } => r" (^outboxd\.publisher\.): `run` declares it again",
        BrokerError::Unsendable { .. } => ", with delivery.on_invalid = \"park\" such rows are parked",
        error => error.reason().map_or("", more),
    };
    Some(cure + more)
}

/// Text of an error. For several brokers the text has the next step for each.
pub fn what(error: &BrokerError) -> String {
    match error {
        BrokerError::NoneUsable { tried } => none_usable(tried.iter().map(explain)),
        error => error.what(),
    }
}

/// Text of an error, with the next step.
pub fn explain(error: &BrokerError) -> String {
    match of(error) {
        Some(cure) => format!("{}; {cure}", what(error)),
        None => what(error),
    }
}

/// Next step after a failed declaration of an exchange, queue or binding.
pub fn of_declare(error: &DeclareError) -> String {
    let more = match error.reason {
        Reason::Different if error.object.starts_with("queue") => " (queue or arguments of its subscription)",
        Reason::Different => {
            ", describe it in [[exchanges]], change message.exchange, or set rabbitmq.declare = false to use it as it is"
        }
        Reason::UnknownExchangeType if error.object.contains("x-consistent-hash") => {
            ", or set partitions = 1"
        }
        reason => more(reason),
    };
    error.cure() + more
}

/// Text of a failed declaration of an exchange, queue or binding, with the next step.
pub fn explain_declare(error: &DeclareError) -> String {
    format!("{}; {}", error.what(), of_declare(error))
}

/// Next step after any other refusal of the broker.
pub fn of_refusal(refusal: &Refusal) -> String {
    refusal.cure() + more(refusal.reason())
}

/// Next step after a refusal of the fence's queue.
pub fn of_fence(refusal: &Refusal) -> String {
    match refusal.reason() {
        Reason::Permission => {
            format!("grant the user configure and read on {FENCES} too (rabbitmqctl set_permissions)")
        }
        _ => of_refusal(refusal),
    }
}

/// Next step for a fence that has another owner: commands that find the owner of `queue`, and end or remove it. The last sentence is
/// open, so that more may follow.
pub fn of_taken_fence(queue: &str, owner: FenceOwner) -> String {
    match owner {
        FenceOwner::Connection => {
            "`rabbitmqctl list_queues -p VHOST name owner_pid` shows the pid of that connection, and `rabbitmqctl list_connections \
             pid name user peer_host peer_port` shows its user and host: an instance that hangs, or a user that should not have the \
             permission to configure this queue. `rabbitmqctl close_connection PID REASON` ends it"
                .to_owned()
        }
        FenceOwner::Unreachable => {
            "RabbitMQ keeps the queue until its node is back or removed. `rabbitmqctl cluster_status` shows the nodes that are \
             down: start that node, or, if it never comes back, `rabbitmqctl forget_cluster_node NODE` removes it with the queue"
                .to_owned()
        }
        FenceOwner::Nobody { .. } => format!(
            "No outboxd declared the queue, because it is not exclusive. `rabbitmqctl list_queues -p VHOST name owner_pid policy \
             arguments` shows it, and `rabbitmqctl delete_queue -p VHOST {queue}` removes it. Take the permission to configure \
             {FENCES} from the user that declared it"
        ),
    }
}

/// Text of a refusal of a message, with the next step.
pub fn explain_refused(message: &Message, refused: &Refused) -> String {
    let refusal = match refused {
        Refused::Publish(refusal) => refusal,
        Refused::Exchange(error) => return explain_declare(error),
        Refused::TooManyExchanges { exchanges_max } => {
            return too_many_exchanges(&message.amqp.exchange, *exchanges_max);
        }
    };
    let exchange = &message.amqp.exchange;
    let more = match refusal.reason() {
        Reason::TopicPermission => {
            format!(", with a pattern for writing that matches '{}'", message.amqp.routing_key)
        }
        Reason::Permission => format!(", with a pattern for writing that matches '{exchange}'"),
        Reason::MessageTooLarge => format!(" (its body has {} bytes)", message.amqp.body.len()),
        _ => String::new(),
    };
    format!("exchange '{exchange}' {}: {refusal}; {}{more}", refusal.means(), of_refusal(refusal))
}

fn too_many_exchanges(exchange: &str, exchanges_max: usize) -> String {
    if exchanges_max == 0 {
        return format!(
            "exchange '{exchange}' is not in the configuration, and delivery.exchanges_max is 0; if the row's exchange is correct, \
             add it to [[exchanges]], or raise delivery.exchanges_max, and restart outboxd"
        );
    }
    format!(
        "exchange '{exchange}' does not exist, and outboxd does not declare it: it has declared {exchanges_max} new ones for rows of \
         this source since it started, and delivery.exchanges_max is {exchanges_max}; if the row's exchange is correct, declare it \
         at the broker, or raise delivery.exchanges_max or add it to [[exchanges]] and restart outboxd"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        message::AggregateKey,
        position::{Lsn, Position},
    };

    fn explained(code: u16, text: &str) -> String {
        let position = Position { commit_lsn: Lsn(1), index: 0 };
        let amqp = amqp_publisher::Message {
            exchange: "Order.events".into(),
            routing_key: "Nope".into(),
            body: bytes::Bytes::from_static(b"12345"),
            ..Default::default()
        };
        let message = Message::of(position, AggregateKey(1), amqp);
        explain_refused(&message, &Refused::Publish(Refusal { code, text: text.to_owned() }))
    }

    #[test]
    fn each_refusal_names_its_cure() {
        for (code, text, cures) in [
            (
                403,
                "ACCESS_REFUSED - access to topic 'Nope' in exchange topic 'Order.events' in vhost 'v' refused for user 'shop'",
                &["set_topic_permissions -p v shop Order.events WRITE READ", "matches 'Nope'"][..],
            ),
            (
                403,
                "ACCESS_REFUSED - access to exchange 'Order.events' in vhost '/' refused for user 'shop'",
                &["set_permissions -p / shop CONFIGURE WRITE READ", "matches 'Order.events'"],
            ),
            (
                406,
                "PRECONDITION_FAILED - message size 5 is larger than configured max size 4",
                &["delivery.message_bytes_max", "max_message_size", "5 bytes"],
            ),
        ] {
            let explained = explained(code, text);
            assert!(explained.contains(text), "{explained}");
            for cure in cures {
                assert!(explained.contains(cure), "{cure}: {explained}");
            }
        }
    }

    #[test]
    fn each_owner_of_a_taken_fence_has_its_next_step() {
        for (owner, step) in [
            (FenceOwner::Connection, "rabbitmqctl close_connection"),
            (FenceOwner::Unreachable, "rabbitmqctl forget_cluster_node"),
            (FenceOwner::Nobody { consumers: 0, messages: 0 }, "rabbitmqctl delete_queue -p VHOST q"),
        ] {
            assert!(of_taken_fence("q", owner).contains(step), "{owner:?}");
        }
    }

    #[test]
    fn one_exchange_too_many_names_the_key_of_the_limit() {
        for (exchanges_max, more) in [(0, "not in the configuration"), (1, "declared 1 new ones")] {
            let too_many = too_many_exchanges("second", exchanges_max);
            let limit = format!("delivery.exchanges_max is {exchanges_max}");
            assert!(too_many.contains("'second'") && too_many.contains(more), "{too_many}");
            assert!(too_many.contains(&limit) && too_many.contains("[[exchanges]]"), "{too_many}");
        }
    }

    #[test]
    fn what_outboxd_adds_follows_what_rabbitmqs_administrator_does() {
        let missing =
            DeclareError::new("queue 'q'", Refusal { code: 404, text: "NOT_FOUND - no queue 'q'".into() });
        assert_eq!(of_declare(&missing), "create it, or set rabbitmq.declare = true");
        let text = "NOT_ALLOWED - connection refused for user 'shop': user connection limit (1) is reached";
        let refusal = Refusal { code: 530, text: text.to_owned() };
        assert!(of_refusal(&refusal).ends_with("outboxd needs one connection a source"));
        // In an error's text the cure follows the last semicolon.
        assert!(!of_refusal(&refusal).contains(';'));
    }
}
