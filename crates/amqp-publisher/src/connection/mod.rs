//! An open connection: channels, calls and their answers, and what the broker says unasked.
//!
//! One task owns it: what is published goes from there straight into the socket's buffer, and confirms come back the same way.
//! Knows nothing of what is published, or of when to try again. The codec is `amq-protocol`.

pub mod dial;
pub mod endpoint;
mod handshake;
pub mod link;
pub mod options;
pub mod rotating_urls;
pub mod tls;

use std::{
    collections::{BTreeSet, VecDeque},
    future::poll_fn,
    io,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use amq_protocol::{
    frame::{AMQPFrame, parsing::parse_content_header},
    protocol::{
        AMQPClass,
        basic::{self, AMQPProperties},
        channel,
        connection::{self, AMQPMethod},
        exchange,
    },
};
use rustls::ClientConfig;
use tokio::time::{Instant, timeout};

use dial::dial;
use endpoint::Endpoint;
use link::{Frame, Link};
use options::ConnectionOptions;

use crate::{
    error::{BrokerError, Loss},
    frame,
    refusal::Refusal,
};

/// Number of a channel of a connection, from 1.
pub type ChannelId = u16;

/// One answer may take so long; a quorum queue is declared within seconds also by a busy cluster.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// Time that a connection may take to close in good order before it is simply dropped.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Events that may wait while an answer is awaited. Hardly any does: whoever calls has nothing in flight on that connection.
const EARLY_MAX: usize = 64;
/// `connection.blocked` and `connection.unblocked` within a second. RabbitMQ sends one when an alarm begins or ends.
const BLOCK_CHANGES_MAX: u32 = 100;
const BLOCK_CHANGES_WITHIN: Duration = Duration::from_secs(1);
/// Frames that are taken in before everybody else has a turn, so that a broker that never pauses stops nobody.
const FRAMES_AT_ONCE: usize = 1024;

/// A connection to one broker. After a [`Loss`] it is of no more use.
pub struct Connection {
    link: Link,
    at: Endpoint,
    /// Channels that may be closed: they were asked for, and are not closed yet. A broker that closes others is given up: every close is
    /// answered, and the answers would pile up at one that reads nothing.
    open: BTreeSet<ChannelId>,
    /// Came while an answer was awaited. At most [`EARLY_MAX`].
    early: VecDeque<Event>,
    /// Reason why the broker takes nothing. Only the last word counts, so there is no queue of them.
    blocked: Option<String>,
    block_changes: BlockChanges,
    /// A message is being handed back on that channel: its content follows.
    returning: Option<(ChannelId, basic::Return)>,
    /// Of no more use.
    is_lost: bool,
}

/// Word of the broker.
#[derive(Debug)]
pub(crate) enum Event {
    /// The answer to what was last asked on that channel.
    Answer { channel: ChannelId, method: AMQPClass },
    /// The broker ended a consumer: its queue is gone.
    ConsumerEnded { consumer_tag: String },
    /// The broker closed the channel. Its number may be opened again.
    ChannelClosed { channel: ChannelId, refusal: Refusal },
    /// Publishes are confirmed: that one, or all up to it.
    Confirmed { channel: ChannelId, delivery_tag: u64, multiple: bool, ack: bool },
    /// A `mandatory` message that no queue is bound for. Its confirm is still to come.
    Returned { reply_code: u16, reply_text: String, exchange: String, properties: Box<AMQPProperties> },
}

/// Counts how often the broker has blocked or unblocked the connection within [`BLOCK_CHANGES_WITHIN`].
struct BlockChanges {
    since: Instant,
    count: u32,
}

/// Reason why a call has no answer.
#[derive(Debug)]
pub enum CallError {
    /// The broker closed the channel instead.
    Refused(Refusal),
    /// The connection is lost.
    Lost(Loss),
}

impl Connection {
    /// Connects to the first URL that can be used, beginning with number `attempt` (modulo their number).
    /// `name` is shown by RabbitMQ's management and in its log.
    ///
    /// # Errors
    ///
    /// That of the URL, or of each of them.
    pub async fn connect(
        options: &ConnectionOptions,
        name: &str,
        attempt: usize,
    ) -> Result<Self, BrokerError> {
        let tls = options.tls_config()?.map(Arc::new);
        let mut endpoints = options.endpoints()?;
        let first = attempt % endpoints.len();
        endpoints.rotate_left(first);
        let mut tried = Vec::new();
        for at in endpoints {
            match Self::open(options, &at, tls.as_ref(), name).await {
                Ok(connection) => return Ok(connection),
                Err(error) => tried.push(error),
            }
        }
        Err(match tried.len() {
            1 => tried.remove(0),
            _ => BrokerError::NoneUsable { tried },
        })
    }

    async fn open(
        options: &ConnectionOptions,
        at: &Endpoint,
        tls: Option<&Arc<ClientConfig>>,
        name: &str,
    ) -> Result<Self, BrokerError> {
        let after = options.connect_timeout;
        let opening = async {
            let mut link = Link::new(dial(at, tls).await?);
            handshake::open(&mut link, at, options.client, name).await?;
            Ok(Self::new(link, at.clone()))
        };
        timeout(after, opening).await.unwrap_or_else(|_| Err(BrokerError::TimedOut { at: at.clone(), after }))
    }

    fn new(link: Link, at: Endpoint) -> Self {
        Self {
            link,
            at,
            open: BTreeSet::new(),
            early: VecDeque::new(),
            blocked: None,
            block_changes: BlockChanges { since: Instant::now(), count: 0 },
            returning: None,
            is_lost: false,
        }
    }

    /// A connection that is open already, and so are these channels.
    #[cfg(test)]
    #[allow(clippy::expect_used)]
    pub(crate) fn over(stream: Box<dyn link::Stream>, open: &[ChannelId]) -> Self {
        let at = Endpoint::parse("amqp://localhost", Duration::ZERO).expect("a URL");
        Self { open: open.iter().copied().collect(), ..Self::new(Link::new(stream), at) }
    }

    /// The broker that it leads to.
    pub fn at(&self) -> &Endpoint {
        &self.at
    }

    /// Tells whether nothing more can be asked on it.
    pub fn is_lost(&self) -> bool {
        self.is_lost
    }

    /// Reason why the broker takes no messages on it now, as far as it has said so. No event tells of it.
    pub fn blocked(&self) -> Option<&str> {
        self.blocked.as_deref()
    }

    /// Interval of heartbeats that was agreed on, if there are any.
    pub(crate) fn heartbeat(&self) -> Option<Duration> {
        self.link.heartbeat()
    }

    /// The largest frame that may be sent, its overhead included.
    pub(crate) fn frame_bytes_max(&self) -> usize {
        self.link.frame_bytes_max()
    }

    /// Frames to be sent are appended here, whole.
    pub(crate) fn output(&mut self) -> &mut Vec<u8> {
        self.link.output()
    }

    /// Asks something on a channel. The answer is an [`Event`] of that channel.
    pub(crate) fn ask(&mut self, channel: ChannelId, method: &AMQPClass) -> Result<(), Loss> {
        if let AMQPClass::Channel(channel::AMQPMethod::Open(_)) = method {
            self.open.insert(channel);
        }
        self.put(&AMQPFrame::Method(channel, method.clone()))
    }

    /// Appends a frame to what is to be sent.
    pub(crate) fn put(&mut self, frame: &AMQPFrame) -> Result<(), Loss> {
        self.link.put(frame).map_err(Loss::Broken)
    }

    /// Asks, and waits for the answer; what else comes meanwhile is told later. The connection is lost when that is more than
    /// [`EARLY_MAX`] events.
    pub(crate) async fn call(
        &mut self,
        channel: ChannelId,
        method: AMQPClass,
    ) -> Result<AMQPClass, CallError> {
        self.ask(channel, &method).map_err(CallError::Lost)?;
        let answer = poll_fn(|cx| self.poll_answer(cx, channel, &method));
        let answered = timeout(ANSWER_TIMEOUT, answer).await;
        answered.unwrap_or_else(|_| {
            // What comes late would be taken for the answer to something else.
            self.is_lost = true;
            let text = format!("no answer within {} s", ANSWER_TIMEOUT.as_secs());
            Err(CallError::Lost(Loss::Broken(io::Error::new(io::ErrorKind::TimedOut, text))))
        })
    }

    /// Opens a channel.
    ///
    /// # Errors
    ///
    /// The broker refuses, or the connection is lost.
    pub async fn open_channel(&mut self, channel: ChannelId) -> Result<(), BrokerError> {
        let opened = self.call(channel, open_channel()).await;
        opened.map(drop).map_err(|error| error.at(&self.at))
    }

    /// Closes a channel, so that its number can be opened again.
    ///
    /// # Errors
    ///
    /// The broker closed it before, or the connection is lost.
    pub async fn close_channel(&mut self, channel: ChannelId) -> Result<(), BrokerError> {
        let close = channel::Close { reply_code: 200, reply_text: "OK".into(), class_id: 0, method_id: 0 };
        let closed = self.call(channel, AMQPClass::Channel(channel::AMQPMethod::Close(close))).await;
        self.open.remove(&channel);
        closed.map(drop).map_err(|error| error.at(&self.at))
    }

    /// The next word of the broker; writes what is queued. Nothing is lost when it is not polled again.
    pub(crate) fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<Event, Loss>> {
        match self.early.pop_front() {
            Some(event) => Poll::Ready(Ok(event)),
            None => self.poll_link(cx),
        }
    }

    /// Closes the connection in good order, or not, if that takes too long. Events that come before the answer, such as confirms, are
    /// of no more interest, however many there are: nothing is kept of them.
    pub async fn close(mut self) {
        let close = connection::Close { reply_code: 200, reply_text: "OK".into(), class_id: 0, method_id: 0 };
        let close = AMQPClass::Connection(AMQPMethod::Close(close));
        let closing = async {
            self.ask(0, &close)?;
            loop {
                match poll_fn(|cx| self.poll_link(cx)).await? {
                    Event::Answer { channel: 0, method } if is_answer(&method, &close) => {
                        return Ok::<_, Loss>(());
                    }
                    _ => {}
                }
            }
        };
        // There is nothing left to do about a connection that will not close.
        let _ = timeout(CLOSE_TIMEOUT, closing).await;
    }

    fn poll_answer(
        &mut self,
        cx: &mut Context<'_>,
        asked_on: ChannelId,
        asked: &AMQPClass,
    ) -> Poll<Result<AMQPClass, CallError>> {
        loop {
            match ready!(self.poll_link(cx)).map_err(CallError::Lost)? {
                Event::Answer { channel, method } if channel == asked_on && is_answer(&method, asked) => {
                    return Poll::Ready(Ok(method));
                }
                Event::Answer { channel, method } => {
                    return Poll::Ready(Err(CallError::Lost(unasked(channel, &method))));
                }
                Event::ChannelClosed { channel, refusal } if channel == asked_on => {
                    return Poll::Ready(Err(CallError::Refused(refusal)));
                }
                event => self.keep_early(event).map_err(CallError::Lost)?,
            }
        }
    }

    fn keep_early(&mut self, event: Event) -> Result<(), Loss> {
        if self.early.len() == EARLY_MAX {
            self.is_lost = true;
            let text = format!("more than {EARLY_MAX} frames that nobody asked for, in place of an answer");
            return Err(Loss::violation(text));
        }
        self.early.push_back(event);
        Ok(())
    }

    /// The next event, after at most [`FRAMES_AT_ONCE`] frames that are none.
    fn poll_link(&mut self, cx: &mut Context<'_>) -> Poll<Result<Event, Loss>> {
        for _ in 0..FRAMES_AT_ONCE {
            let frame = match ready!(self.link.poll_frame(cx)) {
                Ok(frame) => frame,
                Err(error) => {
                    self.is_lost = true;
                    return Poll::Ready(Err(Loss::Broken(error)));
                }
            };
            match self.event_of(frame) {
                Ok(None) => {}
                Ok(Some(event)) => return Poll::Ready(Ok(event)),
                Err(loss) => {
                    // Our close-ok, if it still goes: without it the broker logs a client that vanished.
                    let _ = self.link.poll_flush(cx);
                    self.is_lost = true;
                    return Poll::Ready(Err(loss));
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn set_blocked(&mut self, reason: Option<String>) -> Result<(), Loss> {
        self.blocked = reason;
        self.block_changes.count()
    }

    /// Tells what a frame says; `None` where that is noted, or goes on in another frame.
    fn event_of(&mut self, frame: Frame) -> Result<Option<Event>, Loss> {
        Ok(Some(match frame {
            Frame::Method(0, AMQPClass::Connection(method)) => match method {
                AMQPMethod::Close(close) => {
                    self.ask(0, &AMQPClass::Connection(AMQPMethod::CloseOk(connection::CloseOk {})))?;
                    return Err(Loss::Closed(Refusal::new(close.reply_code, close.reply_text)));
                }
                AMQPMethod::Blocked(blocked) => {
                    return self.set_blocked(Some(blocked.reason.to_string())).map(|()| None);
                }
                AMQPMethod::Unblocked(_) => return self.set_blocked(None).map(|()| None),
                method => Event::Answer { channel: 0, method: AMQPClass::Connection(method) },
            },
            Frame::Method(channel, AMQPClass::Channel(channel::AMQPMethod::Close(close))) => {
                if !self.open.remove(&channel) {
                    return Err(Loss::violation(format!("channel {channel} is closed, and it is not open")));
                }
                self.ask(channel, &AMQPClass::Channel(channel::AMQPMethod::CloseOk(channel::CloseOk {})))?;
                let refusal = Refusal::new(close.reply_code, close.reply_text);
                Event::ChannelClosed { channel, refusal }
            }
            Frame::Method(channel, AMQPClass::Basic(basic::AMQPMethod::Ack(ack))) => Event::Confirmed {
                channel,
                delivery_tag: ack.delivery_tag,
                multiple: ack.multiple,
                ack: true,
            },
            Frame::Method(channel, AMQPClass::Basic(basic::AMQPMethod::Nack(nack))) => Event::Confirmed {
                channel,
                delivery_tag: nack.delivery_tag,
                multiple: nack.multiple,
                ack: false,
            },
            Frame::Method(_, AMQPClass::Basic(basic::AMQPMethod::Cancel(cancel))) => {
                Event::ConsumerEnded { consumer_tag: cancel.consumer_tag.to_string() }
            }
            Frame::Method(channel, AMQPClass::Basic(basic::AMQPMethod::Return(returning))) => {
                self.returning = Some((channel, returning));
                return Ok(None);
            }
            Frame::Header(channel, payload) => match self.returning.take_if(|(on, _)| *on == channel) {
                Some((_, returned)) => Event::Returned {
                    reply_code: returned.reply_code,
                    reply_text: returned.reply_text.to_string(),
                    exchange: returned.exchange.to_string(),
                    properties: Box::new(properties_of_ours(payload.as_deref())?),
                },
                // Of a message that somebody has put into a queue that is consumed from here: its properties are of no interest.
                None => return Ok(None),
            },
            Frame::Method(channel, method) => Event::Answer { channel, method },
        }))
    }
}

/// Properties of a message that came back. It is one of ours, so there is nothing in them that cannot be read.
fn properties_of_ours(payload: Option<&[u8]>) -> Result<AMQPProperties, Loss> {
    let unreadable = |why: &dyn std::fmt::Display| {
        Loss::violation(format!("a message came back with properties that cannot be read: {why}"))
    };
    let payload = payload.ok_or_else(|| unreadable(&"they are longer than a frame may be"))?;
    frame::check(frame::HEADER, payload).map_err(|why| unreadable(&why))?;
    match parse_content_header(payload) {
        Ok((_, header)) => Ok(header.properties),
        Err(error) => Err(unreadable(&error)),
    }
}

impl BlockChanges {
    /// Counts one more.
    ///
    /// # Errors
    ///
    /// There are more than an honest broker sends. Each may be told and logged, so such a connection is given up.
    fn count(&mut self) -> Result<(), Loss> {
        if self.since.elapsed() >= BLOCK_CHANGES_WITHIN {
            *self = Self { since: Instant::now(), count: 0 };
        }
        self.count += 1;
        if self.count > BLOCK_CHANGES_MAX {
            let seconds = BLOCK_CHANGES_WITHIN.as_secs();
            let text = format!(
                "connection.blocked or connection.unblocked more than {BLOCK_CHANGES_MAX} times in {seconds} s"
            );
            return Err(Loss::violation(text));
        }
        Ok(())
    }
}

/// Tells whether a method is the answer to another: in AMQP 0-9-1 its number is the next one of the same class, except that
/// RabbitMQ's `exchange.unbind` (40) is answered by 51.
pub(crate) fn is_answer(method: &AMQPClass, asked: &AMQPClass) -> bool {
    let step = match asked {
        AMQPClass::Exchange(exchange::AMQPMethod::Unbind(_)) => 11,
        _ => 1,
    };
    method.get_amqp_class_id() == asked.get_amqp_class_id()
        && method.get_amqp_method_id() == asked.get_amqp_method_id() + step
}

/// The broker answers what nobody has asked.
pub(crate) fn unasked(channel: ChannelId, method: &AMQPClass) -> Loss {
    let (class, method) = (method.get_amqp_class_id(), method.get_amqp_method_id());
    Loss::violation(format!("method {class}.{method} on channel {channel} is no answer to anything"))
}

/// `channel.open`.
pub(crate) fn open_channel() -> AMQPClass {
    AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {}))
}

impl CallError {
    /// The error of the connection to that broker.
    pub(crate) fn at(self, at: &Endpoint) -> BrokerError {
        match self {
            Self::Refused(Refusal { code, text }) => {
                BrokerError::ChannelClosed { at: at.clone(), code, text }
            }
            Self::Lost(loss) => loss.at(at),
        }
    }
}
