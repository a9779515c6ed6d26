//! Who may publish: the name of a source's fence, and what to say of it. What a fence is, the room `rabbitmq` knows.
//!
//! The slot alone keeps two instances from streaming, but not from publishing: one that was frozen, or cut off from
//! PostgreSQL, has lost the slot and may yet send what it holds. The fence is taken after the slot and before the first
//! publish, and given up with the connection to the broker.

use std::time::Duration;

use crate::rabbitmq::cures;
use amqp_publisher::{Fence, FenceOwner};

/// The fence of whoever relays from `slot`.
///
/// `server` is the system identifier: services may share a virtual host and name their slots alike, on PostgreSQL servers of
/// their own. A promoted replica has the identifier of its primary, so failover does not let two instances publish.
pub fn fence_queue(slot: &str, server: &str) -> String {
    format!("outboxd.publisher.{slot}.{server}")
}

/// How the question for the fence stands.
pub(super) enum Fencing {
    /// Nothing is in the way: not asked yet, ours, or not for this user.
    Open,
    /// Asked. Nothing to show: it takes one question to the broker.
    Asked,
    /// Another instance has it: why that is so, and what to do.
    Busy(String),
    /// Somebody has it for longer than a takeover takes, so nothing is published until a person has seen to it: the same.
    Taken(String),
}

impl Fencing {
    /// After what the broker said; gives the reason for a warning when there will be no fence.
    pub(super) fn answered(answer: Fence) -> (Self, Option<String>) {
        match answer {
            Fence::Held => (Fencing::Open, None),
            Fence::Busy { text } => (Fencing::Busy(busy(&text)), None),
            Fence::Taken { queue, by, for_at_least, text } => {
                (Fencing::Taken(taken(&queue, by, for_at_least, &text)), None)
            }
            Fence::Unwatched { text } => (Fencing::Open, Some(unwatched(&text))),
            Fence::Denied { refusal } => {
                (Fencing::Open, Some(denied(&refusal.text, &cures::of_fence(&refusal))))
            }
        }
    }
}

fn busy(text: &str) -> String {
    format!(
        "the slot is ours, and another instance's connection to RabbitMQ is not gone yet ({text}); publishing begins when the \
         broker has ended it, after three missed heartbeats at the latest"
    )
}

fn taken(queue: &str, by: FenceOwner, for_at_least: Duration, text: &str) -> String {
    format!(
        "nothing is published, although the slot is ours: queue '{queue}', which only one instance may have, has belonged to {} for {} s, \
         longer than a takeover takes ({text}). Rows wait in the slot. {}; outboxd then goes on by itself",
        by.whose(),
        for_at_least.as_secs(),
        cures::of_taken_fence(queue, by)
    )
}

fn unwatched(text: &str) -> String {
    format!(
        "nobody tells if the fence is deleted ({text}): an instance that was frozen may then go on to publish for a moment \
         after another took over; {GRANT}"
    )
}

fn denied(text: &str, cure: &str) -> String {
    format!(
        "publishing without a fence ({text}): an instance that was frozen or cut off may go on to publish for a moment after \
         another took over; {cure}"
    )
}

const GRANT: &str =
    "grant the user configure and read on ^outboxd\\.publisher\\. (rabbitmqctl set_permissions)";
