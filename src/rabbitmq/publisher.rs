//! Publishing with confirms, `mandatory` and persistence: what was handed over, what was sent, what became of it.
//!
//! Knows nothing of aggregates, of order across failures, or of when to send a message again. A [`Publisher`] that gave an
//! error is finished; whatever it had not told an outcome for is to be published again by another. One error is of a single
//! message ([`BrokerError::Unsendable`]): whoever goes on after it has given that message up.

use std::{
    collections::{HashSet, VecDeque},
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use lapin::{
    Channel, Confirmation, ConnectionState, ErrorKind, Event,
    message::BasicReturnMessage,
    options::{BasicPublishOptions, ConfirmSelectOptions},
};

use super::{
    attribution::{Attribution, Return, Serial},
    broker::Broker,
    drain::drain_ready,
    encoding::{self, Encoded},
    error::DeclareError,
    fence,
    topology::{self, Declaration, Failure},
};
pub use super::{broker::BrokerOptions, error::BrokerError, fence::Fence};
use crate::{ledger::PublishTag, outbox::Message};

/// What became of one publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every queue that the message was routed to has it on disk, or on a quorum of disks.
    Confirmed,
    /// No queue is bound for it, so it went nowhere. RabbitMQ confirms such a message too; that is not told.
    Returned {
        /// 312, NO_ROUTE.
        reply_code: u16,
        /// The broker's own words.
        reply_text: String,
    },
    /// A queue rejected it or failed, and it may or may not be in others: it has to be published again.
    Nacked,
}

/// What the publisher has to say.
#[derive(Debug)]
pub enum PublisherEvent {
    /// Outcomes in the order of publishing, never empty, one for each publish.
    Outcomes(Vec<(PublishTag, Outcome)>),
    /// The broker takes nothing any more, for instance because of a memory or disk alarm. It says so after something was
    /// published during the alarm, and for everything on this connection.
    Blocked {
        /// The broker's own words.
        reason: String,
    },
    /// The broker takes messages again.
    Unblocked,
    /// What became of asking for a fence. Nothing is sent before it is held or denied.
    Fence(Fence),
}

/// One connection with a channel in confirm mode for messages, and a second channel for declares: a declare that fails
/// closes its channel, and must not take messages along.
pub struct Publisher {
    broker: Broker,
    messages: Channel,
    declares: Channel,
    declare: bool,
    /// Exchanges that this connection has declared or found.
    known_exchanges: HashSet<String>,
    /// A front message's exchange, on its way to be known.
    declaring: Option<Declaring>,
    /// Nothing is sent until this has its answer.
    fencing: Option<fence::Asking>,
    /// Handed over, not yet given to lapin: nothing of it may have been sent.
    waiting: VecDeque<(PublishTag, Arc<Message>)>,
    /// Given to lapin, not yet confirmed. First polled in the order of pushing, which is when lapin queues the frames.
    sending: FuturesUnordered<BoxFuture<'static, Sent>>,
    attribution: Attribution,
    /// Told by `next` when there are no outcomes left to tell; nothing is sent after it.
    failure: Option<BrokerError>,
}

type Sent = (Serial, lapin::Result<Confirmation>);

struct Declaring {
    exchange: String,
    declared: BoxFuture<'static, lapin::Result<()>>,
}

impl Publisher {
    /// Connects, selects confirms, and declares (or verifies) the subscriptions' topology. `attempt` rotates the URLs;
    /// `connection_name` is shown by RabbitMQ's management.
    pub async fn connect(
        options: &BrokerOptions,
        connection_name: &str,
        attempt: usize,
    ) -> Result<Self, BrokerError> {
        let broker = Broker::connect(options, connection_name, attempt).await?;
        let failed = |source| BrokerError::after_open(&broker.at, source);
        let messages = broker.connection.create_channel().await.map_err(failed)?;
        messages.confirm_select(ConfirmSelectOptions::default()).await.map_err(failed)?;
        let declares = broker.connection.create_channel().await.map_err(failed)?;
        topology::declare(&declares, &options.subscriptions, options.declare)
            .await
            .map_err(|error| error.at(&broker.at))?;
        let known_exchanges = topology::plan(&options.subscriptions)
            .into_iter()
            .filter_map(|declaration| match declaration {
                Declaration::Exchange { name, .. } => Some(name),
                _ => None,
            })
            .collect();
        Ok(Self {
            broker,
            messages,
            declares,
            declare: options.declare,
            known_exchanges,
            declaring: None,
            fencing: None,
            waiting: VecDeque::new(),
            sending: FuturesUnordered::new(),
            attribution: Attribution::default(),
            failure: None,
        })
    }

    /// Asks for a fence, the exclusive queue `queue`, as soon as [`next`](Self::next) is polled, and holds back whatever is to
    /// be published until that tells [`Fence::Held`] or [`Fence::Denied`].
    pub fn fence(&mut self, queue: &str) {
        self.fencing = Some(fence::Asking::new(self.broker.connection.clone(), queue));
    }

    /// Whether a message fits into the frames of this connection; else why not, in words that show no payload. Whoever takes
    /// over what does not fit gets [`BrokerError::Unsendable`].
    pub fn check(&self, message: &Message) -> Result<(), String> {
        let frame_max = self.broker.connection.configuration().frame_max();
        let header = encoding::header_frame_size(message);
        if header > usize::try_from(frame_max).unwrap_or(usize::MAX) {
            return Err(format!(
                "its properties and headers take {header} bytes, the connection's frame_max is {frame_max}"
            ));
        }
        Ok(())
    }

    /// Takes a message over for publishing; nothing is sent until [`next`](Self::next) is polled. Frames leave in the
    /// order of these calls. Nothing here limits how many are taken: that is the ledger's part.
    ///
    /// No two messages in flight may have the same position: it is how a returned message is recognised.
    pub fn publish(&mut self, tag: PublishTag, message: Arc<Message>) {
        self.waiting.push_back((tag, message));
    }

    /// Drives sending, declares of exchanges on first use, and confirms.
    ///
    /// Cancel-safe: dropping the future loses nothing. Pends for ever while there is nothing to do and the connection is
    /// well. After an error every further call gives the same error; after [`BrokerError::Unsendable`] it goes on behind that
    /// message, which nothing was sent of.
    pub async fn next(&mut self) -> Result<PublisherEvent, BrokerError> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Closes the connection in good order, within a few seconds. What is unconfirmed by then stays unknown.
    pub async fn close(self) {
        self.broker.close().await;
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<PublisherEvent, BrokerError>> {
        loop {
            if let Some(answer) = self.take_fence(cx) {
                return Poll::Ready(Ok(PublisherEvent::Fence(answer)));
            }
            if self.failure.is_none()
                && let Err(error) = self.admit(cx)
            {
                self.failure = Some(error);
            }
            if let Err(error) = self.take_confirms(cx) {
                self.fail(error);
            }
            // Also after a failure: what was confirmed before it need not be sent again.
            let outcomes = self.attribution.settle();
            if !outcomes.is_empty() {
                return Poll::Ready(Ok(PublisherEvent::Outcomes(outcomes)));
            }
            if let Some(failure) = self.failure_to_tell().cloned() {
                self.failure.take_if(|failure| matches!(failure, BrokerError::Unsendable { .. }));
                return Poll::Ready(Err(failure));
            }
            match self.broker.events.poll_next_unpin(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Event::ConnectionBlocked(reason))) => {
                    return Poll::Ready(Ok(PublisherEvent::Blocked { reason }));
                }
                Poll::Ready(Some(Event::ConnectionUnblocked)) => {
                    return Poll::Ready(Ok(PublisherEvent::Unblocked));
                }
                Poll::Ready(Some(Event::Error(error))) => self.on_error_event(error),
                Poll::Ready(Some(_)) => {}
                // Not before the connection itself is dropped, for it holds the sending side.
                Poll::Ready(None) => {
                    let closed = ErrorKind::InvalidConnectionState(ConnectionState::Closed);
                    self.failure = Some(BrokerError::after_open(&self.broker.at, closed.into()));
                }
            }
        }
    }

    /// The first failure counts; but one message that cannot be sent does not hide that the connection is gone.
    fn fail(&mut self, error: BrokerError) {
        if matches!(self.failure, None | Some(BrokerError::Unsendable { .. })) {
            self.failure = Some(error);
        }
    }

    /// A message that cannot be sent does not harm those before it: they are heard out first, or else they would be sent
    /// twice. Should the connection fail meanwhile, so do they, and the wait is over.
    fn failure_to_tell(&self) -> Option<&BrokerError> {
        let is_of_one_message = |error: &&BrokerError| {
            matches!(error, BrokerError::Declare { .. } | BrokerError::Unsendable { .. })
        };
        self.failure.as_ref().filter(|error| !is_of_one_message(error) || self.sending.is_empty())
    }

    /// News of the fence.
    fn take_fence(&mut self, cx: &mut Context<'_>) -> Option<Fence> {
        let Poll::Ready(answer) = self.fencing.as_mut()?.poll(cx) else { return None };
        match answer {
            Ok(busy @ Fence::Busy { .. }) => return Some(busy),
            Ok(answer) => {
                self.fencing = None;
                return Some(answer);
            }
            Err(Failure::Declare(error)) => {
                let at = self.broker.at.clone();
                self.failure.get_or_insert(BrokerError::Declare { at, error });
            }
            Err(Failure::Connection(source)) => {
                let lost = self.lost(source);
                self.failure.get_or_insert(lost);
            }
        }
        self.fencing = None;
        None
    }

    /// Gives waiting messages to lapin, from the front, until one needs an exchange that is not known yet.
    fn admit(&mut self, cx: &mut Context<'_>) -> Result<(), BrokerError> {
        if self.fencing.is_some() {
            return Ok(());
        }
        loop {
            if let Some(declaring) = &mut self.declaring {
                let Poll::Ready(declared) = declaring.declared.poll_unpin(cx) else { return Ok(()) };
                let exchange = std::mem::take(&mut declaring.exchange);
                self.declaring = None;
                declared.map_err(|source| self.undeclared(&exchange, source))?;
                self.known_exchanges.insert(exchange);
            }
            let Some((_, message)) = self.waiting.front() else { return Ok(()) };
            if !topology::is_predeclared(&message.exchange)
                && !self.known_exchanges.contains(&message.exchange)
            {
                self.declaring = Some(self.start_declaring(message.exchange.clone()));
                continue;
            }
            if let Some((tag, message)) = self.waiting.pop_front() {
                self.send(tag, message)?;
            }
        }
    }

    fn start_declaring(&self, exchange: String) -> Declaring {
        let (channel, declare) = (self.declares.clone(), self.declare);
        let declaration = Declaration::topic_exchange(&exchange);
        let declared = async move { declaration.apply(&channel, declare).await }.boxed();
        Declaring { exchange, declared }
    }

    fn send(&mut self, tag: PublishTag, message: Arc<Message>) -> Result<(), BrokerError> {
        let unsendable = |reason| BrokerError::Unsendable { position: message.position, reason };
        self.check(&message).map_err(unsendable)?;
        let encoded = encoding::encode(&message).map_err(|error| unsendable(error.to_string()))?;
        let serial = self.attribution.sent(tag, message.position);
        let channel = self.messages.clone();
        self.sending.push(
            async move {
                let Encoded { exchange, routing_key, properties } = encoded;
                let options = BasicPublishOptions { mandatory: true, immediate: false };
                let sent =
                    channel.basic_publish(exchange, routing_key, options, &message.body, properties).await;
                let confirmation = match sent {
                    Ok(confirm) => confirm.await,
                    Err(error) => Err(error),
                };
                (serial, confirmation)
            }
            .boxed(),
        );
        Ok(())
    }

    /// Takes every confirm that is ready, which is what [`Attribution::settle`] relies on.
    fn take_confirms(&mut self, cx: &Context<'_>) -> Result<(), BrokerError> {
        let mut failure = None;
        for (serial, confirmation) in drain_ready(&mut self.sending, cx) {
            let taken = match confirmation {
                Ok(confirmation) => self.take_confirmation(serial, confirmation),
                Err(source) if failure.is_none() => Err(self.lost(source)),
                Err(_) => Ok(()),
            };
            failure = failure.or(taken.err());
        }
        failure.map_or(Ok(()), Err)
    }

    fn take_confirmation(&mut self, serial: Serial, confirmation: Confirmation) -> Result<(), BrokerError> {
        let (ack, carried) = match confirmation {
            Confirmation::Ack(carried) => (true, carried),
            Confirmation::Nack(carried) => (false, carried),
            Confirmation::NotRequested => unreachable!("the channel is in confirm mode"),
        };
        let at = &self.broker.at;
        let unexpected = |what| BrokerError::UnexpectedReturn { at: at.clone(), what };
        let carried = match carried {
            None => None,
            Some(message) => Some(read_return(&message).ok_or_else(|| {
                unexpected(format!("exchange '{}', without a position", message.delivery.exchange))
            })?),
        };
        self.attribution
            .confirmed(serial, ack, carried)
            .map_err(|error| unexpected(format!("position {}", error.0)))
    }

    /// A channel or the whole connection failed. What is in flight fails with it, but when nothing is, only this tells.
    fn on_error_event(&mut self, error: lapin::Error) {
        let connected = self.broker.connection.status().connected();
        let only_declares = connected && self.messages.status().connected();
        if only_declares && self.declaring.is_some() {
            // The declare itself fails with this error, and knows which exchange it was.
            return;
        }
        if only_declares && self.declares.status().connected() {
            // A fence was asked for, on a channel of its own, and whoever asked has the answer.
            return;
        }
        self.fail(BrokerError::after_open(&self.broker.at, error));
    }

    fn undeclared(&mut self, exchange: &str, source: lapin::Error) -> BrokerError {
        let object = Declaration::topic_exchange(exchange).object();
        match DeclareError::new(object, &source) {
            Some(error) => BrokerError::Declare { at: self.broker.at.clone(), error },
            None => self.lost(source),
        }
    }

    /// lapin may fail a call merely because the channel is no longer open; the event then knows why.
    fn lost(&mut self, source: lapin::Error) -> BrokerError {
        let mut cause = source;
        while !cause.is_amqp_error()
            && let Some(Some(event)) = self.broker.events.next().now_or_never()
        {
            if let Event::Error(error) = event {
                cause = error;
            }
        }
        BrokerError::after_open(&self.broker.at, cause)
    }
}

fn read_return(message: &BasicReturnMessage) -> Option<Return> {
    Some(Return {
        position: encoding::position_of(&message.delivery.properties)?,
        reply_code: message.reply_code,
        reply_text: message.reply_text.to_string(),
    })
}
