//! Open connection: channels, calls and their answers, and events that the broker sends by itself.
//!
//! One task owns the connection. Published frames go straight into the socket's buffer, and confirms come back the
//! same way. Does not know what is published or when to reconnect. The codec is `amq-protocol`.

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

/// Number of a channel, from 1.
pub type ChannelId = u16;

/// Limit for one answer. A busy cluster declares a quorum queue within seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// Limit for closing a connection in order. After it the connection is dropped.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Most events kept while an answer is awaited. Hardly any occur, because the caller has nothing in flight then.
const EARLY_MAX: usize = 64;
/// Most `connection.blocked` and `connection.unblocked` within [`BLOCK_CHANGES_WITHIN`]. RabbitMQ sends one when an
/// alarm begins or ends.
const BLOCK_CHANGES_MAX: u32 = 100;
const BLOCK_CHANGES_WITHIN: Duration = Duration::from_secs(1);
/// Frames handled before other tasks get a turn, so that a broker that never pauses blocks none.
const FRAMES_AT_ONCE: usize = 1024;

/// Connection to one broker. Unusable after a [`Loss`].
pub struct Connection {
    link: Link,
    at: Endpoint,
    /// Open channels. Only these may be closed by the broker: every close is answered, and answers to endless closes
    /// would fill memory.
    open: BTreeSet<ChannelId>,
    /// Events that arrived while an answer was awaited, at most [`EARLY_MAX`].
    early: VecDeque<Event>,
    /// Reason why the broker blocks the connection. Only the last one counts, so there is no queue.
    blocked: Option<String>,
    block_changes: BlockChanges,
    /// Returned message on a channel whose content is still to come.
    returning: Option<(ChannelId, basic::Return)>,
    /// Set if the connection is unusable.
    is_lost: bool,
}

/// Event from the broker.
#[derive(Debug)]
pub(crate) enum Event {
    /// Answer to the last call on a channel.
    Answer { channel: ChannelId, method: AMQPClass },
    /// End of a consumer: its queue was deleted.
    ConsumerEnded { consumer_tag: String },
    /// Channel closed by the broker. Its number may be opened again.
    ChannelClosed { channel: ChannelId, refusal: Refusal },
    /// Confirm of one publish, or of all up to it.
    Confirmed { channel: ChannelId, delivery_tag: u64, multiple: bool, ack: bool },
    /// Return of a `mandatory` message that no queue is bound for. Its confirm is still to come.
    Returned { reply_code: u16, reply_text: String, exchange: String, properties: Box<AMQPProperties> },
}

/// Counter of `connection.blocked` and `connection.unblocked` within [`BLOCK_CHANGES_WITHIN`].
struct BlockChanges {
    since: Instant,
    count: u32,
}

/// Failure of a call.
#[derive(Debug)]
pub enum CallError {
    /// The broker closed the channel instead.
    Refused(Refusal),
    /// The connection is lost.
    Lost(Loss),
}

impl Connection {
    /// Connects to the first usable URL, beginning with number `attempt` (modulo their number). RabbitMQ's management
    /// and log show `name`.
    ///
    /// # Errors
    ///
    /// [`BrokerError`] of the only URL, or [`BrokerError::NoneUsable`] with the error of each.
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

    /// Creates a connection that is open, with these open channels.
    #[cfg(test)]
    #[allow(clippy::expect_used)]
    pub(crate) fn over(stream: Box<dyn link::Stream>, open: &[ChannelId]) -> Self {
        let at = Endpoint::parse("amqp://localhost", Duration::ZERO).expect("a URL");
        Self { open: open.iter().copied().collect(), ..Self::new(Link::new(stream), at) }
    }

    /// Returns the broker.
    pub fn at(&self) -> &Endpoint {
        &self.at
    }

    /// Tells whether the connection is unusable.
    pub fn is_lost(&self) -> bool {
        self.is_lost
    }

    /// Returns the reason why the broker blocks the connection now. No event reports it.
    pub fn blocked(&self) -> Option<&str> {
        self.blocked.as_deref()
    }

    /// Returns the agreed heartbeat interval, if heartbeats are on.
    pub(crate) fn heartbeat(&self) -> Option<Duration> {
        self.link.heartbeat()
    }

    /// The largest frame that may be sent, its overhead included.
    pub(crate) fn frame_bytes_max(&self) -> usize {
        self.link.frame_bytes_max()
    }

    /// Returns the buffer for whole outgoing frames.
    pub(crate) fn output(&mut self) -> &mut Vec<u8> {
        self.link.output()
    }

    /// Sends a method on a channel. The answer is an [`Event`] of that channel.
    pub(crate) fn ask(&mut self, channel: ChannelId, method: &AMQPClass) -> Result<(), Loss> {
        if let AMQPClass::Channel(channel::AMQPMethod::Open(_)) = method {
            self.open.insert(channel);
        }
        self.put(&AMQPFrame::Method(channel, method.clone()))
    }

    /// Queues a frame.
    pub(crate) fn put(&mut self, frame: &AMQPFrame) -> Result<(), Loss> {
        self.link.put(frame).map_err(Loss::Broken)
    }

    /// Sends a method and waits for the answer. Other events are kept for later; more than [`EARLY_MAX`] of them end
    /// the connection.
    pub(crate) async fn call(
        &mut self,
        channel: ChannelId,
        method: AMQPClass,
    ) -> Result<AMQPClass, CallError> {
        self.ask(channel, &method).map_err(CallError::Lost)?;
        let answer = poll_fn(|cx| self.poll_answer(cx, channel, &method));
        let answered = timeout(ANSWER_TIMEOUT, answer).await;
        answered.unwrap_or_else(|_| {
            // A late answer would be taken for the answer to another call.
            self.is_lost = true;
            let text = format!("no answer within {} s", ANSWER_TIMEOUT.as_secs());
            Err(CallError::Lost(Loss::Broken(io::Error::new(io::ErrorKind::TimedOut, text))))
        })
    }

    /// Opens a channel.
    ///
    /// # Errors
    ///
    /// [`BrokerError`] when the broker refuses, or the connection is lost.
    pub async fn open_channel(&mut self, channel: ChannelId) -> Result<(), BrokerError> {
        let opened = self.call(channel, open_channel()).await;
        opened.map(drop).map_err(|error| error.at(&self.at))
    }

    /// Closes a channel, so that its number can be opened again.
    ///
    /// # Errors
    ///
    /// [`BrokerError::ChannelClosed`] when the broker closed the channel first; otherwise the connection is lost.
    pub async fn close_channel(&mut self, channel: ChannelId) -> Result<(), BrokerError> {
        let close = channel::Close { reply_code: 200, reply_text: "OK".into(), class_id: 0, method_id: 0 };
        let closed = self.call(channel, AMQPClass::Channel(channel::AMQPMethod::Close(close))).await;
        self.open.remove(&channel);
        closed.map(drop).map_err(|error| error.at(&self.at))
    }

    /// Returns the next event, and writes what is queued. Cancel-safe.
    pub(crate) fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<Event, Loss>> {
        match self.early.pop_front() {
            Some(event) => Poll::Ready(Ok(event)),
            None => self.poll_link(cx),
        }
    }

    /// Closes the connection in order, within `CLOSE_TIMEOUT`. Events before the answer, such as confirms, are
    /// discarded.
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
        // A connection that does not close in time is dropped.
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

    /// Returns the next event, after at most [`FRAMES_AT_ONCE`] frames without one.
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
                    // Writes close-ok if the socket accepts it. Without it the broker logs a client that vanished.
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

    /// Returns the event of a frame; `None` if the frame has none, or another frame completes it.
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
                // Properties of a message in a consumed queue are ignored.
                None => return Ok(None),
            },
            Frame::Method(channel, method) => Event::Answer { channel, method },
        }))
    }
}

/// Reads the properties of a returned message. This client has sent it, so unreadable properties are an error.
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
    /// Counts one change.
    ///
    /// # Errors
    ///
    /// [`Loss`] when there are more changes than RabbitMQ sends. Each may be logged, so the connection is given up.
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

/// Tells whether a method answers another. In AMQP 0-9-1 an answer has the next number in the same class, except that
/// RabbitMQ's `exchange.unbind` (40) is answered by 51.
pub(crate) fn is_answer(method: &AMQPClass, asked: &AMQPClass) -> bool {
    let step = match asked {
        AMQPClass::Exchange(exchange::AMQPMethod::Unbind(_)) => 11,
        _ => 1,
    };
    method.get_amqp_class_id() == asked.get_amqp_class_id()
        && method.get_amqp_method_id() == asked.get_amqp_method_id() + step
}

/// Returns the error of an answer without a question.
pub(crate) fn unasked(channel: ChannelId, method: &AMQPClass) -> Loss {
    let (class, method) = (method.get_amqp_class_id(), method.get_amqp_method_id());
    Loss::violation(format!("method {class}.{method} on channel {channel} is no answer to anything"))
}

/// `channel.open`.
pub(crate) fn open_channel() -> AMQPClass {
    AMQPClass::Channel(channel::AMQPMethod::Open(channel::Open {}))
}

impl CallError {
    /// Returns the error, with the broker.
    pub(crate) fn at(self, at: &Endpoint) -> BrokerError {
        match self {
            Self::Refused(refusal) => BrokerError::ChannelClosed { at: at.clone(), refusal },
            Self::Lost(loss) => loss.at(at),
        }
    }
}
