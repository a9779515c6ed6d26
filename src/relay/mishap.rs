//! What holds messages up while both links are well, in words for an operator. Shows no payload.

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

/// A nack or two are normal; after so long the source says that messages are held up.
const NACK_PATIENCE: Duration = Duration::from_secs(5);

/// Messages that the broker confirmed so late that the connection was given up for it. Copies of them are sent ever more rarely.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stalled {
    /// Where they stand; `None`: all, as rows of a backlog have another position each time.
    pub(crate) positions: Option<BTreeSet<Position>>,
    /// How often that has happened in a row.
    pub(crate) times: u32,
    /// What the last fault said.
    pub(crate) reason: String,
    /// Others were confirmed meanwhile, so that the broker as a whole is not to blame.
    pub(crate) are_overtaken: bool,
}

impl Stalled {
    /// The same messages, or others, were not confirmed in time.
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

    /// What to say while they are not settled. A single loss of everything tells nothing of these messages.
    pub(crate) fn reason(&self) -> Option<&str> {
        (self.are_overtaken || self.times > 1).then_some(self.reason.as_str())
    }

    /// Whether this message is one of them.
    pub(crate) fn has(&self, position: Position) -> bool {
        self.positions.as_ref().is_none_or(|positions| positions.contains(&position))
    }

    /// Forgets those that are settled; `None` when all are.
    pub(crate) fn without(mut self, settled: &Settled) -> Option<Self> {
        if let Some(positions) = &mut self.positions {
            let before = settled.progress.position;
            positions.retain(|position| Some(*position) > before && !settled.ahead.contains(position));
        }
        let are_left = self.positions.as_ref().is_none_or(|positions| !positions.is_empty());
        are_left.then_some(self)
    }

    /// How long the answer to such a message may take. A broker that finds its queue again answers on the same connection, so
    /// that patience costs nothing, and each connection that is given up costs a copy of each.
    pub(crate) fn patience(&self, confirm_timeout: Duration) -> Duration {
        confirm_timeout.saturating_mul(1 << self.times.min(16))
    }
}

/// A confirm that did not come in time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overdue {
    what: String,
    is_overtaken: bool,
}

impl Overdue {
    /// The one that was awaited longest.
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

/// A message as an operator finds it.
fn shown(message: &Message) -> String {
    let (id, position) = (message.id(), message.position);
    let (exchange, routing_key) = (&message.amqp.exchange, &message.amqp.routing_key);
    format!("message {id} at {position} (exchange '{exchange}', routing key '{routing_key}')")
}

/// A message that the broker does not take holds up everything behind it.
pub(crate) fn refused(message: &Message, refused: &Refused) -> String {
    let goes_on = match refused {
        Refused::Publish { .. } | Refused::Exchange(_) => {
            "outboxd tries it again and goes on by itself when RabbitMQ takes it, or set"
        }
        // Nobody looks whether the exchange is there by now.
        Refused::TooManyExchanges { exchanges_max: 0 } => "to put such rows aside, set",
        Refused::TooManyExchanges { .. } => {
            "outboxd looks for the exchange again and goes on by itself once somebody has declared it; to put such rows aside, set"
        }
    };
    format!(
        "{} is refused: {}. What stands before it goes out, and nothing behind it; {goes_on} delivery.on_invalid = \"park\" and restart",
        shown(message),
        cures::explain_refused(message, refused)
    )
}

/// A message that no queue is bound for holds up everything.
pub(crate) fn unroutable(message: &Message) -> String {
    format!(
        "message {} at {} is unroutable: no queue is bound to exchange '{}' for routing key '{}'; bind one and \
         it goes on by itself, or set delivery.on_unroutable = \"park\" or \"drop\" and restart",
        message.id(),
        message.position,
        message.amqp.exchange,
        message.amqp.routing_key
    )
}

/// A confirm that does not come. `is_overtaken`: others that were published no earlier have theirs.
pub(crate) fn unconfirmed(message: &Message, is_overtaken: bool) -> String {
    let (exchange, routing_key) = (&message.amqp.exchange, &message.amqp.routing_key);
    let cause = format!(
        "a queue bound to exchange '{exchange}' for routing key '{routing_key}' confirms nothing. A quorum queue without a leader, as a \
         majority of its nodes is down? `rabbitmq-queues quorum_status QUEUE` shows it; the source goes on by itself when the queue \
         answers"
    );
    if is_overtaken {
        format!("{} gets no confirm, while others are confirmed: {cause}", shown(message))
    } else {
        format!(
            "the broker confirmed nothing: it hangs, or the link is cut; or, as to {}, {cause}",
            shown(message)
        )
    }
}

/// Messages that wait after a nack, once that has lasted.
#[derive(Debug, Default)]
pub(crate) struct NackWatch {
    /// Since when, by both clocks.
    since: Option<(Instant, Timestamp)>,
}

impl NackWatch {
    /// Whether something waited at the last look.
    pub(crate) fn is_on(&self) -> bool {
        self.since.is_some()
    }

    /// Takes in what waits now. Gives how many messages, and since when.
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

    /// What to say of it, once it has lasted.
    pub(crate) fn reason(&self, ledger: &Ledger, backoff_max: Duration) -> Option<String> {
        let Nacked { messages, route, more_routes, since } = ledger.nacked()?;
        let (_, at) = self.since?;
        if now().saturating_duration_since(since) < NACK_PATIENCE {
            return None;
        }
        let more = if more_routes > 0 { format!(" and {more_routes} more") } else { String::new() };
        let (exchange, key) = (&route.exchange, &route.routing_key);
        Some(format!(
            "RabbitMQ nacks {messages} messages since {at}, for exchange '{exchange}' and routing key '{key}'{more}: a queue bound for \
             it does not take them. See whether one is full (rabbitmqctl list_queues name messages arguments policy; x-max-length \
             with overflow reject-publish), and drain it or raise its limit; or whether a quorum queue has no leader (rabbitmq-queues \
             quorum_status QUEUE). Other messages go on; these are sent again, one of a \
             key at least every {} ms, until the queue takes them; with delivery.on_nack = \"park\" they are put aside",
            backoff_max.as_millis()
        ))
    }
}

/// What a drain that came to no end was waiting for.
pub(crate) fn undrained(ledger: &Ledger) -> String {
    if let Some(message) = ledger.forbidden().and_then(|tag| ledger.message(tag)) {
        format!("{} is refused by RabbitMQ, and others wait or are confirmed behind it", shown(message))
    } else if let Some(message) = ledger.halted_by() {
        format!(
            "{} is unroutable, and others wait or are confirmed behind one that is unroutable",
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
        "messages are confirmed behind one that is not".to_owned()
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
