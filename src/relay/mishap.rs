//! Texts for an operator about messages that are held up while both connections work. Never shows a payload.

use std::{
    collections::BTreeSet,
    fmt,
    time::{Duration, Instant, SystemTime},
};

use crate::{
    ledger::{Ledger, Nacked, Settled},
    message::{Message, Timestamp},
    position::Position,
    rabbitmq::cures,
};
use amqp_publisher::Refused;
use process::clock::now;

/// Time after which nacked messages are reported. One or two nacks are normal.
const NACK_PATIENCE: Duration = Duration::from_secs(5);

/// Messages whose missing confirms ended a connection. The confirm deadline doubles each time, so copies become ever rarer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stalled {
    /// Positions of the messages. `None`: all, because backlog rows have another position on each attempt.
    pub(crate) positions: Option<BTreeSet<Position>>,
    /// Number of times in a row.
    pub(crate) times: u32,
    /// Text of the last fault.
    pub(crate) reason: String,
    /// Other messages were confirmed meanwhile, so the broker as a whole works.
    pub(crate) are_overtaken: bool,
}

impl Stalled {
    /// Records that messages, the same or others, were not confirmed in time.
    pub(crate) fn again(
        before: Option<Self>,
        positions: Option<BTreeSet<Position>>,
        unconfirmed: Overdue,
    ) -> Self {
        let Overdue { what: reason, is_overtaken: are_overtaken } = unconfirmed;
        let is_the_same = |before: &Self| match (&before.positions, &positions) {
            (Some(before), Some(positions)) => !before.is_disjoint(positions),
            (before, positions) => before.is_none() == positions.is_none(),
        };
        let times = before.filter(is_the_same).map_or(0, |before| before.times).saturating_add(1);
        Self { positions, times, reason, are_overtaken }
    }

    /// Reason to show while they are not settled. A single timeout of all messages says nothing about these.
    pub(crate) fn reason(&self) -> Option<&str> {
        (self.are_overtaken || self.times > 1).then_some(self.reason.as_str())
    }

    /// Returns whether the message at `position` is one of them.
    pub(crate) fn has(&self, position: Position) -> bool {
        self.positions.as_ref().is_none_or(|positions| positions.contains(&position))
    }

    /// Removes settled messages. Returns `None` when all are settled.
    pub(crate) fn without(mut self, settled: &Settled) -> Option<Self> {
        if let Some(positions) = &mut self.positions {
            let before = settled.progress.position;
            positions.retain(|position| Some(*position) > before && !settled.ahead.contains(position));
        }
        let are_left = self.positions.as_ref().is_none_or(|positions| !positions.is_empty());
        are_left.then_some(self)
    }

    /// Longest wait for the confirm of such a message. A queue that recovers answers on the same connection. Waiting longer is
    /// therefore free, while each new connection costs a copy of each message.
    pub(crate) fn patience(&self, confirm_timeout: Duration) -> Duration {
        confirm_timeout.saturating_mul(1 << self.times.min(16))
    }
}

/// A confirm that did not arrive in time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overdue {
    what: String,
    is_overtaken: bool,
}

impl Overdue {
    /// Describes the longest unanswered message.
    pub(crate) fn of(ledger: &Ledger) -> Self {
        let is_overtaken = ledger.is_overtaken();
        let message = ledger.longest_unanswered();
        Self {
            what: message.map(|message| unconfirmed(message, is_overtaken)).unwrap_or_default(),
            is_overtaken,
        }
    }
}

impl fmt::Display for Overdue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.what.is_empty() { "the broker confirmed nothing" } else { &self.what })
    }
}

/// A message, in words for an operator.
fn shown(message: &Message) -> String {
    let (id, position) = (message.id(), message.position);
    let (exchange, routing_key) = (&message.amqp.exchange, &message.amqp.routing_key);
    format!("message {id} at {position} (exchange '{exchange}', routing key '{routing_key}')")
}

/// Text about a message that the broker refuses. Every later message waits.
pub(crate) fn refused(message: &Message, refused: &Refused) -> String {
    let goes_on = match refused {
        Refused::Publish(_) | Refused::Exchange(_) => {
            "outboxd tries again and goes on by itself when RabbitMQ takes it; or set"
        }
        // Nothing checks again whether the exchange exists.
        Refused::TooManyExchanges { exchanges_max: 0 } => "to park such rows, set",
        Refused::TooManyExchanges { .. } => {
            "outboxd checks again and goes on by itself once the exchange is declared; to park such rows, set"
        }
    };
    format!(
        "{} is refused: {}. Earlier messages are published, later ones wait; {goes_on} delivery.on_invalid = \"park\" and restart",
        shown(message),
        cures::explain_refused(message, refused)
    )
}

/// Text about an unroutable message. All other messages wait.
pub(crate) fn unroutable(message: &Message) -> String {
    format!(
        "message {} at {} is unroutable: no queue is bound to exchange '{}' for routing key '{}'. All other messages wait; bind one \
         and outboxd goes on by itself, or set delivery.on_unroutable = \"park\" or \"drop\" and restart",
        message.id(),
        message.position,
        message.amqp.exchange,
        message.amqp.routing_key
    )
}

/// Text about a missing confirm. `is_overtaken`: messages that were published no earlier are confirmed.
pub(crate) fn unconfirmed(message: &Message, is_overtaken: bool) -> String {
    let (exchange, routing_key) = (&message.amqp.exchange, &message.amqp.routing_key);
    let cause = format!(
        "a queue bound to exchange '{exchange}' for routing key '{routing_key}' confirms nothing. A quorum queue does so while a majority of \
         its nodes is down (`rabbitmq-queues quorum_status QUEUE` shows no leader); outboxd goes on by itself when the queue answers"
    );
    if is_overtaken {
        format!("{} gets no confirm, while others are confirmed: {cause}", shown(message))
    } else {
        format!(
            "the broker confirmed nothing: it hangs, or the connection is cut; or, for {}, {cause}",
            shown(message)
        )
    }
}

/// Watch over messages that wait after a nack.
#[derive(Debug, Default)]
pub(crate) struct NackWatch {
    /// Time of the first nack, by the monotonic and by the wall clock.
    since: Option<(Instant, Timestamp)>,
}

impl NackWatch {
    /// Returns whether messages waited at the last look.
    pub(crate) fn is_on(&self) -> bool {
        self.since.is_some()
    }

    /// Records the messages that wait now. Returns their number and the time of the first nack.
    pub(crate) fn look(&mut self, nacked: Option<Nacked<'_>>) -> Option<(usize, Timestamp)> {
        let Some(Nacked { messages, since, .. }) = nacked else {
            self.since = None;
            return None;
        };
        let at = match self.since {
            Some((known, at)) if known == since => at,
            _ => {
                let ago = now().saturating_duration_since(since);
                Timestamp::from(SystemTime::now().checked_sub(ago).unwrap_or_else(SystemTime::now))
            }
        };
        self.since = Some((since, at));
        Some((messages, at))
    }

    /// Text about the waiting messages, once they have waited for a while.
    pub(crate) fn reason(&self, ledger: &Ledger, backoff_max: Duration) -> Option<String> {
        let Nacked { messages, route, more_routes, since } = ledger.nacked()?;
        let (_, at) = self.since?;
        if now().saturating_duration_since(since) < NACK_PATIENCE {
            return None;
        }
        let more = if more_routes > 0 { format!(" and {more_routes} more") } else { String::new() };
        let (exchange, key) = (&route.exchange, &route.routing_key);
        Some(format!(
            "RabbitMQ nacked {messages} messages since {at} that still wait (exchange '{exchange}', routing key '{key}'{more}): a queue bound \
             for them does not take them. If a queue is full (rabbitmqctl list_queues name messages arguments policy; x-max-length with \
             overflow reject-publish), drain it or raise its limit. If a quorum queue has no leader (rabbitmq-queues quorum_status QUEUE), \
             start its nodes. If the queue has room and messages still wait, restart outboxd. Other messages go on. outboxd sends one of each key again at least every {} ms until the queue takes them; \
             delivery.on_nack = \"park\" parks them",
            backoff_max.as_millis()
        ))
    }
}

/// Reason why a drain did not finish.
pub(crate) fn undrained(ledger: &Ledger) -> String {
    if let Some(message) = ledger.forbidden().and_then(|tag| ledger.message(tag)) {
        format!(
            "{} is refused by RabbitMQ, and later messages wait or are confirmed behind it",
            shown(message)
        )
    } else if let Some(message) = ledger.halted_by() {
        format!(
            "{} is unroutable, and later messages wait or are confirmed behind one that is unroutable",
            shown(message)
        )
    } else if let Some(Nacked { messages, route, .. }) = ledger.nacked() {
        format!(
            "RabbitMQ nacks {messages} messages (exchange '{}', routing key '{}'): a queue is full and rejects them, or has no leader",
            route.exchange, route.routing_key
        )
    } else if ledger.parking() > 0 {
        format!("{} rows could not be parked", ledger.parking())
    } else if let Some(message) = ledger.longest_unanswered().or_else(|| ledger.oldest()) {
        format!("{} is not confirmed", shown(message))
    } else {
        "messages were confirmed behind one that was not".to_owned()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::position::Lsn;

    fn positions(of: &[u64]) -> Option<BTreeSet<Position>> {
        Some(of.iter().map(|lsn| Position { commit_lsn: Lsn(*lsn), index: 0 }).collect())
    }

    #[test]
    fn a_row_with_one_exchange_too_many_says_whether_declaring_it_helps() {
        let message =
            Message::empty(Position { commit_lsn: Lsn(1), index: 0 }, crate::message::AggregateKey(1));
        let goes_on = |exchanges_max| {
            refused(&message, &Refused::TooManyExchanges { exchanges_max }).contains("goes on by itself")
        };
        assert!(goes_on(1), "the broker is asked again");
        assert!(!goes_on(0), "it is not");
    }

    #[test]
    fn patience_doubles_for_a_message_that_stays_unconfirmed_and_for_no_other() {
        let timeout = Duration::from_secs(30);
        let first = Stalled::again(None, positions(&[1, 2]), Overdue::default());
        let second = Stalled::again(Some(first.clone()), positions(&[2, 3]), Overdue::default());
        let another = Stalled::again(Some(second.clone()), positions(&[9]), Overdue::default());
        assert_eq!(
            [&first, &second, &another].map(|stalled| stalled.patience(timeout).as_secs()),
            [60, 120, 60]
        );
        assert!(second.has(Position { commit_lsn: Lsn(3), index: 0 }));
        let progress = crate::ledger::Progress {
            position: Some(Position { commit_lsn: Lsn(2), index: 0 }),
            ..Default::default()
        };
        let ahead = positions(&[3]).unwrap();
        assert!(second.clone().without(&Settled { progress, ahead: BTreeSet::new() }).is_some());
        assert_eq!(second.without(&Settled { progress, ahead }), None, "all are settled");
    }
}
