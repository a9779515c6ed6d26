//! The product's end of a connection to the broker.

use std::{collections::VecDeque, sync::LazyLock, time::Duration};

use amqp_publisher::{BrokerError, Endpoint, publisher::PublisherEvent};
use outboxd::{
    ledger::PublishTag,
    message::Message,
    relay::broker::{Broker as Reachable, Publisher},
};
use tokio::time::Instant;

use super::state::{Channel, Connection, ConnectionId, FenceOf, Waiting};
use crate::{link::Link, scenario::Sabotage, world::World};

pub(super) static AT: LazyLock<Endpoint> = LazyLock::new(|| {
    Endpoint::parse("amqp://outboxd@simulated:5672", Duration::from_secs(10)).expect("it is a URL")
});

/// The broker, as one process reaches it.
#[derive(Clone)]
pub(crate) struct SimulatedBroker {
    pub(crate) world: World,
    pub(crate) process: u64,
}

/// A connection that publishes. Closed when dropped.
pub(crate) struct SimulatedPublisher {
    world: World,
    id: ConnectionId,
    waiting: VecDeque<(PublishTag, Message)>,
    handed_over: u64,
}

impl Drop for SimulatedPublisher {
    fn drop(&mut self) {
        self.world.change(|state| {
            match state.broker.connections.get_mut(&self.id) {
                // The broker does not receive the close of a silent connection.
                Some(connection) if connection.silent_until.is_some() && connection.link != Link::Cut => {
                    connection.abandoned = true;
                }
                _ => {
                    state.cut_broker_connection(self.id);
                    state.broker.connections.remove(&self.id);
                }
            }
        });
    }
}

impl Reachable for SimulatedBroker {
    type Publisher = SimulatedPublisher;

    async fn connect(&self, _: &str, attempt: usize) -> Result<SimulatedPublisher, BrokerError> {
        self.world.pause(0..=self.world.look(|state| state.scenario.connect_ms)).await;
        let id = self.world.change(|state| {
            if state.broker.down {
                return Err(BrokerError::TimedOut { at: AT.clone(), after: Duration::from_secs(1) });
            }
            state.broker.last_connection += 1;
            let id = state.broker.last_connection;
            let forgets = state.scenario.sabotage == Some(Sabotage::DeclareOnlyAtFirst);
            if !forgets || (attempt == 0 && id == 1) {
                state.broker.declared = true;
            }
            let connection = Connection {
                process: self.process,
                link: Link::Up,
                unanswered: VecDeque::new(),
                channel: Channel::new(state.now()),
                last_serial: 0,
                arrives_after: state.now(),
                blocked_told: false,
                fence: FenceOf::Nothing,
                silent_until: None,
                abandoned: false,
            };
            state.broker.connections.insert(id, connection);
            Ok(id)
        })?;
        Ok(SimulatedPublisher { world: self.world.clone(), id, waiting: VecDeque::new(), handed_over: 0 })
    }
}

impl Publisher for SimulatedPublisher {
    fn fence(&mut self, queue: &str) {
        self.world.look(|state| {
            if let Some(connection) = state.broker.connections.get_mut(&self.id) {
                connection.fence = FenceOf::Asks {
                    queue: queue.to_owned(),
                    since: Instant::now(),
                    told_busy: false,
                    told_taken: None,
                };
            }
        });
    }

    fn check(&self, _: &Message) -> Result<(), String> {
        Ok(())
    }

    fn publish(&mut self, tag: PublishTag, message: Message) {
        self.waiting.push_back((tag, message));
        self.handed_over += 1;
    }

    fn published(&self) -> u64 {
        // Close enough: the oracle judges messages and not the metric.
        self.handed_over
    }

    async fn next(&mut self) -> Result<PublisherEvent, BrokerError> {
        let id = self.id;
        let waiting = std::mem::take(&mut self.waiting);
        self.world.look(|state| {
            if let Some(connection) = state.broker.connections.get_mut(&id) {
                let handed_over = Instant::now();
                let waiting = waiting.into_iter().map(|(tag, message)| Waiting { tag, message, handed_over });
                connection.channel.waiting.extend(waiting);
            }
            state.send_waiting(id);
        });
        self.world.hear(|state| state.answers(id)).await
    }

    async fn close(self) {
        self.world.pause(0..=5).await;
    }
}
