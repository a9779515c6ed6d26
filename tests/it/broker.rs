//! A broker of a test without the daemon: virtual hosts, options of a publisher, messages and their outcomes.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use amqp_publisher::{
    BrokerError, Client, ConnectionOptions, FenceMemory, PublisherOptions,
    publisher::{
        Outcome, Publisher, PublisherEvent,
        exchange_limit::ExchangeLimit,
        message::{HeaderValue, Message, Properties},
    },
    subscriptions::SubscriptionWatch,
    topology::{QueueType, Subscription, Topology},
};
use lapin::{
    Channel, Connection, ConnectionProperties, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable, ShortString},
};
use outboxd::position::{Lsn, Position};
use testkit::{Authority, RabbitMq, RabbitMqOptions, shared_rabbitmq};
use tokio::{
    sync::{Mutex, MutexGuard, OnceCell},
    time::timeout,
};

use crate::stage::PATIENCE;

/// A node, with the test's own virtual host.
pub(crate) struct Broker {
    pub(crate) url: String,
    pub(crate) node: &'static RabbitMq,
}

impl Broker {
    /// A virtual host on the node that all tests share.
    pub(crate) async fn shared() -> Self {
        Self::on(shared_rabbitmq().await).await
    }

    /// A virtual host on the node that tests disturb as a whole. Only one test has the node while its guard lives.
    pub(crate) async fn alone() -> (Self, MutexGuard<'static, ()>) {
        static ALONE: Mutex<()> = Mutex::const_new(());
        let guard = ALONE.lock().await;
        (Self::on(&disturbed().await.node).await, guard)
    }

    /// Authority of the disturbed node's certificate.
    pub(crate) async fn authority(&self) -> &'static Authority {
        &disturbed().await.authority
    }

    async fn on(node: &'static RabbitMq) -> Self {
        let vhost = testkit::unique("publisher");
        Self { url: node.create_vhost(&vhost).await, node }
    }

    pub(crate) fn options(&self) -> PublisherOptions {
        options(self.url.clone())
    }

    pub(crate) fn options_with(&self, change: impl FnOnce(&mut PublisherOptions)) -> PublisherOptions {
        changed(&self.options(), change)
    }

    pub(crate) fn url_with(&self, from: &str, to: &str) -> String {
        let changed = self.url.replace(from, to);
        assert_ne!(changed, self.url, "the URL has no {from}");
        changed
    }

    pub(crate) async fn publisher(&self, options: &PublisherOptions) -> Publisher {
        timeout(PATIENCE, Publisher::connect(options, "outboxd test", 0)).await.unwrap().unwrap()
    }

    /// Opens a channel by which the test declares and reads.
    pub(crate) async fn channel(&self) -> (Connection, Channel) {
        let connection = Connection::connect(&self.url, ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        (connection, channel)
    }
}

pub(crate) fn options(url: String) -> PublisherOptions {
    PublisherOptions {
        connection: ConnectionOptions {
            client: Client { product: "outboxd test", version: "1" },
            rotating: None,
            urls: vec![url],
            heartbeat: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(10),
            ca_file: None,
            client_cert: None,
        },
        topology: Topology { declare: true, partition_header: "aggregate-id", ..Topology::default() },
        identifying_header: "outbox-position",
        exchange_limit: ExchangeLimit::default(),
        fence_memory: FenceMemory::default(),
        watch: SubscriptionWatch::default(),
    }
}

pub(crate) fn changed(
    options: &PublisherOptions,
    change: impl FnOnce(&mut PublisherOptions),
) -> PublisherOptions {
    let mut options = options.clone();
    change(&mut options);
    options
}

/// A node for alarms, killed connections and missing plugins. The node requires client certificates on TLS.
struct Disturbed {
    node: RabbitMq,
    authority: Authority,
}

async fn disturbed() -> &'static Disturbed {
    static DISTURBED: OnceCell<Disturbed> = OnceCell::const_new();
    DISTURBED
        .get_or_init(|| async {
            let authority = Authority::new("authority of the broker");
            let (certificate, key) = authority.issue("localhost", &["localhost"]);
            // The server verifies clients with the chain that it sends, so the chain ends with the authority.
            let chain = certificate + authority.certificate();
            let settings = ["verify = verify_peer", "fail_if_no_peer_cert = true"];
            let node = RabbitMq::start(RabbitMqOptions {
                settings: settings.map(|setting| format!("ssl_options.{setting}")).into(),
                certificate: Some((chain, key)),
                ..Default::default()
            })
            .await;
            Disturbed { node, authority }
        })
        .await
}

/// A name that no other test and no other run uses.
pub(crate) fn unique(name: &str) -> String {
    format!("t{:08x}.{name}", fastrand::u32(..))
}

pub(crate) fn message(number: u64, exchange: &str, routing_key: &str) -> Arc<Message> {
    let position =
        Position { commit_lsn: Lsn(0x1000 + number / 3), index: u32::try_from(number % 3).unwrap() };
    Arc::new(Message {
        exchange: exchange.to_owned(),
        routing_key: routing_key.to_owned(),
        properties: Properties {
            content_type: Some("application/json".into()),
            message_id: Some(format!("id-{number}")),
            timestamp: Some(1_700_000_000),
            kind: Some("Tested".to_owned()),
            app_id: Some("outboxd".into()),
            ..Properties::default()
        },
        headers: vec![
            ("outbox-position".into(), HeaderValue::Text(position.to_string())),
            ("aggregate-id".into(), HeaderValue::Text(format!("a{}", number % 50))),
            ("number".into(), HeaderValue::Integer(i64::try_from(number).unwrap())),
        ],
        body: format!("{{\"n\":{number}}}").into(),
    })
}

pub(crate) fn name(text: &str) -> ShortString {
    text.into()
}

pub(crate) async fn queue(channel: &Channel, queue: &str, arguments: &[(&str, AMQPValue)]) {
    let mut table = FieldTable::default();
    for (key, value) in arguments {
        table.insert(name(key), value.clone());
    }
    let options = QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare(name(queue), options, table).await.unwrap();
}

pub(crate) async fn exchange(channel: &Channel, exchange: &str, kind: ExchangeKind) {
    let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
    channel.exchange_declare(name(exchange), kind, options, FieldTable::default()).await.unwrap();
}

pub(crate) fn subscription(queue: &str, exchange: &str) -> Subscription {
    Subscription {
        queue: queue.to_owned(),
        exchange: exchange.to_owned(),
        binding_keys: vec!["#".to_owned()],
        queue_type: QueueType::Classic,
        partitions: 1,
        single_active_consumer: true,
        dead_letter: true,
        arguments: Vec::new(),
    }
}

pub(crate) async fn next(publisher: &mut Publisher) -> Result<PublisherEvent, BrokerError> {
    timeout(PATIENCE, publisher.next()).await.expect("the publisher says nothing")
}

pub(crate) async fn outcomes(publisher: &mut Publisher, count: usize) -> BTreeMap<u64, Outcome> {
    let mut all = BTreeMap::new();
    while all.len() < count {
        if let PublisherEvent::Outcomes(outcomes) = next(publisher).await.unwrap() {
            for (tag, outcome) in outcomes {
                assert_eq!(all.insert(tag.0, outcome), None, "{tag:?} told twice");
            }
        }
    }
    all
}

pub(crate) async fn connect_error(options: &PublisherOptions) -> BrokerError {
    let connected = timeout(PATIENCE, Publisher::connect(options, "outboxd test", 0)).await.unwrap();
    connected.err().expect("it must not connect")
}
