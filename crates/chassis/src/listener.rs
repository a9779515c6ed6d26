//! Listener to events as they come, from a queue that ends with the connection: for somebody who looks on, such as a
//! browser.
//!
//! Every instance of a service hears every event. What is published while the broker cannot be reached is not heard
//! later, so a listener that has missed something learns that its connection was lost.

use std::time::Duration;

use amqp_publisher::ConnectionOptions;

use super::{
    consumer::{ConsumerError, TransientConsumer, TransientOptions, cures},
    inbox::{self, Message},
    trace::{self, TraceContext},
};
pub use crate::consumer::Binding;
use process::{backoff::Backoff, shutdown::Shutdown};

/// Backoff of connections.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// Most unacknowledged messages. Each is acknowledged as soon as it was heard.
const PREFETCH: u16 = 64;

/// What a listener hears.
#[derive(Clone, Debug)]
pub enum Heard {
    /// The queue is there. From now on every event is heard.
    Connected,
    /// An event.
    Message(Box<Message>),
    /// The connection is lost. Events may be missed until the next [`Connected`](Self::Connected).
    Disconnected,
}

/// Events to listen to.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// Beginning of the queue's name. The rest is random, because an old connection's queue may still exist.
    pub queue: &'static str,
    /// Sources of the events.
    pub bindings: Vec<Binding>,
}

/// Listener and its broker.
pub(super) struct Listener {
    pub(super) name: &'static str,
    pub(super) connection: ConnectionOptions,
    pub(super) declare: bool,
    pub(super) subscription: Subscription,
}

/// Listens until `shutdown`. Reconnects for as long as necessary.
pub(super) async fn listen(listener: Listener, mut hear: impl FnMut(Heard), mut shutdown: Shutdown) {
    let mut backoff = Backoff::new(BACKOFF_MIN, BACKOFF_MAX);
    loop {
        let ended = listener.session(&mut backoff, &mut hear, &mut shutdown).await;
        hear(Heard::Disconnected);
        let Err(error) = ended else { return };
        let wait = backoff.next_wait();
        let error = cures::explain(&error);
        tracing::warn!(error, "no events are heard; connecting again in {} ms", wait.as_millis());
        tokio::select! {
            _ = shutdown.requested() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
}

impl Listener {
    /// Life of one connection. `Ok` when the shutdown was requested.
    async fn session(
        &self,
        backoff: &mut Backoff,
        hear: &mut impl FnMut(Heard),
        shutdown: &mut Shutdown,
    ) -> Result<(), ConsumerError> {
        let Subscription { queue, bindings } = &self.subscription;
        let options = TransientOptions {
            connection: self.connection.clone(),
            declare: self.declare,
            queue: format!("{queue}.{:016x}", fastrand::u64(..)),
            bindings: bindings.clone(),
            prefetch: PREFETCH,
        };
        let connecting = TransientConsumer::connect(&options, self.name, backoff.attempts() as usize);
        let mut consumer = tokio::select! {
            _ = shutdown.requested() => return Ok(()),
            connected = connecting => connected?,
        };
        tracing::info!(queue = options.queue, "listening");
        hear(Heard::Connected);
        loop {
            let delivery = tokio::select! {
                _ = shutdown.requested() => break,
                delivery = consumer.next() => delivery?,
            };
            consumer.ack(&delivery).await?;
            backoff.reset();
            let trace = TraceContext::follow(delivery.header(trace::HEADER));
            match inbox::message(&delivery, trace) {
                Ok(message) => hear(Heard::Message(Box::new(message))),
                Err(error) => tracing::warn!(%error, "a message was ignored"),
            }
        }
        consumer.close().await;
        Ok(())
    }
}
