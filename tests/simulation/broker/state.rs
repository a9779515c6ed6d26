//! State of the simulated broker: connections, channels, messages on the way, and what is wrong with it.

use std::collections::{BTreeMap, HashSet, VecDeque};

use amqp_publisher::publisher::Outcome;
use outboxd::{ledger::PublishTag, message::Message};
use tokio::time::Instant;

use crate::{link::Link, oracle::Sender, wal::RowId};

pub(crate) type ConnectionId = u64;

#[derive(Default)]
pub(crate) struct Broker {
    pub(crate) down: bool,
    /// A memory or disk alarm. The broker reads nothing from publishers.
    pub(crate) alarm: bool,
    /// Exchange, queue and binding exist. A replaced broker has none until they are declared.
    pub(crate) declared: bool,
    /// The queue was unbound.
    pub(crate) unbound: bool,
    /// The broker nacks often and is slow.
    pub(crate) trouble: bool,
    pub(crate) lasting: Lasting,
    pub(crate) connections: BTreeMap<ConnectionId, Connection>,
    /// Exclusive queues and the connections that own them.
    pub(crate) fences: BTreeMap<String, ConnectionId>,
    /// A foreign connection owns every fence queue.
    pub(crate) fence_taken: bool,
    /// Messages on the way, by time of arrival. Messages of one connection stay in order.
    pub(crate) arrivals: BTreeMap<(Instant, u64), Arrival>,
    pub(super) last_connection: ConnectionId,
    pub(super) last_arrival: u64,
}

pub(crate) struct Arrival {
    pub(crate) connection: ConnectionId,
    pub(crate) row: RowId,
    pub(crate) message: Message,
    /// Number of the publish on its connection.
    pub(super) serial: u64,
    /// Fence that the connection held at the publish.
    pub(super) fence: Option<String>,
    pub(crate) sender: Sender,
}

pub(crate) struct Connection {
    pub(crate) process: u64,
    pub(crate) link: Link,
    /// In the order of publishing. Answered messages are removed.
    pub(crate) unanswered: VecDeque<Sent>,
    pub(crate) channel: Channel,
    pub(super) last_serial: u64,
    pub(crate) arrives_after: Instant,
    pub(super) blocked_told: bool,
    pub(crate) fence: FenceOf,
    /// The client is silent. The broker closes the connection at this time.
    pub(crate) silent_until: Option<Instant>,
    /// The client dropped the connection, and the broker has not noticed.
    pub(crate) abandoned: bool,
}

pub(crate) struct Sent {
    pub(crate) serial: u64,
    pub(crate) tag: PublishTag,
    pub(crate) row: RowId,
    pub(crate) message: Message,
    pub(crate) answer: Option<(Instant, Outcome)>,
    /// The message's queue has no leader to answer.
    pub(crate) leaderless: bool,
}

/// Relation of a connection to the fence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FenceOf {
    Nothing,
    Asks { queue: String, since: Instant, told_busy: bool, told_taken: Option<Instant> },
    Has(String),
    Denied,
}

impl FenceOf {
    pub(crate) fn name(&self) -> Option<String> {
        match self {
            FenceOf::Has(queue) => Some(queue.clone()),
            _ => None,
        }
    }
}

/// Lasting states.
#[derive(Default)]
pub(crate) struct Lasting {
    /// A routing key that the user may not publish with. The broker closes the channel.
    pub(crate) refused: Option<&'static str>,
    /// An exchange that exists with another type.
    pub(crate) another_exchange: Option<&'static str>,
    /// An exchange that was deleted, and is missing until a publisher declares it again.
    pub(crate) missing: Option<&'static str>,
    /// A routing key whose queue is full and rejects messages.
    pub(crate) full: Option<&'static str>,
    /// A routing key whose queue has no leader.
    pub(crate) leaderless: Option<&'static str>,
}

/// A message that was handed over and not sent.
pub(crate) struct Waiting {
    pub(crate) tag: PublishTag,
    pub(crate) message: Message,
    pub(crate) handed_over: Instant,
}

/// A channel that the broker has closed.
pub(super) struct Closed {
    /// Time when the client hears of it.
    pub(super) at: Instant,
    pub(super) row: RowId,
    /// The exchange, if it is missing.
    pub(super) missing: Option<String>,
}

/// The channel on which a connection publishes.
pub(crate) struct Channel {
    /// Messages that were handed over and not sent.
    pub(crate) waiting: VecDeque<Waiting>,
    /// Set when the broker has closed the channel and the client has not heard of it.
    pub(super) closed: Option<Closed>,
    /// Nothing is sent before this time: the channel is being opened, or the socket is full.
    pub(super) sends_from: Instant,
    /// Exchanges that the connection has declared.
    pub(super) known: HashSet<String>,
    /// Time of the answer to the declare of this exchange.
    pub(super) declaring: Option<(Instant, String)>,
}

impl Channel {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            waiting: VecDeque::new(),
            closed: None,
            sends_from: now,
            known: HashSet::new(),
            declaring: None,
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.is_some()
    }

    /// Time of the channel's next event.
    pub(crate) fn next(&self) -> Option<Instant> {
        let sends = (!self.waiting.is_empty() && self.declaring.is_none()).then_some(self.sends_from);
        let closed = self.closed.as_ref().map(|closed| closed.at);
        let declared = self.declaring.as_ref().map(|(at, _)| *at);
        [sends, closed, declared].into_iter().flatten().min()
    }
}
