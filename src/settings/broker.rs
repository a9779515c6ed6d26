//! `[rabbitmq]`, `[[exchanges]]` and `[[subscriptions]]` together: the publisher's options.

use std::time::Duration;

use broker_access::Access;

use super::{exchanges, subscriptions};
use crate::message::POSITION_HEADER;
use amqp_publisher::{
    Client, FenceMemory, PublisherOptions, publisher::exchange_limit::ExchangeLimit,
    subscriptions::SubscriptionWatch, topology::Topology,
};
use configuration::Section;

/// Header that decides the queue of a message in a subscription with partitions: messages of one aggregate share a queue.
const PARTITION_HEADER: &str = "aggregate-id";

/// Product and version of each connection, which RabbitMQ's management shows.
const CLIENT: Client = Client { product: env!("CARGO_PKG_NAME"), version: env!("CARGO_PKG_VERSION") };

/// Options read from the three sections.
pub(super) struct Broker {
    pub(super) options: PublisherOptions,
    /// Used by the relay, not by the publisher.
    pub(super) confirm_timeout: Duration,
}

pub(super) fn read(root: &mut Section<'_>) -> Broker {
    let mut rabbitmq = root.section("rabbitmq");
    let declare = rabbitmq.flag("declare", true);
    let heartbeat = rabbitmq.seconds("heartbeat_s", 1..=3600, 10);
    let connect_timeout = rabbitmq.milliseconds("connect_timeout_ms", 100..=600_000, 5000);
    let confirm_timeout = rabbitmq.milliseconds("confirm_timeout_ms", 100..=3_600_000, 30_000);
    let access = Access::read(&mut rabbitmq, "");
    rabbitmq.finish();
    let exchanges = exchanges::read(root);
    let topology = Topology {
        declare,
        subscriptions: subscriptions::read(root, &exchanges),
        exchanges,
        partition_header: PARTITION_HEADER,
    };
    let options = PublisherOptions {
        connection: access.connection(CLIENT, heartbeat, connect_timeout),
        topology,
        identifying_header: POSITION_HEADER,
        exchange_limit: ExchangeLimit::default(),
        fence_memory: FenceMemory::default(),
        watch: SubscriptionWatch::default(),
    };
    Broker { options, confirm_timeout }
}
