//! `arguments` of `[[exchanges]]` and `[[subscriptions]]`, with their AMQP types.

use crate::message::SHORT_STRING_BYTES_MAX;
use amqp_publisher::topology::{Argument, QueueType};
use configuration::{Literal, Section};

/// Arguments that RabbitMQ accepts for some queue types only, and refuses for the others ("invalid arg"): those of
/// the newest version. RabbitMQ alone checks an argument that is not in this list.
const OF_SOME_TYPES: [(&str, &[QueueType]); 13] = {
    use QueueType::{Classic, Quorum, Stream};
    [
        ("x-dead-letter-exchange", &[Quorum, Classic]),
        ("x-dead-letter-routing-key", &[Quorum, Classic]),
        ("x-dead-letter-strategy", &[Quorum]),
        ("x-delivery-limit", &[Quorum]),
        ("x-expires", &[Quorum, Classic]),
        ("x-initial-cluster-size", &[Stream]),
        ("x-max-age", &[Stream]),
        ("x-max-length", &[Quorum, Classic]),
        ("x-max-priority", &[Quorum, Classic]),
        ("x-message-ttl", &[Quorum, Classic]),
        ("x-overflow", &[Quorum, Classic]),
        ("x-quorum-initial-group-size", &[Quorum]),
        ("x-stream-max-segment-size-bytes", &[Stream]),
    ]
};

const QUEUE_TYPE: &str = "x-queue-type";
const SINGLE_ACTIVE_CONSUMER: &str = "x-single-active-consumer";
pub(super) const DEAD_LETTER_EXCHANGE: &str = "x-dead-letter-exchange";
pub(super) const DEAD_LETTER_ROUTING_KEY: &str = "x-dead-letter-routing-key";

/// Reads the key `arguments`.
pub(super) fn read(section: &mut Section<'_>) -> Vec<(String, Argument)> {
    let given = section.literals("arguments");
    for (name, _) in given.iter().filter(|(name, _)| name.len() > SHORT_STRING_BYTES_MAX) {
        let what = format!("is a name of {} bytes, AMQP allows {SHORT_STRING_BYTES_MAX}", name.len());
        section.problem(&format!("arguments.{name}"), what, "shorten it");
    }
    members(given)
}

fn members(given: Vec<(String, Literal)>) -> Vec<(String, Argument)> {
    given.into_iter().map(|(name, literal)| (name, argument(literal))).collect()
}

fn argument(literal: Literal) -> Argument {
    match literal {
        Literal::Text(text) => Argument::Text(text),
        Literal::Flag(flag) => Argument::Boolean(flag),
        Literal::Integer(number) => Argument::Integer(number),
        Literal::Fraction(number) => Argument::Double(number),
        Literal::List(items) => Argument::List(items.into_iter().map(argument).collect()),
        Literal::Table(given) => Argument::Table(members(given)),
    }
}

/// Values of a subscription's other keys.
pub(super) struct Keys {
    pub(super) queue_type: Option<QueueType>,
    pub(super) single_active_consumer: bool,
    pub(super) dead_letter: bool,
}

/// Refuses arguments that contradict another key of the subscription, or that its queue type does not have. Removes arguments
/// that only repeat a key.
pub(super) fn agree(section: &Section<'_>, arguments: &mut Vec<(String, Argument)>, keys: &Keys) {
    let problem = |name: &str, what: String, cure: &str| {
        section.problem(&format!("arguments.{name}"), what, cure);
    };
    let has =
        |arguments: &[(String, Argument)], wanted: &str| arguments.iter().any(|(name, _)| name == wanted);
    if let Some(queue_type) = keys.queue_type {
        arguments.retain(|(name, value)| {
            if name != QUEUE_TYPE {
                return true;
            }
            if *value != Argument::Text(queue_type.name().to_owned()) {
                let what = format!("contradicts queue_type, which is \"{}\"", queue_type.name());
                problem(name, what, "set queue_type, and leave the argument out");
            }
            false
        });
        for (name, types) in OF_SOME_TYPES.iter().filter(|(name, _)| has(arguments, name)) {
            if !types.contains(&queue_type) {
                let types: Vec<_> = types.iter().map(|of| format!("\"{}\"", of.name())).collect();
                let what = format!("is refused by RabbitMQ for queue_type \"{}\"", queue_type.name());
                problem(name, what, &format!("leave it out, or set queue_type to {}", types.join(" or ")));
            }
        }
    }
    arguments.retain(|(name, value)| {
        let agrees = *value == Argument::Boolean(keys.single_active_consumer);
        if name == SINGLE_ACTIVE_CONSUMER && !agrees {
            let what =
                format!("contradicts single_active_consumer, which is {}", keys.single_active_consumer);
            problem(name, what, "set single_active_consumer, and leave the argument out");
        }
        // RabbitMQ treats false as different from an absent argument.
        name != SINGLE_ACTIVE_CONSUMER || !keys.single_active_consumer && agrees
    });
    for name in [DEAD_LETTER_EXCHANGE, DEAD_LETTER_ROUTING_KEY] {
        if keys.dead_letter && has(arguments, name) {
            let what = "contradicts dead_letter = true, which sends dead letters to <queue>.dead".to_owned();
            problem(name, what, "set dead_letter = false to use your own target, or leave the argument out");
        }
    }
    if has(arguments, DEAD_LETTER_ROUTING_KEY) && !has(arguments, DEAD_LETTER_EXCHANGE) && !keys.dead_letter {
        let what = "is refused by RabbitMQ without x-dead-letter-exchange".to_owned();
        problem(
            DEAD_LETTER_ROUTING_KEY,
            what,
            "set x-dead-letter-exchange, too; \"\" is the default exchange",
        );
    }
}
