//! `[[subscriptions]]`: durable queues that are declared before the first publish.

use std::collections::BTreeSet;

use super::{arguments, exchanges, names};
use crate::message::SHORT_STRING_BYTES_MAX;
use amqp_publisher::topology::{Exchange, QueueType, Subscription};
use configuration::Section;

/// Bytes left for what outboxd appends to a queue's name: `.dead`, or a partition's number.
const QUEUE_SUFFIX_BYTES_MAX: usize = 15;
const PARTITIONS_MAX: u64 = 1024;

pub(super) fn read(root: &mut Section<'_>, exchanges: &[Exchange]) -> Vec<Subscription> {
    let mut queues = BTreeSet::new();
    let mut subscriptions = Vec::new();
    for mut section in root.sections("subscriptions") {
        let subscription = subscription(&mut section, exchanges);
        if let Some(subscription) = subscription {
            for queue in queues_of(&subscription) {
                if queues.contains(&queue) {
                    section.problem(
                        "queue",
                        format!("two subscriptions use the queue \"{queue}\""),
                        "rename one",
                    );
                    break;
                }
                queues.insert(queue);
            }
            subscriptions.push(subscription);
        }
        section.finish();
    }
    subscriptions
}

/// Every queue that a subscription declares.
fn queues_of(subscription: &Subscription) -> Vec<String> {
    let queue = &subscription.queue;
    let mut queues = match subscription.partitions {
        1 => vec![queue.clone()],
        partitions => (0..partitions).map(|i| format!("{queue}-{i}")).collect(),
    };
    if subscription.dead_letter {
        queues.push(format!("{queue}.dead"));
    }
    queues
}

fn subscription(section: &mut Section<'_>, exchanges: &[Exchange]) -> Option<Subscription> {
    let required = |section: &mut Section<'_>, key: &str, bytes_max: usize| {
        if !section.has(key) {
            section.problem(key, "is missing", "give it a name");
        }
        let name = section.filled_text(key)?;
        if name.len() > bytes_max {
            section.problem(key, format!("is longer than {bytes_max} bytes"), "choose a shorter name");
        }
        if let Some((what, cure)) = names::altered_by_broker(&name) {
            section.problem(key, what, cure);
        }
        Some(name)
    };
    let queue = required(section, "queue", SHORT_STRING_BYTES_MAX - QUEUE_SUFFIX_BYTES_MAX);
    let partitions = section.number("partitions", 1..=PARTITIONS_MAX, 1);
    if let Some(queue) = &queue
        && partitions > 1
        && exchanges.iter().any(|described| described.name == *queue)
    {
        section.problem(
            "queue",
            format!("the exchange \"{queue}\" before the partitions is also in [[exchanges]]"),
            "rename the queue, or remove that entry",
        );
    }
    if queue.as_ref().is_some_and(|queue| queue.starts_with("amq.")) {
        section.problem("queue", "begins with amq., which RabbitMQ keeps for itself", "choose another name");
    }
    let exchange = required(section, "exchange", SHORT_STRING_BYTES_MAX);
    let given = section.texts("binding_keys");
    let described = exchanges.iter().find(|described| Some(&described.name) == exchange.as_ref());
    if let Some((what, cure)) = described.and_then(|it| exchanges::unbindable(it, given.as_deref())) {
        section.problem("binding_keys", what, cure);
    }
    let binding_keys = given.unwrap_or_else(|| vec!["#".to_owned()]);
    if binding_keys.is_empty() {
        section.problem("binding_keys", "is empty", "list at least one key; \"#\" binds everything");
    }
    if binding_keys.iter().any(|key| key.len() > SHORT_STRING_BYTES_MAX) {
        let what = format!("holds a key of more than {SHORT_STRING_BYTES_MAX} bytes");
        section.problem("binding_keys", what, "shorten it");
    }
    let kinds = [
        ("quorum", Some(QueueType::Quorum)),
        ("classic", Some(QueueType::Classic)),
        ("stream", Some(QueueType::Stream)),
    ];
    let queue_type = section.choice("queue_type", &kinds);
    let stream = queue_type == Some(QueueType::Stream);
    let single_active_consumer = section.flag("single_active_consumer", !stream);
    let mut arguments = arguments::read(section);
    let own_target = arguments.iter().any(|(name, _)| name == arguments::DEAD_LETTER_EXCHANGE);
    let says_dead_letter = section.has("dead_letter");
    let mut dead_letter = section.flag("dead_letter", !stream);
    // A configured dead-letter target replaces the default one.
    if own_target && !says_dead_letter {
        dead_letter = false;
    }
    let keys = arguments::Keys { queue_type, single_active_consumer, dead_letter };
    arguments::agree(section, &mut arguments, &keys);
    if stream {
        for (key, asked_for) in [
            ("partitions", partitions > 1),
            ("single_active_consumer", single_active_consumer),
            ("dead_letter", dead_letter),
        ] {
            if asked_for {
                section.problem(
                    key,
                    "does not go with queue_type \"stream\"",
                    "leave it out, or use \"quorum\"",
                );
            }
        }
    }
    Some(Subscription {
        queue: queue?,
        exchange: exchange?,
        binding_keys,
        queue_type: queue_type?,
        partitions: u32::try_from(partitions).unwrap_or(u32::MAX),
        single_active_consumer,
        dead_letter,
        arguments,
    })
}
