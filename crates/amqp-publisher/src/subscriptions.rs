//! Watch over declared subscriptions: whether their queues still exist, and which messages they should have got.
//!
//! A source whose message was returned asks for a look by [`SubscriptionWatch`]. [`Look`] is the connection that
//! looks. The caller decides when to look and whom to tell.

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

/// Channel of a look.
const CHANNEL: ChannelId = 1;

/// State shared by the sources of a process and its looks at the subscriptions. Clones share it; the default watches
/// nothing.
#[derive(Clone, Debug, Default)]
pub struct SubscriptionWatch(Option<Arc<Shared>>);

#[derive(Debug)]
struct Shared {
    routes: Vec<Route>,
    /// Number of requested looks.
    asked: watch::Sender<u64>,
    /// Number of the last answered request.
    answered: AtomicU64,
    queues: Mutex<Queues>,
}

/// Observed state of the queues.
#[derive(Debug, Default)]
struct Queues {
    /// Time at which each queue was last seen.
    seen: BTreeMap<String, SystemTime>,
    /// Queues that were lost and declared anew, with the time at which they were last seen, and not reported yet.
    lost: Vec<(String, SystemTime)>,
}

/// Exchange and binding keys of a subscription.
#[derive(Debug)]
struct Route {
    exchange: String,
    kind: String,
    keys: Vec<String>,
}

impl SubscriptionWatch {
    /// Creates a watch over the topology's subscriptions.
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

    /// Tells whether there are subscriptions.
    pub fn is_active(&self) -> bool {
        self.0.is_some()
    }

    /// Tells whether a subscription's queue should have got a message.
    pub fn expects(&self, exchange: &str, routing_key: &str) -> bool {
        let routes = self.0.iter().flat_map(|shared| &shared.routes);
        routes.filter(|route| route.exchange == exchange).any(|route| route.matches(routing_key))
    }

    /// Requests a look and returns the request's number.
    pub fn ask(&self) -> u64 {
        let Some(shared) = &self.0 else { return 0 };
        shared.asked.send_modify(|asked| *asked += 1);
        *shared.asked.borrow()
    }

    /// Returns the number of the last request that a later look has answered.
    pub fn answered(&self) -> u64 {
        self.0.as_ref().map_or(0, |shared| shared.answered.load(Ordering::Acquire))
    }

    /// Returns the number of the last request.
    pub fn asked(&self) -> u64 {
        self.0.as_ref().map_or(0, |shared| *shared.asked.borrow())
    }

    /// Waits until a request is unanswered. Cancel-safe.
    pub async fn until_asked(&self) {
        let Some(shared) = &self.0 else { return std::future::pending().await };
        let mut asked = shared.asked.subscribe();
        // The wait fails only when the sender is dropped, and this watch holds it.
        let _ = asked.wait_for(|asked| *asked > self.answered()).await;
    }

    /// Marks requests up to `number` as answered.
    pub fn answer(&self, number: u64) {
        if let Some(shared) = &self.0 {
            shared.answered.store(number, Ordering::Release);
        }
    }

    /// Returns queues that were lost and declared anew, with the time at which they were last seen. Each is returned
    /// once.
    pub fn drain_lost(&self) -> Vec<(String, SystemTime)> {
        self.queues().map(|mut queues| std::mem::take(&mut queues.lost)).unwrap_or_default()
    }

    fn seen(&self, queue: &str) {
        if let Some(mut queues) = self.queues() {
            queues.seen.insert(queue.to_owned(), SystemTime::now());
        }
    }

    /// A queue that was never seen is new, not lost.
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

    /// Notes lost queues before a connection declares everything anew.
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
            // Routing of other types is unknown here.
            _ => false,
        }
    }
}

/// Tells whether a binding key of a topic exchange matches: `*` stands for one word, `#` for any number of words.
fn topic_matches(binding: &str, key: &str) -> bool {
    let words = |text| if str::is_empty(text) { Vec::new() } else { text.split('.').collect::<Vec<_>>() };
    let key = words(key);
    // `matches[n]`: the binding's words so far match the key's first n words.
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

/// State of a queue in a look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueueState {
    /// The queue exists.
    Present,
    /// The queue was lost, and is declared anew and bound.
    DeclaredAnew,
    /// The queue does not exist and gets no messages.
    Missing(DeclareError),
    /// The state cannot be determined.
    Unknown(DeclareError),
}

/// Connection that looks at the queues of subscriptions.
pub struct Look {
    connection: Connection,
    is_open: bool,
}

impl Look {
    /// Connects. `attempt` selects the first URL. RabbitMQ's management shows `name`.
    ///
    /// # Errors
    ///
    /// As [`Connection::connect`].
    pub async fn connect(
        options: &ConnectionOptions,
        name: &str,
        attempt: usize,
    ) -> Result<Self, BrokerError> {
        let connection = Connection::connect(options, name, attempt).await?;
        Ok(Self { connection, is_open: false })
    }

    /// Checks every queue by a passive declaration and reports to `watch` which exist. With [`Topology::declare`],
    /// also declares lost queues anew, and every binding.
    ///
    /// # Errors
    ///
    /// [`BrokerError`] when the connection is lost.
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

    /// Applies a declaration. A refusal closes only the channel, which the next declaration opens again.
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

    /// Keeps the connection alive. Returns when it is lost, or when the broker sends something unexpected.
    pub async fn idle(&mut self) -> BrokerError {
        loop {
            let heard = poll_fn(|cx| self.connection.poll_event(cx)).await;
            let lost = match heard {
                Ok(Event::ChannelClosed { channel: CHANNEL, .. }) => {
                    self.is_open = false;
                    continue;
                }
                Ok(Event::Answer { channel, method }) => unasked(channel, &method),
                Ok(_) => Loss::violation(
                    "confirms or messages on a connection that neither publishes nor consumes",
                ),
                Err(loss) => loss,
            };
            return lost.at(self.connection.at());
        }
    }

    /// Closes the connection in order.
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

    /// Returns a look with an open channel, and the broker's end.
    fn look() -> (Look, tokio::io::DuplexStream) {
        let (ours, theirs) = tokio::io::duplex(256);
        (Look { connection: Connection::over(Box::new(ours), &[CHANNEL]), is_open: true }, theirs)
    }

    /// The broker reads nothing, so every answer to it would stay in memory.
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
