//! Subscriptions after they have been declared: whether their queues are still there, and which messages they should have got.
//!
//! [`SubscriptionWatch`] is how a source that had a message returned asks for a look; [`Look`] is the connection that looks. When to
//! look, and whom to tell, is decided elsewhere.

use std::{
    collections::BTreeMap,
    future::poll_fn,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use tokio::sync::watch;

use crate::{
    connection::{ChannelId, Connection, Event, options::ConnectionOptions, unasked},
    error::{BrokerError, DeclareError, Loss},
    refusal::Reason,
    topology::{Declaration, Subscription, Topology},
};

/// The channel of a look.
const CHANNEL: ChannelId = 1;

/// Exchange of news between the sources of a process and its look at the subscriptions. Clones share it; the default watches
/// nothing.
#[derive(Clone, Debug, Default)]
pub struct SubscriptionWatch(Option<Arc<Shared>>);

#[derive(Debug)]
struct Shared {
    routes: Vec<Route>,
    /// Number of looks that were asked for.
    asked: watch::Sender<u64>,
    /// Number of them that are answered.
    answered: AtomicU64,
    queues: Mutex<Queues>,
}

/// Knowledge of the queues.
#[derive(Debug, Default)]
struct Queues {
    /// When each was last there.
    seen: BTreeMap<String, SystemTime>,
    /// Those that were gone and are declared anew, with the time at which they were last there; not told yet.
    lost: Vec<(String, SystemTime)>,
}

/// Which messages a subscription gets.
#[derive(Debug)]
struct Route {
    exchange: String,
    kind: String,
    keys: Vec<String>,
}

impl SubscriptionWatch {
    /// Watches the subscriptions, if there are any.
    pub fn new(topology: &Topology) -> Self {
        let kind = |name: &str| {
            let described = topology.exchanges.iter().find(|described| described.name == name);
            let predeclared = match name {
                "amq.direct" => "direct",
                "amq.fanout" => "fanout",
                "amq.headers" | "amq.match" => "headers",
                _ => "topic",
            };
            described.map_or(predeclared, |described| &described.kind).to_owned()
        };
        let routes = topology.subscriptions.iter().map(|Subscription { exchange, binding_keys, .. }| Route {
            exchange: exchange.clone(),
            kind: kind(exchange),
            keys: binding_keys.clone(),
        });
        let routes: Vec<_> = routes.collect();
        Self((!routes.is_empty()).then(|| {
            let (asked, _) = watch::channel(0);
            Arc::new(Shared { routes, asked, answered: AtomicU64::new(0), queues: Mutex::default() })
        }))
    }

    /// Tells whether there is anything to watch.
    pub fn is_active(&self) -> bool {
        self.0.is_some()
    }

    /// Tells whether a queue of a subscription should have got a message.
    pub fn expects(&self, exchange: &str, routing_key: &str) -> bool {
        let routes = self.0.iter().flat_map(|shared| &shared.routes);
        routes.filter(|route| route.exchange == exchange).any(|route| route.matches(routing_key))
    }

    /// Asks for a look; gives the number of the question.
    pub fn ask(&self) -> u64 {
        let Some(shared) = &self.0 else { return 0 };
        shared.asked.send_modify(|asked| *asked += 1);
        *shared.asked.borrow()
    }

    /// The last question that was answered, by a look that began after it.
    pub fn answered(&self) -> u64 {
        self.0.as_ref().map_or(0, |shared| shared.answered.load(Ordering::Acquire))
    }

    /// The last question so far.
    pub fn asked(&self) -> u64 {
        self.0.as_ref().map_or(0, |shared| *shared.asked.borrow())
    }

    /// Ready when a question is not answered. Cancel-safe.
    pub async fn until_asked(&self) {
        let Some(shared) = &self.0 else { return std::future::pending().await };
        let mut asked = shared.asked.subscribe();
        // It ends only with the sender, which is ours.
        let _ = asked.wait_for(|asked| *asked > self.answered()).await;
    }

    /// A look that began after question `number` has ended.
    pub fn answer(&self, number: u64) {
        if let Some(shared) = &self.0 {
            shared.answered.store(number, Ordering::Release);
        }
    }

    /// Queues that were gone and are declared anew, with the time at which they were last there. Each is told once.
    pub fn drain_lost(&self) -> Vec<(String, SystemTime)> {
        self.queues().map(|mut queues| std::mem::take(&mut queues.lost)).unwrap_or_default()
    }

    fn seen(&self, queue: &str) {
        if let Some(mut queues) = self.queues() {
            queues.seen.insert(queue.to_owned(), SystemTime::now());
        }
    }

    /// One that was never seen is new, and not lost.
    fn lost(&self, queue: &str) {
        if let Some(mut queues) = self.queues()
            && let Some(last) = queues.seen.remove(queue)
        {
            queues.lost.push((queue.to_owned(), last));
        }
    }

    fn queues(&self) -> Option<MutexGuard<'_, Queues>> {
        Some(self.0.as_ref()?.queues.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Before a connection declares everything anew: notes queues that were there and are gone.
    pub(crate) async fn note_lost(
        &self,
        connection: &mut Connection,
        channel: ChannelId,
    ) -> Result<(), BrokerError> {
        let seen: Vec<_> =
            self.queues().map(|queues| queues.seen.keys().cloned().collect()).unwrap_or_default();
        for name in seen {
            let queue = Declaration::Queue { name, arguments: Vec::new() };
            let Err(error) = queue.apply(connection, channel, false).await else { continue };
            let BrokerError::Declare { error, .. } = error else { return Err(error) };
            if let (Declaration::Queue { name, .. }, Reason::Missing) = (&queue, error.reason) {
                self.lost(name);
            }
            connection.open_channel(channel).await?;
        }
        Ok(())
    }
}

impl Route {
    fn matches(&self, routing_key: &str) -> bool {
        match &*self.kind {
            "topic" => self.keys.iter().any(|key| topic_matches(key, routing_key)),
            "direct" => self.keys.iter().any(|key| key == routing_key),
            "fanout" | "headers" | "x-consistent-hash" => true,
            // How another type routes is not known here.
            _ => false,
        }
    }
}

/// Tells whether a topic exchange routes a message by this binding key: `*` stands for one word, `#` for any number.
fn topic_matches(binding: &str, key: &str) -> bool {
    let words = |text| if str::is_empty(text) { Vec::new() } else { text.split('.').collect::<Vec<_>>() };
    let key = words(key);
    // Tells of each number of words at the beginning of the key whether what was looked at of the binding matches them.
    let mut matches = vec![false; key.len() + 1];
    matches[0] = true;
    for part in words(binding) {
        let mut next = vec![false; key.len() + 1];
        if part == "#" {
            let first = matches.iter().position(|matches| *matches);
            next[first.unwrap_or(key.len() + 1).min(key.len() + 1)..].fill(true);
        } else {
            for (index, word) in key.iter().enumerate() {
                next[index + 1] = matches[index] && (part == "*" || part == *word);
            }
        }
        matches = next;
    }
    matches[key.len()]
}

/// Finding of a look about one queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueueState {
    /// The queue is there.
    Present,
    /// The queue was gone, and is declared anew and bound.
    DeclaredAnew,
    /// The queue gets no messages.
    Missing(DeclareError),
    /// The queue cannot be looked at.
    Unknown(DeclareError),
}

/// A connection that looks at the queues of subscriptions.
pub struct Look {
    connection: Connection,
    is_open: bool,
}

impl Look {
    /// Connects. `attempt` rotates the URLs; `name` is shown by RabbitMQ's management.
    ///
    /// # Errors
    ///
    /// Those of [`Connection::connect`].
    pub async fn connect(
        options: &ConnectionOptions,
        name: &str,
        attempt: usize,
    ) -> Result<Self, BrokerError> {
        let connection = Connection::connect(options, name, attempt).await?;
        Ok(Self { connection, is_open: false })
    }

    /// Looks at every queue of the subscriptions by passive declares, and tells `watch` which are there. With
    /// [`Topology::declare`], declares those anew that are gone, and every binding.
    ///
    /// # Errors
    ///
    /// The connection is lost.
    pub async fn look(
        &mut self,
        topology: &Topology,
        watch: &SubscriptionWatch,
    ) -> Result<Vec<(String, QueueState)>, BrokerError> {
        let mut states = Vec::new();
        for subscription in &topology.subscriptions {
            let plan = topology.plan_of(subscription);
            self.look_at(topology.declare, &plan, &mut states).await?;
        }
        for (queue, state) in &states {
            match state {
                QueueState::Present => watch.seen(queue),
                QueueState::DeclaredAnew => {
                    watch.lost(queue);
                    watch.seen(queue);
                }
                QueueState::Missing(_) | QueueState::Unknown(_) => {}
            }
        }
        Ok(states)
    }

    async fn look_at(
        &mut self,
        declare: bool,
        plan: &[Declaration],
        states: &mut Vec<(String, QueueState)>,
    ) -> Result<(), BrokerError> {
        let first = states.len();
        let is_queue = |declaration: &&Declaration| matches!(declaration, Declaration::Queue { .. });
        let mut gone = Vec::new();
        for declaration in plan.iter().filter(is_queue) {
            let state = match self.apply(declaration, false).await? {
                Ok(()) => QueueState::Present,
                Err(error) if error.reason == Reason::Missing => {
                    gone.push(declaration);
                    QueueState::Missing(error)
                }
                Err(error) => QueueState::Unknown(error),
            };
            if let Declaration::Queue { name, .. } = declaration {
                states.push((name.clone(), state));
            }
        }
        if !declare {
            return Ok(());
        }
        let is_binding = |declaration: &&Declaration| matches!(declaration, Declaration::Binding { .. });
        let mut unbound = !gone.is_empty();
        if !unbound {
            for declaration in plan.iter().filter(is_binding) {
                unbound |= self.apply(declaration, true).await?.is_err();
            }
        }
        if !unbound {
            return Ok(());
        }
        for declaration in plan {
            if is_queue(&declaration) && !gone.contains(&declaration) {
                continue;
            }
            let done = self.apply(declaration, true).await?;
            let of_queue = |(name, _): &&mut (String, QueueState)| match declaration {
                Declaration::Queue { name: queue, .. } => queue == name,
                _ => done.is_err(),
            };
            for (_, state) in states[first..].iter_mut().filter(of_queue) {
                *state = match &done {
                    Ok(()) => QueueState::DeclaredAnew,
                    Err(error) => QueueState::Missing(error.clone()),
                };
            }
        }
        Ok(())
    }

    /// A refusal closes only the channel, which is opened again when it is needed.
    async fn apply(
        &mut self,
        declaration: &Declaration,
        create: bool,
    ) -> Result<Result<(), DeclareError>, BrokerError> {
        if !self.is_open {
            self.connection.open_channel(CHANNEL).await?;
            self.is_open = true;
        }
        match declaration.apply(&mut self.connection, CHANNEL, create).await {
            Ok(()) => Ok(Ok(())),
            Err(BrokerError::Declare { error, .. }) => {
                self.is_open = false;
                Ok(Err(error))
            }
            Err(error) => Err(error),
        }
    }

    /// Keeps the connection alive; ends when it is lost, or when the broker answers what nobody has asked.
    pub async fn idle(&mut self) -> BrokerError {
        loop {
            let heard = poll_fn(|cx| self.connection.poll_event(cx)).await;
            let lost = match heard {
                Ok(Event::ChannelClosed { channel: CHANNEL, .. }) => {
                    self.is_open = false;
                    continue;
                }
                Ok(Event::Answer { channel, method }) => unasked(channel, &method),
                Ok(_) => {
                    Loss::violation("news of messages on a connection that neither publishes nor consumes")
                }
                Err(loss) => loss,
            };
            return lost.at(self.connection.at());
        }
    }

    /// Closes the connection in good order.
    pub async fn close(self) {
        self.connection.close().await;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use amq_protocol::{
        frame::{AMQPFrame, gen_frame},
        protocol::{AMQPClass, channel},
    };
    use tokio::{io::AsyncWriteExt, time::timeout};

    use super::*;

    fn frame(method: channel::AMQPMethod) -> Vec<u8> {
        let frame = AMQPFrame::Method(CHANNEL, AMQPClass::Channel(method));
        gen_frame(&frame)(Vec::new().into()).unwrap().into_inner().0
    }

    fn closed() -> Vec<u8> {
        let reply_text = "because".into();
        frame(channel::AMQPMethod::Close(channel::Close {
            reply_code: 406,
            reply_text,
            class_id: 0,
            method_id: 0,
        }))
    }

    /// A look whose channel is open, at a broker.
    fn look() -> (Look, tokio::io::DuplexStream) {
        let (ours, theirs) = tokio::io::duplex(256);
        (Look { connection: Connection::over(Box::new(ours), &[CHANNEL]), is_open: true }, theirs)
    }

    /// It reads nothing, so whatever it is answered stays in memory.
    #[tokio::test]
    async fn a_broker_that_closes_a_channel_without_end_is_given_up_by_a_look_that_is_idle() {
        let (mut look, mut broker) = look();
        let flood = async { while broker.write_all(&closed()).await.is_ok() {} };
        let lost = tokio::select! {
            lost = timeout(Duration::from_secs(10), look.idle()) => lost.unwrap().to_string(),
            () = flood => unreachable!(),
        };
        assert!(lost.contains("channel 1 is closed, and it is not open"), "{lost}");
        assert!(look.connection.output().len() < 256, "{} bytes", look.connection.output().len());
    }

    #[tokio::test]
    async fn a_channel_that_is_closed_between_two_looks_does_not_cost_the_connection() {
        let (mut look, mut broker) = look();
        broker.write_all(&closed()).await.unwrap();
        assert!(timeout(Duration::from_millis(50), look.idle()).await.is_err(), "the connection stays");
        assert!(!look.is_open);
        broker.write_all(&frame(channel::AMQPMethod::OpenOk(channel::OpenOk {}))).await.unwrap();
        let lost = timeout(Duration::from_secs(10), look.idle()).await.unwrap().to_string();
        assert!(lost.contains("is no answer to anything"), "{lost}");
    }

    #[test]
    fn a_binding_key_takes_the_keys_that_rabbitmq_would_give_it() {
        for (binding, key, expected) in [
            ("#", "", true),
            ("#", "a.b", true),
            ("", "", true),
            ("", "a", false),
            ("a", "a", true),
            ("a", "a.b", false),
            ("a.*", "a.b", true),
            ("a.*", "a", false),
            ("a.#", "a", true),
            ("a.#.d", "a.b.c.d", true),
            ("a.#.d", "a.b.c", false),
            ("#.b.#", "a.b", true),
            ("#.*", "", false),
            ("*.*", "a.", true),
            ("OrderCreated", "OrderCreated", true),
        ] {
            assert_eq!(topic_matches(binding, key), expected, "{binding} {key}");
        }
    }

    #[test]
    fn a_watch_without_subscriptions_expects_nothing() {
        let watch = SubscriptionWatch::default();
        assert!(!watch.is_active() && !watch.expects("e", "k"));
        assert_eq!((watch.ask(), watch.answered()), (0, 0));
    }
}
