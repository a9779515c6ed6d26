//! Publisher with confirms. Messages are persistent and, unless their exchange is described otherwise, `mandatory`.
//!
//! Does not know the meaning of messages, order across connections, or when to publish a message again. A
//! [`Publisher`] is unusable after an error; another one publishes the messages without an outcome again. One error
//! concerns a single message ([`BrokerError::Unsendable`]): a caller that continues gives up that message. A message
//! that the broker refuses costs the channel, not the connection: the publisher opens the channel again and returns
//! the messages without an outcome.
//!
//! Three states are distinguished: *handed over* to the publisher, *published* (frames written), and *settled* by an
//! outcome.

mod confirms;
pub mod encoding;
pub mod exchange_limit;
pub mod message;

use std::{
    collections::{HashSet, VecDeque},
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
};

use amq_protocol::protocol::{
    AMQPClass,
    confirm::{AMQPMethod, Select},
};

use confirms::{Confirms, NotInFlight};
pub use confirms::{Outcome, PublishTag};
use exchange_limit::ExchangeLimit;
use message::Message;

use crate::{
    connection::{
        CallError, ChannelId, Connection, Event, is_answer, open_channel, options::ConnectionOptions, unasked,
    },
    error::{BrokerError, DeclareError, Loss},
    fence::{Asking, Fence, FenceMemory},
    refusal::{Refusal, reply},
    subscriptions::SubscriptionWatch,
    topology::{self, Declaration, Topology},
};

/// Channel of all messages, in confirm mode.
const MESSAGES: ChannelId = 1;
/// Channel for declarations of exchanges. A refused declaration closes its channel, which must not affect messages.
const DECLARES: ChannelId = 2;
/// Bytes encoded ahead of the socket, in addition to the messages themselves. With one more small message the buffer
/// still fits 64 KiB.
const AHEAD_BYTES: usize = 60 << 10;
/// Bytes shown of an unknown identifying header.
const IDENTITY_BYTES_SHOWN: usize = 100;
/// Events handled before they are reported, and before other tasks get a turn.
const EVENTS_AT_ONCE: usize = 1024;

/// Brokers, topology and limits of a publisher.
#[derive(Clone, Debug)]
pub struct PublisherOptions {
    /// Brokers to try, and how to connect to one of them.
    pub connection: ConnectionOptions,
    /// Exchanges and subscriptions to declare or verify before the first publish.
    pub topology: Topology,
    /// Header whose text identifies a message in flight. The broker returns it with a returned message.
    pub identifying_header: &'static str,
    /// Limit of exchanges declared for messages beyond the topology's.
    pub exchange_limit: ExchangeLimit,
    /// Time for which the fence has been refused, shared by the connections that request it.
    pub fence_memory: FenceMemory,
    /// Watch over the process's subscriptions.
    pub watch: SubscriptionWatch,
}

/// Event of a publisher.
#[derive(Debug)]
pub enum PublisherEvent {
    /// Outcomes in publish order, one for each message. Never empty.
    Outcomes(Vec<(PublishTag, Outcome)>),
    /// The broker blocks the connection, for instance because of a memory or disk alarm. It reports this after the
    /// first publish during the alarm.
    Blocked {
        /// The broker's own words.
        reason: String,
    },
    /// The broker unblocks the connection.
    Unblocked,
    /// State of the requested fence. Nothing is published before it is held or denied.
    Fence(Fence),
    /// The broker closed the channel for an unnamed message. All messages without an outcome have to be handed over
    /// again.
    ChannelClosed {
        /// The reason.
        refused: Refused,
        /// Messages that were published, in publish order. The broker may have them. Never empty.
        sent: Vec<PublishTag>,
        /// Messages that were not published.
        unsent: Vec<PublishTag>,
    },
    /// The exchange of the first of these messages is missing or may not be declared. None of them is published; they
    /// have to be handed over again. Messages published before keep their outcomes.
    ExchangeRefused {
        /// The reason.
        refused: Refused,
        /// The messages, in the order of [`Publisher::publish`]. Never empty.
        unsent: Vec<PublishTag>,
    },
    /// The publisher declared an exchange that a message needs and the broker did not have. It counts towards
    /// [`ExchangeLimit`]; without a limit, no exchange is reported.
    ExchangeDeclared {
        /// Name of the exchange.
        exchange: String,
    },
}

/// Reason why the broker refuses a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The broker closed the channel.
    Publish(Refusal),
    /// The exchange is missing and cannot be declared, or has another type.
    Exchange(DeclareError),
    /// The broker does not have the exchange, it is not in the topology, and the limit of declared exchanges is
    /// reached. With a limit of 0 the broker is not asked.
    TooManyExchanges {
        /// The limit.
        exchanges_max: usize,
    },
}

impl Refused {
    /// Tells whether the broker did not find the exchange. The publisher then looks for the exchange again before the
    /// next publish.
    pub fn misses_exchange(&self) -> bool {
        matches!(self, Self::Publish(refusal) if refusal.code == reply::NOT_FOUND)
    }
}

/// State of a channel that is opened again after the broker closes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Channel {
    Open,
    /// Waits for the answer to `channel.open`.
    Opening,
    /// Waits for the answer to `confirm.select`.
    Selecting,
}

/// Question about a message's exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Question {
    /// Does it exist? Only a missing exchange counts towards the limit. Needs no permission, or any to the exchange
    /// (RabbitMQ 4.2 and later).
    IsThere,
    /// Does it exist, when nothing is declared?
    Verify,
    /// Declares it, or compares it with the existing one.
    Declare {
        /// Set if it was missing, and counts towards the limit.
        counts: bool,
    },
}

/// Publisher on one connection.
pub struct Publisher {
    connection: Connection,
    declare: bool,
    /// State of the channel for messages.
    messages: Channel,
    /// State of the channel for declarations.
    declares: Channel,
    /// Exchanges of the topology, declared when the connection began.
    planned_exchanges: HashSet<String>,
    /// The topology's exchanges, and those found or declared for messages since.
    known_exchanges: HashSet<String>,
    /// Limit of exchanges declared for messages.
    exchange_limit: ExchangeLimit,
    /// Exchanges whose messages are not `mandatory`.
    optional: HashSet<String>,
    /// Exchange of the first waiting message, and the question that the broker was asked about it.
    declaring: Option<(String, Question)>,
    /// Last exchange that was looked for, and whether it exists, until it is declared.
    looked: Option<(String, bool)>,
    /// Fence request. Nothing is published until it is answered.
    fencing: Option<Asking>,
    /// Time for which the fence has been refused to earlier connections.
    fence_memory: FenceMemory,
    /// Messages handed over and not published.
    waiting: VecDeque<(PublishTag, Arc<Message>)>,
    confirms: Confirms,
    /// Number of messages published on this connection.
    published: u64,
    /// Header that identifies a message in flight.
    identifying_header: &'static str,
    /// Events to report after the outcomes before them. Each answers a question, so there are few.
    news: VecDeque<PublisherEvent>,
    /// Set if the last reported state is that the broker blocks the connection.
    told_blocked: bool,
    /// Error that `next` returns after all events. Nothing is published after it.
    failure: Option<BrokerError>,
    /// Set if messages in flight get no more answers.
    is_lost: bool,
}

impl Publisher {
    /// Connects, selects confirms, and declares or verifies the topology. `attempt` selects the first URL. RabbitMQ's
    /// management shows `connection_name`.
    ///
    /// # Errors
    ///
    /// As [`Connection::connect`] and [`Topology::declare`].
    pub async fn connect(
        options: &PublisherOptions,
        connection_name: &str,
        attempt: usize,
    ) -> Result<Self, BrokerError> {
        let PublisherOptions { topology, .. } = options;
        let mut connection = Connection::connect(&options.connection, connection_name, attempt).await?;
        connection.open_channel(MESSAGES).await?;
        let selected = connection.call(MESSAGES, select_confirms()).await;
        selected.map_err(|error| error.at(connection.at()))?;
        connection.open_channel(DECLARES).await?;
        options.watch.note_lost(&mut connection, DECLARES).await?;
        topology.declare(&mut connection, DECLARES).await?;
        let planned_exchanges = topology
            .plan()
            .into_iter()
            .filter_map(|declaration| match declaration {
                Declaration::Exchange { name, .. } => Some(name),
                _ => None,
            })
            .collect();
        let optional = topology.exchanges.iter().filter(|exchange| !exchange.mandatory);
        let optional = optional.map(|exchange| exchange.name.clone()).collect();
        Ok(Self {
            optional,
            exchange_limit: options.exchange_limit.clone(),
            fence_memory: options.fence_memory.clone(),
            ..Self::over(connection, topology.declare, planned_exchanges, options.identifying_header)
        })
    }

    fn over(
        connection: Connection,
        declare: bool,
        planned_exchanges: HashSet<String>,
        identifying_header: &'static str,
    ) -> Self {
        Self {
            connection,
            declare,
            messages: Channel::Open,
            declares: Channel::Open,
            known_exchanges: planned_exchanges.clone(),
            planned_exchanges,
            exchange_limit: ExchangeLimit::default(),
            optional: HashSet::new(),
            declaring: None,
            looked: None,
            fencing: None,
            fence_memory: FenceMemory::default(),
            waiting: VecDeque::new(),
            confirms: Confirms::new(identifying_header),
            published: 0,
            identifying_header,
            news: VecDeque::new(),
            told_blocked: false,
            failure: None,
            is_lost: false,
        }
    }

    /// Requests a fence, the exclusive queue `queue`, at the next call of [`next`](Self::next). Nothing is published
    /// until that returns [`Fence::Held`] or [`Fence::Denied`].
    pub fn fence(&mut self, queue: &str) {
        self.fencing = Some(Asking::new(queue, self.fence_memory.clone(), self.connection.heartbeat()));
    }

    /// Checks that a message fits into the connection's frames.
    ///
    /// # Errors
    ///
    /// The reason why the message does not fit, without its payload. Once handed over, such a message is
    /// [`BrokerError::Unsendable`].
    pub fn check(&self, message: &Message) -> Result<(), String> {
        let (frame_max, header) = (self.connection.frame_bytes_max(), message.header_frame_bytes());
        if header > frame_max {
            return Err(format!(
                "its properties and headers take {header} bytes, the connection's frame_max is {frame_max}"
            ));
        }
        Ok(())
    }

    /// Hands a message over. [`next`](Self::next) publishes it. Frames are written in the order of these calls. The
    /// caller limits the number of messages.
    ///
    /// Messages in flight must differ in the identifying header, because it identifies a returned message.
    pub fn publish(&mut self, tag: PublishTag, message: Arc<Message>) {
        self.waiting.push_back((tag, message));
    }

    /// Returns the number of messages published on this connection: frames handed to it, repeats included.
    pub fn published(&self) -> u64 {
        self.published
    }

    /// Publishes, declares exchanges on first use, and returns the next event.
    ///
    /// Cancel-safe. Waits for ever while there is nothing to do and the connection works.
    ///
    /// # Errors
    ///
    /// [`BrokerError`] when the connection is lost; every further call returns the same error. After
    /// [`BrokerError::Unsendable`] the publisher continues with the messages after that one, which was not published.
    pub async fn next(&mut self) -> Result<PublisherEvent, BrokerError> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Closes the connection in order, within a few seconds. Unconfirmed messages remain without an outcome.
    pub async fn close(self) {
        self.connection.close().await;
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<PublisherEvent, BrokerError>> {
        loop {
            if self.failure.is_none()
                && let Err(error) = self.admit()
            {
                self.failure = Some(error);
            }
            self.hear(cx);
            // Reported after a failure, too: confirmed messages need not be published again.
            let outcomes = self.confirms.drain_outcomes();
            if !outcomes.is_empty() {
                return Poll::Ready(Ok(PublisherEvent::Outcomes(outcomes)));
            }
            if let Some(news) = self.news.pop_front().or_else(|| self.block_to_tell()) {
                return Poll::Ready(Ok(news));
            }
            if let Some(failure) = self.failure_to_tell().cloned() {
                self.failure.take_if(|failure| matches!(failure, BrokerError::Unsendable { .. }));
                return Poll::Ready(Err(failure));
            }
            let waited = match self.fencing.as_mut().map(|fencing| fencing.poll_wait(cx)) {
                Some(Poll::Ready(answer)) => {
                    self.tell_fence(answer);
                    true
                }
                Some(Poll::Pending) | None => false,
            };
            if self.failure.is_some() || !(waited || self.may_send()) {
                return Poll::Pending;
            }
        }
    }

    /// Returns a change of the blocked state since the last report. A block that has ended meanwhile is not reported.
    fn block_to_tell(&mut self) -> Option<PublisherEvent> {
        let blocked = self.connection.blocked();
        if blocked.is_some() == self.told_blocked {
            return None;
        }
        self.told_blocked = blocked.is_some();
        Some(match blocked {
            Some(reason) => PublisherEvent::Blocked { reason: reason.to_owned() },
            None => PublisherEvent::Unblocked,
        })
    }

    /// Records a failure. The first one counts, but a lost connection replaces an unsendable message.
    fn fail(&mut self, error: BrokerError) {
        if matches!(self.failure, None | Some(BrokerError::Unsendable { .. })) {
            self.failure = Some(error);
        }
    }

    /// Records a failure after which nothing from the broker is processed.
    fn lose(&mut self, error: BrokerError) {
        self.is_lost = true;
        self.fail(error);
    }

    /// Returns the failure to report. Messages published before an unsendable one get their outcomes first; otherwise
    /// they would be published twice.
    fn failure_to_tell(&self) -> Option<&BrokerError> {
        let is_of_one_message = |error: &&BrokerError| matches!(error, BrokerError::Unsendable { .. });
        let heard_out = self.is_lost || self.confirms.is_empty();
        self.failure.as_ref().filter(|error| heard_out || !is_of_one_message(error))
    }

    /// Tells whether the first waiting message can be encoded now.
    fn may_send(&mut self) -> bool {
        self.fencing.is_none()
            && self.messages == Channel::Open
            && self.declares == Channel::Open
            && self.declaring.is_none()
            && !self.waiting.is_empty()
            && self.connection.output().len() < AHEAD_BYTES
    }

    /// Encodes waiting messages from the front, until one needs an unknown exchange.
    fn admit(&mut self) -> Result<(), BrokerError> {
        if let Some(fencing) = &mut self.fencing {
            let asked = fencing.ask(&mut self.connection);
            asked.map_err(|loss| loss.at(self.connection.at()))?;
        }
        while self.may_send() {
            let Some((tag, message)) = self.waiting.pop_front() else { return Ok(()) };
            if !topology::is_predeclared(&message.exchange)
                && !self.known_exchanges.contains(&message.exchange)
            {
                let exchange = message.exchange.clone();
                self.waiting.push_front((tag, message));
                let Some(question) = self.question(&exchange) else {
                    let refused = Refused::TooManyExchanges { exchanges_max: self.exchange_limit.max() };
                    let unsent = self.give_back_waiting();
                    self.news.push_back(PublisherEvent::ExchangeRefused { refused, unsent });
                    return Ok(());
                };
                let asked = self.ask_for_exchange(&exchange, question);
                self.declaring = Some((exchange, question));
                return asked.map_err(|loss| loss.at(self.connection.at()));
            }
            self.send(tag, message)?;
        }
        Ok(())
    }

    /// Returns the question about an unknown exchange; `None` when the limit is reached.
    fn question(&mut self, exchange: &str) -> Option<Question> {
        if !self.declare {
            return Some(Question::Verify);
        }
        if !self.exchange_limit.counts(exchange) {
            return Some(Question::Declare { counts: false });
        }
        if self.exchange_limit.max() == 0 {
            return None;
        }
        match self.looked.take_if(|(looked_for, _)| looked_for == exchange) {
            None => Some(Question::IsThere),
            Some((_, true)) => Some(Question::Declare { counts: false }),
            Some((_, false)) => self.exchange_limit.has_room().then_some(Question::Declare { counts: true }),
        }
    }

    fn ask_for_exchange(&mut self, exchange: &str, question: Question) -> Result<(), Loss> {
        let create = matches!(question, Question::Declare { .. });
        let method = Declaration::topic_exchange(exchange).method(create).map_err(Loss::Broken)?;
        method.map_or(Ok(()), |method| self.connection.ask(DECLARES, &method))
    }

    fn send(&mut self, tag: PublishTag, message: Arc<Message>) -> Result<(), BrokerError> {
        let unsendable = |reason| BrokerError::Unsendable {
            message: message.text_header(self.identifying_header).unwrap_or_default().to_owned(),
            reason,
        };
        self.check(&message).map_err(unsendable)?;
        let frame_bytes_max = self.connection.frame_bytes_max();
        let mandatory = self.optional.is_empty() || !self.optional.contains(&message.exchange);
        encoding::put_publish(&message, mandatory, MESSAGES, frame_bytes_max, self.connection.output())
            .map_err(|error| unsendable(error.to_string()))?;
        self.confirms.published(tag, message);
        self.published += 1;
        Ok(())
    }

    /// Handles events that have arrived, at most [`EVENTS_AT_ONCE`].
    fn hear(&mut self, cx: &mut Context<'_>) {
        for _ in 0..EVENTS_AT_ONCE {
            if self.is_lost {
                return;
            }
            match self.connection.poll_event(cx) {
                Poll::Pending => return,
                Poll::Ready(Ok(event)) => {
                    if let Err(loss) = self.handle(event) {
                        self.lose(loss.at(self.connection.at()));
                    }
                }
                Poll::Ready(Err(loss)) => self.lose(loss.at(self.connection.at())),
            }
        }
        cx.waker().wake_by_ref();
    }

    fn handle(&mut self, event: Event) -> Result<(), Loss> {
        match event {
            Event::Confirmed { channel: MESSAGES, delivery_tag, multiple, ack } => {
                self.confirms.confirmed(delivery_tag, multiple, ack).map_err(|NotInFlight| {
                    Loss::violation(format!(
                        "the broker confirms publish number {delivery_tag}, which is not in flight"
                    ))
                })?;
            }
            Event::Returned { reply_code, reply_text, exchange, properties } => {
                let header = self.identifying_header;
                let identity = encoding::text_header(&properties, header).unwrap_or_default();
                if self.confirms.returned(identity, reply_code, reply_text).is_err() {
                    let shown = identity.get(..IDENTITY_BYTES_SHOWN).unwrap_or(identity);
                    let shown = String::from_utf8_lossy(shown);
                    let what = format!("exchange '{exchange}', {header} '{shown}'");
                    let at = self.connection.at().clone();
                    self.lose(BrokerError::UnexpectedReturn { at, what });
                }
            }
            Event::Confirmed { channel, .. } => {
                let text = format!("a confirm on channel {channel}, on which nothing is published");
                return Err(Loss::violation(text));
            }
            Event::Answer { channel: DECLARES, method: AMQPClass::Exchange(_) }
                if self.declaring.is_some() =>
            {
                match self.declaring.take() {
                    Some((exchange, Question::IsThere)) => self.looked = Some((exchange, true)),
                    Some((exchange, question)) => {
                        if question == (Question::Declare { counts: true }) {
                            self.exchange_limit.declared(exchange.clone());
                            self.news
                                .push_back(PublisherEvent::ExchangeDeclared { exchange: exchange.clone() });
                        }
                        self.known_exchanges.insert(exchange);
                    }
                    None => {}
                }
            }
            Event::Answer { channel: MESSAGES, method }
                if self.messages == Channel::Opening && is_answer(&method, &open_channel()) =>
            {
                self.messages = Channel::Selecting;
                self.connection.ask(MESSAGES, &select_confirms())?;
            }
            Event::Answer { channel: MESSAGES, method }
                if self.messages == Channel::Selecting && is_answer(&method, &select_confirms()) =>
            {
                self.messages = Channel::Open;
            }
            Event::Answer { channel: DECLARES, method }
                if self.declares == Channel::Opening && is_answer(&method, &open_channel()) =>
            {
                self.declares = Channel::Open;
            }
            Event::Answer { channel, method } => {
                let Some(fencing) = self.fencing.as_mut().filter(|fencing| fencing.awaits_on(channel)) else {
                    return Err(unasked(channel, &method));
                };
                let answer = fencing.answered(&method, &mut self.connection)?;
                self.tell_fence(answer);
            }
            // The fence is the only consumed queue.
            Event::ConsumerEnded { consumer_tag: queue } => {
                self.lose(BrokerError::FenceGone { at: self.connection.at().clone(), queue });
            }
            Event::ChannelClosed { channel, refusal } => return self.channel_closed(channel, refusal),
        }
        Ok(())
    }

    fn tell_fence(&mut self, answer: Option<Fence>) {
        let Some(answer) = answer else { return };
        if !matches!(answer, Fence::Busy { .. } | Fence::Taken { .. }) {
            self.fencing = None;
        }
        self.news.push_back(PublisherEvent::Fence(answer));
    }

    fn channel_closed(&mut self, channel: ChannelId, refusal: Refusal) -> Result<(), Loss> {
        let at = self.connection.at().clone();
        if let Some(fencing) = self.fencing.as_mut().filter(|fencing| fencing.awaits_on(channel)) {
            match fencing.refused(refusal) {
                Ok(answer) => self.tell_fence(answer),
                Err(error) => self.fail(BrokerError::Declare { at, error }),
            }
        } else if channel == DECLARES
            && let Some((exchange, question)) = self.declaring.take()
        {
            self.declares = Channel::Opening;
            self.connection.ask(DECLARES, &open_channel())?;
            // The messages may have been given back meanwhile. Then the next message that needs the exchange asks
            // again.
            if question == Question::IsThere && refusal.code == reply::NOT_FOUND {
                self.looked = Some((exchange, false));
            } else if self.waiting.front().is_some_and(|(_, message)| message.exchange == exchange) {
                let object = Declaration::topic_exchange(&exchange).object();
                let refused = Refused::Exchange(DeclareError::new(object, refusal));
                let unsent = self.give_back_waiting();
                self.news.push_back(PublisherEvent::ExchangeRefused { refused, unsent });
            }
        } else if channel == MESSAGES && self.messages == Channel::Open && self.is_of_a_message(&refusal) {
            self.messages = Channel::Opening;
            self.connection.ask(MESSAGES, &open_channel())?;
            if refusal.code == reply::NOT_FOUND {
                // Messages that are handed over again have their exchange declared first.
                self.looked = None;
                self.exchange_limit.forget_missing(&refusal.text);
                self.known_exchanges.clone_from(&self.planned_exchanges);
            }
            let (sent, unsent) = (self.confirms.close(), self.give_back_waiting());
            let refused = Refused::Publish(refusal);
            self.news.push_back(PublisherEvent::ChannelClosed { refused, sent, unsent });
        } else {
            self.lose(CallError::Refused(refusal).at(&at));
        }
        Ok(())
    }

    /// Tells whether one message may be the reason for closing the channel. A missing exchange of the topology (404)
    /// has lost its bindings, so a new connection declares the whole topology. Any other missing exchange concerns
    /// its messages: it is declared again for them, unless it is predeclared (not every broker has
    /// `amq.rabbitmq.event`).
    fn is_of_a_message(&self, refusal: &Refusal) -> bool {
        let is_declared_anew =
            refusal.code == reply::NOT_FOUND && self.may_mean_a_planned_exchange(&refusal.text);
        !is_declared_anew && !self.confirms.is_empty()
    }

    /// Tells whether a 404 names an exchange of the topology, or none that can be recognised.
    fn may_mean_a_planned_exchange(&self, text: &str) -> bool {
        let Some((_, named)) = text.split_once("no exchange '") else { return true };
        self.planned_exchanges.iter().any(|exchange| is_said(named, &format!("{exchange}' in vhost '")))
    }

    fn give_back_waiting(&mut self) -> Vec<PublishTag> {
        self.waiting.drain(..).map(|(tag, _)| tag).collect()
    }
}

/// Returns `confirm.select`.
fn select_confirms() -> AMQPClass {
    AMQPClass::Confirm(AMQPMethod::Select(Select { nowait: false }))
}

/// Tells whether `named` begins with `whole`, or is a cut form of it. RabbitMQ cuts long texts and appends `...`. A
/// `?` may stand for a byte that is not ASCII, see [`mend_remark`](crate::frame::mend_remark).
fn is_said(named: &str, whole: &str) -> bool {
    let named = named.strip_suffix("...").map_or(named, |cut| cut.trim_end_matches('?'));
    named.chars().zip(whole.chars()).all(|(said, is)| said == is || (said == '?' && !is.is_ascii()))
}

#[cfg(test)]
mod tests;
