//! Publishing with confirms, persistence and, unless an exchange is described otherwise, `mandatory`: what was handed over, what of
//! it is published (its frames are written), what became of it.
//!
//! Knows nothing of what messages are about, of order across failures, or of when to publish a message again. A [`Publisher`] that gave an
//! error is finished; whatever it had not told an outcome for is to be published again by another. One error is of a single
//! message ([`BrokerError::Unsendable`]): whoever goes on after it has given that message up. A message that the broker does not
//! take costs the channel and not the connection: the publisher opens it again and gives back what has no outcome.

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

/// The channel of all messages, in confirm mode.
const MESSAGES: ChannelId = 1;
/// Exchanges are declared here: a declare that fails closes its channel, and must not take messages along.
const DECLARES: ChannelId = 2;
/// So much is encoded ahead of the socket. It comes on top of what the messages themselves take. With the message that goes beyond
/// it, a small one fits into 64 KiB.
const AHEAD_BYTES: usize = 60 << 10;
/// An identifying header that nobody knows is shown up to so many bytes.
const IDENTITY_BYTES_SHOWN: usize = 100;
/// Events that are heard before they are told, and before everybody else has a turn.
const EVENTS_AT_ONCE: usize = 1024;

/// Brokers, topology and limits of a publisher.
#[derive(Clone, Debug)]
pub struct PublisherOptions {
    /// Brokers to try, and how to connect to one of them.
    pub connection: ConnectionOptions,
    /// Exchanges and subscriptions to declare, or verify, before anything is published.
    pub topology: Topology,
    /// Header whose text tells one message in flight from every other: the broker hands it back with a returned message.
    pub identifying_header: &'static str,
    /// Limit on the exchanges that messages have declared beyond the topology's.
    pub exchange_limit: ExchangeLimit,
    /// Memory of the fence, for all connections that ask for the same one.
    pub fence_memory: FenceMemory,
    /// Watch of this process over the subscriptions.
    pub watch: SubscriptionWatch,
}

/// Word of the publisher.
#[derive(Debug)]
pub enum PublisherEvent {
    /// Outcomes in the order of publishing, never empty, one for each message that was published.
    Outcomes(Vec<(PublishTag, Outcome)>),
    /// The broker takes nothing any more, for instance because of a memory or disk alarm. It says so after something was
    /// published during the alarm, and for everything on this connection.
    Blocked {
        /// The broker's own words.
        reason: String,
    },
    /// The broker takes messages again.
    Unblocked,
    /// Answer to the question for a fence. Nothing is published before it is held or denied.
    Fence(Fence),
    /// The broker closed the channel for a message and does not say which. Nothing of what was handed over and has no outcome
    /// will be answered: it has to be handed over again.
    ChannelClosed {
        /// The reason.
        refused: Refused,
        /// Published, in that order, and may be with the broker. Never empty.
        sent: Vec<PublishTag>,
        /// Not published.
        unsent: Vec<PublishTag>,
    },
    /// The exchange of the first of these messages is not there, or may not be declared. None of them is published, and they have to be
    /// handed over again; what was published before will be answered.
    ExchangeRefused {
        /// The reason.
        refused: Refused,
        /// In the order in which they were handed over. Never empty.
        unsent: Vec<PublishTag>,
    },
}

/// Reason why the broker does not take one message: it closed the channel for it, or refused its exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The channel was closed.
    Publish {
        /// AMQP reply code.
        code: u16,
        /// The broker's own words.
        text: String,
    },
    /// The exchange is not there and cannot be declared, or is of another type.
    Exchange(DeclareError),
    /// The exchange is none of the topology's, and it would be one more than messages may have declared: the broker was looked at and
    /// does not have it, or messages may have none declared at all.
    TooManyExchanges {
        /// The limit.
        exchanges_max: usize,
    },
}

impl Refused {
    /// Tells whether the broker does not have the exchange that was published to. Its publisher asks for it again before the next
    /// publish.
    pub fn misses_exchange(&self) -> bool {
        matches!(self, Self::Publish { code: reply::NOT_FOUND, .. })
    }
}

/// A channel that the broker may close, and that is then opened again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Channel {
    Open,
    /// The answer to `channel.open` is awaited.
    Opening,
    /// The answer to `confirm.select` is awaited.
    Selecting,
}

/// Question about an exchange of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Question {
    /// Looks whether it is there, as only what is not there falls under the limit. That needs no permission, or any to it (RabbitMQ 4.2 and later).
    IsThere,
    /// The same, where nothing is declared.
    Verify,
    /// Declare it, or compare it with the one that is there.
    Declare {
        /// It was not there, and counts.
        counts: bool,
    },
}

/// One connection that publishes.
pub struct Publisher {
    connection: Connection,
    declare: bool,
    /// That of all messages.
    messages: Channel,
    /// That of declares.
    declares: Channel,
    /// Exchanges of the topology, which the connection began with.
    planned_exchanges: HashSet<String>,
    /// These, and those of messages that this connection has declared or found since.
    known_exchanges: HashSet<String>,
    /// Limit on those of messages.
    exchange_limit: ExchangeLimit,
    /// Exchanges whose messages go without `mandatory`.
    optional: HashSet<String>,
    /// A front message's exchange, on its way to be known, and what the broker is asked.
    declaring: Option<(String, Question)>,
    /// The exchange that was looked for last, and whether it was there, until it is declared.
    looked: Option<(String, bool)>,
    /// Nothing is sent until this has its answer.
    fencing: Option<Asking>,
    /// Memory of what earlier connections have heard of the fence.
    fence_memory: FenceMemory,
    /// Handed over, and not published.
    waiting: VecDeque<(PublishTag, Arc<Message>)>,
    confirms: Confirms,
    /// Number of messages published on this connection.
    published: u64,
    /// Header that tells one message in flight from every other.
    identifying_header: &'static str,
    /// Heard, to be told once the outcomes before it are. Each is the end of something that was asked, so there are a few at most.
    news: VecDeque<PublisherEvent>,
    /// The last thing told of a block: that the broker blocks the connection.
    told_blocked: bool,
    /// Told by `next` when there is nothing left to tell; nothing is sent after it.
    failure: Option<BrokerError>,
    /// Set when nothing in flight will be answered any more.
    is_lost: bool,
}

impl Publisher {
    /// Connects, selects confirms, and declares (or verifies) the topology. `attempt` rotates the URLs; `connection_name` is shown by
    /// RabbitMQ's management.
    ///
    /// # Errors
    ///
    /// Those of [`Connection::connect`] and [`Topology::declare`].
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

    /// Asks for a fence, the exclusive queue `queue`, as soon as [`next`](Self::next) is polled, and holds back whatever is to
    /// be published until that tells [`Fence::Held`] or [`Fence::Denied`].
    pub fn fence(&mut self, queue: &str) {
        self.fencing = Some(Asking::new(queue, self.fence_memory.clone(), self.connection.heartbeat()));
    }

    /// Tells whether a message fits into the frames of this connection.
    ///
    /// # Errors
    ///
    /// Says why it does not fit, in words that show no payload. Once handed over, it is a [`BrokerError::Unsendable`].
    pub fn check(&self, message: &Message) -> Result<(), String> {
        let (frame_max, header) = (self.connection.frame_bytes_max(), message.header_frame_bytes());
        if header > frame_max {
            return Err(format!(
                "its properties and headers take {header} bytes, the connection's frame_max is {frame_max}"
            ));
        }
        Ok(())
    }

    /// Hands a message over; it is published when [`next`](Self::next) is polled. Frames are written in the order of these calls.
    /// Nothing here limits how many are handed over: that is the caller's part.
    ///
    /// No two messages in flight may have the same text in the identifying header: it is how a returned message is recognised.
    pub fn publish(&mut self, tag: PublishTag, message: Arc<Message>) {
        self.waiting.push_back((tag, message));
    }

    /// Number of messages published on this connection: their frames were handed to it, repeats included.
    pub fn published(&self) -> u64 {
        self.published
    }

    /// Publishes, declares exchanges on first use, and hears confirms.
    ///
    /// Cancel-safe: dropping the future loses nothing. Pends for ever while there is nothing to do and the connection is
    /// well.
    ///
    /// # Errors
    ///
    /// The connection is lost: every further call gives the same error. After [`BrokerError::Unsendable`] it goes on behind that
    /// message, which was not published.
    pub async fn next(&mut self) -> Result<PublisherEvent, BrokerError> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Closes the connection in good order, within a few seconds. What is unconfirmed by then stays unknown.
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
            // Also after a failure: what was confirmed before it need not be sent again.
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

    /// Gives the news of a block since the last. One that is over by now is of no interest.
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

    /// The first failure counts; but one message that cannot be sent does not hide that the connection is gone.
    fn fail(&mut self, error: BrokerError) {
        if matches!(self.failure, None | Some(BrokerError::Unsendable { .. })) {
            self.failure = Some(error);
        }
    }

    /// Nothing more is to be heard, or to be believed.
    fn lose(&mut self, error: BrokerError) {
        self.is_lost = true;
        self.fail(error);
    }

    /// A message that cannot be sent does not harm those before it: they are heard out first, or else they would be sent
    /// twice.
    fn failure_to_tell(&self) -> Option<&BrokerError> {
        let is_of_one_message = |error: &&BrokerError| matches!(error, BrokerError::Unsendable { .. });
        let heard_out = self.is_lost || self.confirms.is_empty();
        self.failure.as_ref().filter(|error| heard_out || !is_of_one_message(error))
    }

    /// Tells whether a waiting message can be encoded now.
    fn may_send(&mut self) -> bool {
        self.fencing.is_none()
            && self.messages == Channel::Open
            && self.declares == Channel::Open
            && self.declaring.is_none()
            && !self.waiting.is_empty()
            && self.connection.output().len() < AHEAD_BYTES
    }

    /// Encodes waiting messages, from the front, until one needs an exchange that is not known yet.
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

    /// Question about an exchange that is not known; `None` when it would be one too many.
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

    /// Hears what has arrived, [`EVENTS_AT_ONCE`] at most.
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
            // The only queue that is consumed from here.
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
            // What was handed over may have been given back meanwhile: whoever needs the exchange next asks again.
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
            let Refusal { code, text } = refusal;
            if code == reply::NOT_FOUND {
                // Whoever is sent again has its exchange declared first.
                self.looked = None;
                self.exchange_limit.forget_missing(&text);
                self.known_exchanges.clone_from(&self.planned_exchanges);
            }
            let (sent, unsent) = (self.confirms.close(), self.give_back_waiting());
            let refused = Refused::Publish { code, text };
            self.news.push_back(PublisherEvent::ChannelClosed { refused, sent, unsent });
        } else {
            self.lose(CallError::Refused(refusal).at(&at));
        }
        Ok(())
    }

    /// Tells whether the channel can have been closed for one message. An exchange of the topology that is gone under way (404) has
    /// taken its bindings along: then a new connection declares all of the topology. Any other is a message's own: it is declared
    /// again for that message, or cannot be, as the broker's own; not every broker has `amq.rabbitmq.event`.
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

/// `confirm.select`.
fn select_confirms() -> AMQPClass {
    AMQPClass::Confirm(AMQPMethod::Select(Select { nowait: false }))
}

/// Tells whether `named` begins with `whole`, or is its beginning: RabbitMQ cuts long texts, with `...` in place of the rest. A `?` may
/// stand for what is not ASCII, see [`mend_remark`](crate::frame::mend_remark).
fn is_said(named: &str, whole: &str) -> bool {
    let named = named.strip_suffix("...").map_or(named, |cut| cut.trim_end_matches('?'));
    named.chars().zip(whole.chars()).all(|(said, is)| said == is || (said == '?' && !is.is_ascii()))
}

#[cfg(test)]
mod tests;
