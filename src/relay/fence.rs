//! The fence: the right to publish for a source. Holds the name of the fence queue and the texts about it; the crate
//! `amqp-publisher` knows how to take it.
//!
//! The slot keeps two instances from streaming at once, but not from publishing. An instance that was frozen, or cut off from
//! PostgreSQL, has lost the slot and may still send messages that it holds. The fence is taken after the slot and before the first
//! publish. Closing the connection to the broker releases it.

use std::time::Duration;

use crate::rabbitmq::cures;
use amqp_publisher::{Fence, FenceOwner};

/// Returns the name of the fence queue for `slot`.
///
/// `server` is the system identifier: services may share a virtual host and use equal slot names on their own PostgreSQL servers. A
/// promoted replica has its primary's identifier, so a failover does not let two instances publish.
pub fn fence_queue(slot: &str, server: &str) -> String {
    format!("outboxd.publisher.{slot}.{server}")
}

/// State of the request for the fence.
pub(super) enum Fencing {
    /// Publishing is allowed: the fence was not requested yet, is held, or is refused to this user.
    Open,
    /// Requested. Nothing is shown, because the answer takes one round trip.
    Asked,
    /// Another instance holds the fence. Reason and next step.
    Busy(String),
    /// Another connection has held the fence for longer than a takeover takes. Nothing is published until a person acts. Reason and next
    /// step.
    Taken(String),
}

impl Fencing {
    /// Returns the state after the broker's answer, and the text of a warning if there is no fence.
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
        "this instance has the slot, but another instance's connection to RabbitMQ still exists ({text}); publishing begins when \
         RabbitMQ has ended that connection, after three missed heartbeats at the latest"
    )
}

fn taken(queue: &str, by: FenceOwner, for_at_least: Duration, text: &str) -> String {
    format!(
        "nothing is published, although this instance has the slot: queue '{queue}', which only one instance may have, has belonged to {} for {} s, \
         longer than a takeover takes ({text}). Rows wait in the slot. {}; outboxd then goes on by itself",
        by.whose(),
        for_at_least.as_secs(),
        cures::of_taken_fence(queue, by)
    )
}

fn unwatched(text: &str) -> String {
    format!(
        "outboxd cannot notice when its fence queue is deleted ({text}): an instance that was frozen may then publish for a moment \
         after another took over, out of order; {GRANT}"
    )
}

fn denied(text: &str, cure: &str) -> String {
    format!(
        "publishing without a fence ({text}): an instance that was frozen or cut off may publish for a moment after another took \
         over, out of order; {cure}"
    )
}

const GRANT: &str =
    "grant the user configure and read on ^outboxd\\.publisher\\. (rabbitmqctl set_permissions)";
