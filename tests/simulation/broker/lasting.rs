//! Lasting states of the broker for one routing key or one exchange, while others work: the broker closes the channel for a
//! message, refuses an exchange, nacks, or confirms nothing. Also a publisher's channel, which is closed and opened again.

use std::time::Duration;

use amqp_publisher::{
    DeclareError, Refusal, Refused,
    publisher::{Outcome, PublisherEvent},
};
use tokio::time::Instant;

use super::{
    messages::row_of,
    state::{Arrival, Closed, ConnectionId, Waiting},
};
use crate::{link::Link, oracle::Sender, scenario::Sabotage, wal::RowId, world::WorldState};

impl WorldState {
    /// Sends the waiting messages that may be sent.
    pub(crate) fn send_waiting(&mut self, id: ConnectionId) {
        let now = self.now();
        let lasts = self.scenario.states_last();
        while let Some(connection) = self.broker.connections.get_mut(&id) {
            let (publish_ms, channel) = (self.scenario.publish_ms, &mut connection.channel);
            if channel.sends_from > now || channel.declaring.is_some() {
                return;
            }
            let Some(next) = channel.waiting.pop_front() else { return };
            if lasts && !channel.known.contains(&next.message.amqp.exchange) {
                let exchange = next.message.amqp.exchange.clone();
                channel.waiting.push_front(next);
                let after = self.millis(0..=publish_ms * 2);
                if let Some(connection) = self.broker.connections.get_mut(&id) {
                    connection.channel.declaring = Some((now + after, exchange));
                }
                return;
            }
            self.send(id, next.tag, &next.message, next.handed_over);
            if lasts && self.one_in(10) {
                let after = self.millis(1..=5);
                if let Some(connection) = self.broker.connections.get_mut(&id) {
                    connection.channel.sends_from = now + after;
                }
            }
        }
    }

    /// Closes the channel if the broker refuses the message. Earlier messages are processed, later ones on the channel are lost,
    /// and no confirm is sent any more.
    pub(crate) fn closes_channel(&mut self, arrival: &Arrival, now: Instant) -> bool {
        let exchange = Some(arrival.message.amqp.exchange.as_str());
        let missing = exchange.filter(|exchange| self.broker.lasting.missing == Some(exchange));
        if missing.is_none() && self.broker.lasting.refused != Some(arrival.message.amqp.routing_key.as_str())
        {
            return false;
        }
        let missing = missing.map(str::to_owned);
        let &Arrival { connection: id, row, .. } = arrival;
        self.note(|| format!("broker: closes the channel of connection {id} for row {row}"));
        if arrival.sender != Sender::Replay {
            self.oracle.refused(row);
        }
        self.broker.arrivals.retain(|_, other| other.connection != id);
        let after = self.millis(0..=self.scenario.publish_ms);
        if let Some(connection) = self.broker.connections.get_mut(&id) {
            connection.channel.closed = Some(Closed { at: now + after, row, missing });
            for sent in &mut connection.unanswered {
                sent.answer.take_if(|(at, _)| *at > now);
                sent.leaderless = false;
            }
        }
        true
    }

    /// Returns a channel's event that the client hears of, once every outcome was reported.
    pub(crate) fn hear_of_channel(&mut self, id: ConnectionId, now: Instant) -> Option<PublisherEvent> {
        let opens = now + self.millis_if_states_last(self.scenario.publish_ms * 2);
        let sabotage = self.scenario.sabotage;
        let another = self.broker.lasting.another_exchange;
        let connection = self.broker.connections.get_mut(&id).filter(|c| c.link == Link::Up)?;
        let (process, channel) = (connection.process, &mut connection.channel);
        if let Some((_, exchange)) = channel.declaring.take_if(|(at, _)| *at <= now) {
            if another != Some(exchange.as_str()) {
                self.broker.lasting.missing.take_if(|missing| *missing == exchange);
                channel.known.insert(exchange);
                self.send_waiting(id);
                return None;
            }
            channel.sends_from = opens;
            let first = channel.waiting.front().filter(|first| first.message.amqp.exchange == exchange)?;
            let row = row_of(&first.message);
            let unsent = channel.waiting.drain(..).map(|waiting| waiting.tag).collect();
            self.oracle.exchange_refused(process, id, row, now);
            self.note(|| {
                format!("process {process} hears that exchange {exchange} is refused, of row {row}")
            });
            return Some(PublisherEvent::ExchangeRefused { refused: refused_exchange(&exchange), unsent });
        }
        channel.closed.as_ref().filter(|closed| closed.at <= now)?;
        if sabotage == Some(Sabotage::UnsentCounts) && !channel.waiting.is_empty() {
            let unsent: Vec<_> = channel.waiting.drain(..).collect();
            for Waiting { message, .. } in &unsent {
                self.oracle.told_confirmed(process, id, row_of(message), now);
            }
            let outcomes = unsent.into_iter().map(|unsent| (unsent.tag, Outcome::Confirmed)).collect();
            return Some(PublisherEvent::Outcomes(outcomes));
        }
        let Closed { row: guilty, missing, .. } = channel.closed.take()?;
        if let Some(missing) = &missing {
            channel.known.remove(missing);
        }
        channel.sends_from = opens;
        let unsent: Vec<_> = channel.waiting.drain(..).collect();
        let sent: Vec<_> = connection.unanswered.drain(..).collect();
        let rows: Vec<RowId> = sent.iter().map(|sent| sent.row).collect();
        self.note(|| format!("process {process} hears that its channel was closed for one of {rows:?}"));
        match &missing {
            Some(_) => self.oracle.exchange_missed(process, id, &rows),
            None => self.oracle.channel_closed(process, id, guilty, &rows, now),
        }
        if sabotage == Some(Sabotage::WindowAgain) {
            self.broker.connections.get_mut(&id)?.arrives_after = now + Duration::from_millis(1);
            for sent in sent {
                self.send(id, sent.tag, &sent.message, now);
            }
            return None;
        }
        let sent = sent.into_iter().map(|sent| sent.tag).collect();
        let unsent = unsent.into_iter().map(|unsent| unsent.tag).collect();
        let refused = missing.map_or_else(refused_key, |exchange| misses_exchange(&exchange));
        Some(PublisherEvent::ChannelClosed { refused, sent, unsent })
    }

    fn millis_if_states_last(&mut self, at_most: u64) -> Duration {
        if self.scenario.states_last() { self.millis(0..=at_most) } else { Duration::ZERO }
    }

    /// Elects a leader. The queue confirms some of the messages that it was sent meanwhile and knows nothing of the rest.
    pub(crate) fn find_leader(&mut self) {
        self.broker.lasting.leaderless = None;
        let now = self.now();
        for id in self.broker.connections.keys().copied().collect::<Vec<_>>() {
            let Some(connection) = self.broker.connections.get(&id).filter(|c| c.link == Link::Up) else {
                continue;
            };
            let sender = self.oracle.sender(connection.process);
            let held: Vec<_> =
                connection.unanswered.iter().filter(|s| s.leaderless).map(|s| (s.serial, s.row)).collect();
            for (serial, row) in held {
                if self.rng.bool() {
                    continue;
                }
                if sender != Sender::Replay {
                    self.oracle.delivered(row);
                }
                let after = self.millis(0..=self.scenario.confirm_ms);
                let connection = self.broker.connections.get_mut(&id);
                if let Some(sent) =
                    connection.and_then(|c| c.unanswered.iter_mut().find(|sent| sent.serial == serial))
                {
                    sent.answer = Some((now + after, Outcome::Confirmed));
                }
            }
        }
    }
}

fn refused_key() -> Refused {
    let text = "ACCESS_REFUSED - access to topic 'Shipped' in exchange topic 'Order.events' in vhost '/' refused for user 'outboxd'";
    Refused::Publish(Refusal { code: 403, text: text.to_owned() })
}

fn misses_exchange(exchange: &str) -> Refused {
    Refused::Publish(Refusal {
        code: 404,
        text: format!("NOT_FOUND - no exchange '{exchange}' in vhost '/'"),
    })
}

fn refused_exchange(exchange: &str) -> Refused {
    let (code, text) =
        (406, format!("PRECONDITION_FAILED - inequivalent arg 'type' for exchange '{exchange}'"));
    let object = format!("exchange '{exchange}'");
    Refused::Exchange(DeclareError::new(object, Refusal { code, text }))
}
