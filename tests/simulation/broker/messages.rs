//! Messages on their way to the broker, and the broker's answers.

use std::time::Duration;

use amqp_publisher::{
    BrokerError, Refusal,
    publisher::{Outcome, PublisherEvent},
};
use outboxd::{
    ledger::PublishTag,
    message::{HeaderValue, Message},
};
use tokio::time::Instant;

use super::{
    publisher::AT,
    state::{Arrival, ConnectionId, Sent},
};
use crate::{
    link::{Link, Said},
    oracle::Sender,
    scenario::Sabotage,
    wal::RowId,
    world::WorldState,
};

impl WorldState {
    /// Processes what has arrived at the broker by now.
    pub(crate) fn arrive(&mut self) {
        let now = self.now();
        self.miss_heartbeats(now);
        while !self.broker.alarm
            && !self.broker.down
            && let Some(next) = self.broker.arrivals.first_entry()
            && next.key().0 <= now
        {
            let arrival = next.remove();
            self.accept(arrival, now);
        }
    }

    fn accept(&mut self, arrival: Arrival, now: Instant) {
        if arrival.sender == Sender::Relay {
            self.accepted(arrival.connection, arrival.fence.as_deref());
        }
        if self.closes_channel(&arrival, now) {
            return;
        }
        let Arrival { connection, row, serial, message, sender, .. } = arrival;
        // A replayed message proves nothing about the relay.
        let counts = sender != Sender::Replay;
        let key = Some(message.amqp.routing_key.as_str());
        let (full, leaderless) = (self.broker.lasting.full == key, self.broker.lasting.leaderless == key);
        let routed = self.broker.declared && !self.broker.unbound;
        let nack_one_in = if self.broker.trouble { 3 } else { self.scenario.nack_one_in };
        let nacked = routed && !leaderless && (self.one_in(nack_one_in) || full);
        // Other queues may store a message that one queue does not take.
        if routed && (!(nacked || leaderless) || self.one_in(3)) && counts {
            self.oracle.delivered(row);
        }
        let outcome = match (routed, nacked) {
            (false, _) => {
                if counts {
                    self.oracle.unroutable(row);
                }
                Outcome::Returned { reply_code: 312, reply_text: "NO_ROUTE".to_owned() }
            }
            (true, true) => {
                if counts {
                    self.oracle.nacked(row);
                }
                Outcome::Nacked
            }
            (true, false) => Outcome::Confirmed,
        };
        if routed && leaderless {
            if counts {
                self.oracle.refused(row);
            }
            self.note(|| format!("broker: row {row} has no answer"));
            let connection = self.broker.connections.get_mut(&connection);
            let mut unanswered = connection.into_iter().flat_map(|connection| &mut connection.unanswered);
            if let Some(sent) = unanswered.find(|sent| sent.serial == serial) {
                sent.leaderless = true;
            }
            return;
        }
        self.note(|| format!("broker: row {row} {outcome:?}"));
        let slow = if self.broker.trouble { 20 } else { 1 };
        let after = self.millis(0..=self.scenario.confirm_ms * slow);
        let mute = !self.peace && self.one_in(self.scenario.mute_one_in);
        let began = self.began;
        let quantum = self.scenario.confirm_quantum_ms;
        if let Some(connection) = self.broker.connections.get_mut(&connection)
            && let Some(sent) = connection.unanswered.iter_mut().find(|sent| sent.serial == serial)
            && !mute
        {
            // The broker answers several messages at once, after a write to disk.
            let at = (now + after).duration_since(began).as_millis() as u64;
            let at = began + Duration::from_millis(at.next_multiple_of(quantum));
            sent.answer = Some((at.max(now), outcome));
        }
    }

    /// Cuts a connection. Of the messages on the way, the first ones still arrive.
    pub(crate) fn cut_broker_connection(&mut self, id: ConnectionId) {
        let now = self.now();
        let Some(connection) = self.broker.connections.get_mut(&id) else { return };
        connection.link = Link::Cut;
        for sent in &mut connection.unanswered {
            sent.answer.take_if(|(at, _)| *at > now);
        }
        self.drop_arrivals(id);
    }

    pub(crate) fn drop_arrivals(&mut self, id: ConnectionId) {
        let on_its_way: Vec<_> = self
            .broker
            .arrivals
            .iter()
            .filter(|(_, arrival)| arrival.connection == id)
            .map(|(key, _)| *key)
            .collect();
        let lost_from = self.rng.usize(0..=on_its_way.len());
        for key in &on_its_way[lost_from..] {
            self.broker.arrivals.remove(key);
        }
    }

    pub(crate) fn cut_all_broker_connections(&mut self) {
        for id in self.broker.connections.keys().copied().collect::<Vec<_>>() {
            self.cut_broker_connection(id);
        }
    }

    pub(crate) fn send(
        &mut self,
        id: ConnectionId,
        tag: PublishTag,
        message: &Message,
        handed_over: Instant,
    ) {
        let latency = self.millis(0..=self.scenario.publish_ms);
        let now = self.now();
        let row = row_of(message);
        let Some(connection) = self.broker.connections.get_mut(&id) else { return };
        let process = connection.process;
        let sender = self.oracle.sender(process);
        let marked = is_replayed(message) && self.scenario.sabotage != Some(Sabotage::ReplayUnmarked);
        let lost = connection.link != Link::Up || connection.channel.is_closed();
        let fence = connection.fence.name();
        connection.last_serial += 1;
        let serial = connection.last_serial;
        let sent = Sent { serial, tag, row, message: message.clone(), answer: None, leaderless: false };
        connection.unanswered.push_back(sent);
        connection.arrives_after = connection.arrives_after.max(now + latency);
        let arrives = connection.arrives_after;
        let unanswered: Vec<_> =
            connection.unanswered.iter().map(|sent| (sent.row, sent.message.size())).collect();
        if !lost {
            self.broker.last_arrival += 1;
            let key = (arrives, self.broker.last_arrival);
            let arrival = Arrival { connection: id, row, serial, message: message.clone(), fence, sender };
            self.broker.arrivals.insert(key, arrival);
        }
        self.published(process, id, row, &unanswered, marked, handed_over == now);
    }

    pub(super) fn answers(&mut self, id: ConnectionId) -> Said<Result<PublisherEvent, BrokerError>> {
        let now = self.now();
        let (alarm, sabotage) = (self.broker.alarm, self.scenario.sabotage);
        let dropping = self.scenario.drops_unroutable();
        let scenario = self.scenario.clone();
        let gone = || BrokerError::ConnectionClosed {
            at: AT.clone(),
            refusal: Refusal { code: 320, text: "CONNECTION_FORCED".to_owned() },
        };
        let Some(connection) = self.broker.connections.get_mut(&id) else { return Said::This(Err(gone())) };
        let process = connection.process;
        if connection.link == Link::Up
            && let Some(said) = self.answer_fence(id)
        {
            return match said {
                Said::This(answer) => Said::This(Ok(PublisherEvent::Fence(answer))),
                Said::NothingBefore(at) => Said::NothingBefore(at),
            };
        }
        let arrivals_before = self.broker.last_arrival;
        self.send_waiting(id);
        let Some(connection) = self.broker.connections.get_mut(&id) else { return Said::This(Err(gone())) };
        if !matches!(connection.link, Link::Hung(_)) {
            let mut outcomes = Vec::new();
            let mut nacked = Vec::new();
            let mut last_confirmed = None;
            connection.unanswered.retain(|sent| match &sent.answer {
                Some((at, outcome)) if *at <= now => {
                    outcomes.push((sent.tag, outcome.clone(), sent.row));
                    if *outcome == Outcome::Nacked {
                        nacked.push((sent.tag, sent.message.clone()));
                    }
                    if *outcome == Outcome::Confirmed {
                        last_confirmed = Some(sent.serial);
                    }
                    false
                }
                _ => true,
            });
            if sabotage == Some(Sabotage::ConfirmTakesThoseBefore)
                && let Some(last) = last_confirmed
            {
                connection.unanswered.retain(|sent| {
                    let swept = sent.serial < last;
                    if swept {
                        outcomes.push((sent.tag, Outcome::Confirmed, RowId::MAX));
                    }
                    !swept
                });
            }
            if !outcomes.is_empty() {
                let sender = self.oracle.sender(process);
                for (_, outcome, row) in &mut outcomes {
                    if sender != Sender::Relay {
                        self.oracle.command_answered(process, *row, outcome);
                        if sabotage == Some(Sabotage::ReturnedIsRequeued)
                            && matches!(outcome, Outcome::Returned { .. })
                        {
                            *outcome = Outcome::Confirmed;
                        }
                        continue;
                    }
                    self.oracle.answered(id, *row, outcome, now, &scenario.relay);
                    match outcome {
                        Outcome::Confirmed => self.oracle.told_confirmed(process, id, *row, now),
                        Outcome::Returned { .. } if dropping => self.oracle.dropped(process, id, *row, now),
                        Outcome::Returned { .. } => self.oracle.returned(process, *row),
                        Outcome::Nacked => self.oracle.told_nacked(process, *row),
                    }
                }
                let mut outcomes: Vec<_> =
                    outcomes.into_iter().map(|(tag, outcome, _)| (tag, outcome)).collect();
                if sabotage == Some(Sabotage::NackedAtOnce) {
                    outcomes.retain(|(_, outcome)| *outcome != Outcome::Nacked);
                    for (tag, message) in nacked {
                        self.send(id, tag, &message, now);
                    }
                    if outcomes.is_empty() {
                        return Said::NothingBefore(Some(now));
                    }
                }
                return Said::This(Ok(PublisherEvent::Outcomes(outcomes)));
            }
        }
        match connection.link {
            Link::Cut => return Said::This(Err(gone())),
            // Missed heartbeats.
            Link::Hung(since) => {
                let until = since + self.scenario.heartbeat * 2;
                if until > now {
                    return Said::NothingBefore(Some(until));
                }
                connection.link = Link::Cut;
                return Said::This(Err(gone()));
            }
            Link::Up => {}
        }
        if let Some(event) = self.hear_of_channel(id, now) {
            return Said::This(Ok(event));
        }
        let Some(connection) = self.broker.connections.get_mut(&id) else { return Said::This(Err(gone())) };
        let published = !connection.unanswered.is_empty();
        if alarm != connection.blocked_told && (published || !alarm) {
            connection.blocked_told = alarm;
            return Said::This(Ok(if alarm {
                PublisherEvent::Blocked { reason: "low on memory".to_owned() }
            } else {
                PublisherEvent::Unblocked
            }));
        }
        // A message that was sent just now may have arrived already.
        if self.broker.last_arrival != arrivals_before {
            return Said::NothingBefore(Some(now));
        }
        let answer = connection.unanswered.iter().filter_map(|sent| Some(sent.answer.as_ref()?.0)).min();
        let arrival = self.broker.arrivals.first_key_value().map(|((at, _), _)| *at).filter(|_| !alarm);
        let channel = connection.channel.next();
        Said::NothingBefore([answer, arrival, channel].into_iter().flatten().filter(|at| *at > now).min())
    }
}

/// Returns whether the message is marked as replayed.
fn is_replayed(message: &Message) -> bool {
    message
        .amqp
        .headers
        .iter()
        .any(|(name, value)| name == "outbox-replayed" && *value == HeaderValue::Boolean(true))
}

pub(crate) fn row_of(message: &Message) -> RowId {
    message.id().parse().unwrap_or(RowId::MAX)
}
