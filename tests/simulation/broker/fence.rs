//! Fences (exclusive queues), and connections with silent clients. A connection keeps its fence until the broker has closed it and
//! has processed everything that arrived on it.

use std::time::Duration;

use amqp_publisher::{Fence, FenceOwner, Refusal};
use tokio::time::Instant;

use super::state::{Connection, ConnectionId, FenceOf};
use crate::{
    link::{Link, Said},
    scenario::Sabotage,
    world::WorldState,
};

/// Longest takeover beyond three heartbeats.
const TAKEOVER_MARGIN: Duration = Duration::from_secs(5);
/// Interval at which a client checks who owns a taken fence.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);
/// Interval at which a client asks again for a taken fence.
const FENCE_RETRY: Duration = Duration::from_millis(200);

impl WorldState {
    /// Closes connections whose clients are silent. A client that hears nothing does not notice.
    pub(crate) fn miss_heartbeats(&mut self, now: Instant) {
        let connections = &self.broker.connections;
        let silent: Vec<_> = connections
            .iter()
            .filter(|(_, connection)| connection.silent_until.is_some_and(|until| until <= now))
            .map(|(id, _)| *id)
            .collect();
        for id in silent {
            self.note(|| format!("broker: connection {id} missed its heartbeats"));
            self.drop_arrivals(id);
            self.broker.fences.retain(|_, holder| *holder != id);
            let Some(connection) = self.broker.connections.get_mut(&id) else { continue };
            connection.silent_until = None;
            if connection.link == Link::Up {
                connection.link = Link::Cut;
            }
            if connection.abandoned {
                self.broker.connections.remove(&id);
            }
        }
    }

    /// Silences the client. The broker notices after two to three heartbeats.
    fn fall_silent(&mut self, id: ConnectionId) {
        let heartbeat = self.scenario.heartbeat;
        let until = self.now() + heartbeat * 2 + self.rng.u32(0..=1000) * heartbeat / 1000;
        if let Some(connection) = self.broker.connections.get_mut(&id) {
            connection.silent_until.get_or_insert(until);
        }
    }

    /// Stops all traffic, in both directions.
    pub(crate) fn hang_broker_connection(&mut self, id: ConnectionId) {
        let now = self.now();
        if let Some(connection) = self.broker.connections.get_mut(&id)
            && connection.link == Link::Up
        {
            connection.link = Link::Hung(now);
            self.fall_silent(id);
        }
    }

    /// Sets whether the process sends anything, heartbeats included.
    pub(crate) fn broker_hears(&mut self, process: u64, hears: bool) {
        let of_process = |(id, connection): (&ConnectionId, &Connection)| {
            (connection.process == process && connection.link == Link::Up && !connection.abandoned)
                .then_some(*id)
        };
        for id in self.broker.connections.iter().filter_map(of_process).collect::<Vec<_>>() {
            if !hears {
                self.fall_silent(id);
            } else if let Some(connection) = self.broker.connections.get_mut(&id) {
                connection.silent_until = None;
            }
        }
    }

    /// Answers queue.declare of an exclusive queue. The queue is deleted with its connection, after everything that the connection
    /// has sent.
    pub(crate) fn answer_fence(&mut self, id: ConnectionId) -> Option<Said<Fence>> {
        let connection = self.broker.connections.get_mut(&id)?;
        let FenceOf::Asks { queue, since, told_busy, told_taken } = &mut connection.fence else {
            return None;
        };
        let (queue, told, since) = (queue.clone(), std::mem::replace(told_busy, true), *since);
        let looks_at = told_taken
            .map_or(since + self.scenario.heartbeat * 3 + TAKEOVER_MARGIN, |looked| looked + LOOK_INTERVAL);
        if self.scenario.unfenced {
            connection.fence = FenceOf::Denied;
            let refusal = Refusal { code: 403, text: "ACCESS_REFUSED".to_owned() };
            return Some(Said::This(Fence::Denied { refusal }));
        }
        let taken = self.broker.fence_taken;
        let busy = taken
            || self.broker.fences.get(&queue).is_some_and(|holder| {
                let lives =
                    self.broker.connections.get(holder).is_some_and(|holder| holder.link != Link::Cut);
                lives || self.broker.arrivals.values().any(|arrival| arrival.connection == *holder)
            });
        if busy && self.scenario.sabotage != Some(Sabotage::NoFence) {
            let now = self.now();
            if told && looks_at <= now {
                if let Some(Connection { fence: FenceOf::Asks { told_taken, .. }, .. }) =
                    self.broker.connections.get_mut(&id)
                {
                    *told_taken = Some(now);
                }
                let by = if taken {
                    FenceOwner::Nobody { consumers: 1, messages: 0 }
                } else {
                    FenceOwner::Connection
                };
                let (for_at_least, text) = (now - since, "RESOURCE_LOCKED".to_owned());
                return Some(Said::This(Fence::Taken { queue, by, for_at_least, text }));
            }
            return Some(match told {
                false => Said::This(Fence::Busy { text: "RESOURCE_LOCKED".to_owned() }),
                true => Said::NothingBefore(Some(self.now() + FENCE_RETRY)),
            });
        }
        self.note(|| format!("broker: connection {id} has {queue}"));
        self.broker.fences.insert(queue.clone(), id);
        if let Some(connection) = self.broker.connections.get_mut(&id) {
            connection.fence = FenceOf::Has(queue);
        }
        Some(Said::This(Fence::Held))
    }
}
