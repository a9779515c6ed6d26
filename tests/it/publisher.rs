//! The publisher against a real broker: outcomes of messages, topology, and the ends of a connection.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use amqp_publisher::{
    BrokerError, DeclareError, Reason, Refusal, Refused,
    publisher::{Outcome, PublishTag, Publisher, PublisherEvent, message::HeaderValue},
    topology::QueueType,
};
use lapin::{
    Channel, ExchangeKind,
    options::{BasicGetOptions, ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use outboxd::{
    preflight::Finding,
    rabbitmq::{cures, inspection::inspect},
};
use tokio::time::timeout;

use crate::{
    broker::{
        Broker, changed, connect_error, exchange, message, name, next, options, outcomes, queue,
        subscription, unique,
    },
    stage::PATIENCE,
};

async fn bind(channel: &Channel, queue: &str, exchange: &str, key: &str) {
    let options = QueueBindOptions::default();
    channel.queue_bind(name(queue), name(exchange), name(key), options, FieldTable::default()).await.unwrap();
}

async fn drained(channel: &Channel, queue: &str) -> Vec<String> {
    let mut bodies = Vec::new();
    while let Some(got) = channel.basic_get(name(queue), BasicGetOptions { no_ack: true }).await.unwrap() {
        bodies.push(String::from_utf8(got.delivery.data).unwrap());
    }
    bodies
}

fn quorum() -> (&'static str, AMQPValue) {
    ("x-queue-type", AMQPValue::LongString("quorum".into()))
}

async fn error(publisher: &mut Publisher) -> BrokerError {
    loop {
        if let Err(error) = next(publisher).await {
            return error;
        }
    }
}

#[tokio::test]
async fn frames_leave_in_the_order_of_publishing_whatever_exchanges_come_first_in_between() {
    let broker = Broker::shared().await;
    let (_connection, channel) = broker.channel().await;
    let prefix = unique("order");
    queue(&channel, &prefix, &[]).await;
    // The first exchanges exist and are bound. Later messages also need declarations between the publishes.
    let exchanges: Vec<String> = (0..40).map(|n| format!("{prefix}.{n}")).collect();
    for exchange_name in &exchanges {
        exchange(&channel, exchange_name, ExchangeKind::Topic).await;
        bind(&channel, &prefix, exchange_name, "#").await;
    }
    let mut publisher = broker.publisher(&broker.options()).await;
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    const COUNT: u64 = 10_000;
    let mut told = 0;
    for number in 0..COUNT {
        let reachable = 1 + usize::try_from(number).unwrap() * 39 / 10_000;
        publisher.publish(PublishTag(number), message(number, &exchanges[random.usize(..=reachable)], "k"));
        // Batches of random size, cancelled at random moments.
        if random.u8(..) < 4
            && let Ok(event) = timeout(Duration::from_micros(random.u64(..3000)), publisher.next()).await
            && let PublisherEvent::Outcomes(outcomes) = event.unwrap()
        {
            told += outcomes.len();
        }
    }
    let rest = outcomes(&mut publisher, usize::try_from(COUNT).unwrap() - told).await;
    assert!(rest.values().all(|outcome| *outcome == Outcome::Confirmed));
    publisher.close().await;
    let expected: Vec<String> = (0..COUNT).map(|number| format!("{{\"n\":{number}}}")).collect();
    assert!(drained(&channel, &prefix).await == expected, "out of order, lost or twice");
}

#[tokio::test]
async fn every_return_belongs_to_the_message_that_was_returned() {
    let broker = Broker::shared().await;
    let (_connection, channel) = broker.channel().await;
    let prefix = unique("returns");
    exchange(&channel, &prefix, ExchangeKind::Topic).await;
    // Two quorum queues and a classic one confirm at different times, so confirms arrive out of order.
    for (key, arguments) in [("a", vec![quorum()]), ("b", vec![quorum()]), ("c", vec![])] {
        let queue_name = format!("{prefix}.{key}");
        queue(&channel, &queue_name, &arguments).await;
        bind(&channel, &queue_name, &prefix, key).await;
    }
    let mut publisher = broker.publisher(&broker.options()).await;
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut first = 0;
    for round in 0..6 {
        let share = [1, 10, 30, 50, 90, 100][round];
        let keys: Vec<&str> = (0..1500)
            .map(|_| if random.u8(..100) < share { "nowhere" } else { ["a", "b", "c"][random.usize(..3)] })
            .collect();
        for (number, key) in (first..).zip(&keys) {
            publisher.publish(PublishTag(number), message(number, &prefix, key));
        }
        let outcomes = outcomes(&mut publisher, keys.len()).await;
        for (number, key) in (first..).zip(&keys) {
            match (&outcomes[&number], *key) {
                (Outcome::Returned { reply_code: 312, .. }, "nowhere") => {}
                (Outcome::Confirmed, "a" | "b" | "c") => {}
                (outcome, key) => panic!("{number} with key {key}: {outcome:?}"),
            }
        }
        first += keys.len() as u64;
    }
    publisher.close().await;
}

#[tokio::test]
async fn a_full_queue_that_rejects_is_a_nack() {
    let broker = Broker::shared().await;
    let (_connection, channel) = broker.channel().await;
    let prefix = unique("full");
    queue(
        &channel,
        &prefix,
        &[
            ("x-max-length", AMQPValue::LongLongInt(10)),
            ("x-overflow", AMQPValue::LongString("reject-publish".into())),
        ],
    )
    .await;
    let mut publisher = broker.publisher(&broker.options()).await;
    for number in 0..100 {
        // The default exchange: never declared, routes by queue name.
        publisher.publish(
            PublishTag(number),
            message(number, "", if number % 4 == 3 { "nowhere" } else { &prefix }),
        );
    }
    let outcomes = outcomes(&mut publisher, 100).await;
    let stored = drained(&channel, &prefix).await;
    for (number, outcome) in outcomes {
        let expected = match number % 4 {
            3 => matches!(outcome, Outcome::Returned { .. }),
            _ if stored.contains(&format!("{{\"n\":{number}}}")) => outcome == Outcome::Confirmed,
            _ => outcome == Outcome::Nacked,
        };
        assert!(expected, "{number}: {outcome:?}");
    }
    assert_eq!(stored.len(), 10);
}

#[tokio::test]
async fn a_message_arrives_as_the_contract_says() {
    let broker = Broker::shared().await;
    let (_connection, channel) = broker.channel().await;
    let queue_name = unique("contract");
    queue(&channel, &queue_name, &[]).await;
    let mut publisher = broker.publisher(&broker.options()).await;
    let mut large = (*message(7, "", &queue_name)).clone();
    large.body = vec![b'x'; 300_000].into();
    publisher.publish(PublishTag(1), message(6, "", &queue_name));
    publisher.publish(PublishTag(2), Arc::new(large));
    outcomes(&mut publisher, 2).await;
    let got = channel.basic_get(name(&queue_name), BasicGetOptions::default()).await.unwrap().unwrap();
    let properties = &got.delivery.properties;
    assert_eq!(got.delivery.data, b"{\"n\":6}");
    assert_eq!(*properties.delivery_mode(), Some(2));
    assert_eq!(*properties.timestamp(), Some(1_700_000_000));
    assert_eq!(properties.app_id(), &Some("outboxd".into()));
    assert_eq!(properties.message_id(), &Some("id-6".into()));
    let headers = properties.headers().as_ref().unwrap().inner();
    assert_eq!(headers["outbox-position"], AMQPValue::LongString("0000000000001002-00000000".into()));
    assert_eq!(headers["number"], AMQPValue::LongLongInt(6));
    let got = channel.basic_get(name(&queue_name), BasicGetOptions::default()).await.unwrap().unwrap();
    assert_eq!(got.delivery.data.len(), 300_000, "a body of many frames");
}

#[tokio::test]
async fn headers_fit_up_to_the_limit_and_are_refused_above_it() {
    /// Frame size negotiated with RabbitMQ.
    const HEADER_FRAME_MAX: usize = 32 << 10;
    let broker = Broker::shared().await;
    let (_connection, channel) = broker.channel().await;
    let queue_name = unique("headers");
    queue(&channel, &queue_name, &[]).await;
    let with_size = |size: usize| {
        let mut message = (*message(1, "", &queue_name)).clone();
        message.headers.push(("filler".into(), HeaderValue::Text(String::new())));
        let text = "x".repeat(size - message.header_frame_bytes());
        message.headers.pop();
        message.headers.push(("filler".into(), HeaderValue::Text(text)));
        assert_eq!(message.header_frame_bytes(), size);
        Arc::new(message)
    };
    let mut publisher = broker.publisher(&broker.options()).await;
    publisher.publish(PublishTag(1), with_size(HEADER_FRAME_MAX));
    assert_eq!(outcomes(&mut publisher, 1).await[&1], Outcome::Confirmed);
    publisher.publish(PublishTag(2), with_size(HEADER_FRAME_MAX + 1));
    let error = error(&mut publisher).await;
    assert!(matches!(error, BrokerError::Unsendable { .. }), "{error}");
}

#[tokio::test]
async fn an_exchange_of_another_type_is_named_with_a_cure() {
    let broker = Broker::shared().await;
    let (_connection, channel) = broker.channel().await;
    let (taken, good) = (unique("taken"), unique("good"));
    exchange(&channel, &taken, ExchangeKind::Fanout).await;
    let mut publisher = broker.publisher(&broker.options()).await;
    for number in 0..500 {
        publisher.publish(PublishTag(number), message(number, &good, "k"));
    }
    publisher.publish(PublishTag(500), message(500, &taken, "k"));
    // The refusal may come before outcomes of earlier messages. These still arrive, and nothing is sent again.
    let (mut outcomes, mut refused) = (Vec::new(), None);
    while outcomes.len() < 500 || refused.is_none() {
        match next(&mut publisher).await.unwrap() {
            PublisherEvent::Outcomes(told) => outcomes.extend(told),
            PublisherEvent::ExchangeRefused { refused: Refused::Exchange(error), unsent } => {
                assert_eq!(unsent, [PublishTag(500)]);
                refused = Some(error);
            }
            other => panic!("{other:?}"),
        }
    }
    let are_in_order = outcomes.iter().map(|(tag, _)| tag.0).eq(0..500);
    assert!(are_in_order, "each once: {outcomes:?}");
    assert!(
        outcomes.iter().all(|(_, outcome)| matches!(outcome, Outcome::Returned { .. })),
        "nothing is bound"
    );
    let failure = refused.unwrap();
    assert_eq!(failure.reason, Reason::Different);
    let cure = cures::of_declare(&failure);
    assert!(failure.to_string().contains(&taken) && cure.contains("message.exchange"), "{failure}; {cure}");
    // The connection still works.
    publisher.publish(PublishTag(501), message(501, &good, "k"));
    assert!(matches!(next(&mut publisher).await.unwrap(), PublisherEvent::Outcomes(_)));

    // With declare = false the exchange is used as it is.
    let mut publisher =
        broker.publisher(&broker.options_with(|options| options.topology.declare = false)).await;
    publisher.publish(PublishTag(1), message(1, &taken, "k"));
    publisher.publish(PublishTag(2), message(2, &unique("missing"), "k"));
    publisher.publish(PublishTag(3), message(3, &taken, "k"));
    let failure = exchange_refused(&mut publisher, &[2, 3]).await;
    assert_eq!(failure.reason, Reason::Missing, "{failure}");
}

/// The refusal of an exchange, which must name these messages as unsent. Outcomes of earlier messages may come first.
async fn exchange_refused(publisher: &mut Publisher, unsent: &[u64]) -> DeclareError {
    loop {
        match next(publisher).await.unwrap() {
            PublisherEvent::Outcomes(_) => {}
            PublisherEvent::ExchangeRefused { refused: Refused::Exchange(error), unsent: given_back } => {
                assert_eq!(given_back, unsent.iter().copied().map(PublishTag).collect::<Vec<_>>());
                return error;
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn an_exchange_deleted_under_way_costs_the_channel_or_with_its_bindings_the_connection() {
    let broker = Broker::shared().await;
    let (_connection, channel) = broker.channel().await;
    let exchange_name = unique("deleted");
    let mut publisher = broker.publisher(&broker.options()).await;
    publisher.publish(PublishTag(1), message(1, &exchange_name, "k"));
    outcomes(&mut publisher, 1).await;
    channel.exchange_delete(name(&exchange_name), ExchangeDeleteOptions::default()).await.unwrap();
    publisher.publish(PublishTag(2), message(2, &exchange_name, "k"));
    publisher.publish(PublishTag(3), message(3, &exchange_name, "k"));
    match timeout(PATIENCE, publisher.next()).await.unwrap().unwrap() {
        PublisherEvent::ChannelClosed {
            refused: Refused::Publish(Refusal { code: 404, text }),
            sent,
            unsent,
        } => {
            assert!(text.contains(&exchange_name), "{text}");
            assert_eq!([sent, unsent].concat(), [2, 3].map(PublishTag));
        }
        other => panic!("{other:?}"),
    }
    publisher.publish(PublishTag(2), message(2, &exchange_name, "k"));
    publisher.publish(PublishTag(3), message(3, &exchange_name, "k"));
    outcomes(&mut publisher, 2).await;
    publisher.close().await;

    // The bindings of a subscription's exchange are gone with it, and a new connection creates them.
    let subscriptions = vec![subscription(&exchange_name, &exchange_name)];
    let options = broker.options_with(|options| options.topology.subscriptions = subscriptions);
    let mut publisher = broker.publisher(&options).await;
    channel.exchange_delete(name(&exchange_name), ExchangeDeleteOptions::default()).await.unwrap();
    for number in 2..50 {
        publisher.publish(PublishTag(number), message(number, &exchange_name, "k"));
    }
    let failure = error(&mut publisher).await;
    assert!(
        matches!(failure, BrokerError::ChannelClosed { refusal: Refusal { code: 404, .. }, .. }),
        "{failure:?}"
    );
    assert!(failure.to_string().contains(&exchange_name), "{failure}");
}

#[tokio::test]
async fn nobody_listening_bad_login_and_bad_vhost_are_told_apart_and_hide_the_password() {
    let broker = Broker::shared().await;
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let with = options;
    let unreachable = with(format!("amqp://alice:s3cret@{dead}/%2f"));
    let login = with(broker.url_with("guest:guest", "guest:s3cret"));
    let vhost = with(format!("{}-that-is-not-there", broker.url));
    for (options, expected) in
        [(&unreachable, "cannot be reached"), (&login, "refuses the login"), (&vhost, "refuses the vhost")]
    {
        let error = connect_error(options).await;
        let shown = format!("{error} {error:?} {options:?}");
        assert!(shown.contains(expected), "{shown}");
        assert!(!shown.contains("s3cret") && !shown.contains("guest:guest"), "{shown}");
    }
    // All URLs are tried, each time beginning with a different one.
    let urls = [&unreachable, &login].map(|options| options.connection.urls[0].clone());
    let both = broker.options_with(|options| options.connection.urls = urls.into());
    let shown = connect_error(&both).await.to_string();
    assert!(shown.contains("cannot be reached") && shown.contains("refuses the login"), "{shown}");
    let urls = vec![unreachable.connection.urls[0].clone(), broker.url.clone()];
    let working = broker.options_with(|options| options.connection.urls = urls);
    broker.publisher(&working).await.close().await;
}

#[tokio::test]
async fn a_peer_that_accepts_and_says_nothing_is_given_up() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut options = options(format!("amqp://{}/%2f", listener.local_addr().unwrap()));
    options.connection.connect_timeout = Duration::from_millis(300);
    let begun = Instant::now();
    assert!(matches!(connect_error(&options).await, BrokerError::TimedOut { .. }));
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn subscriptions_are_declared_and_declared_again() {
    let broker = Broker::shared().await;
    let (_connection, channel) = broker.channel().await;
    let prefix = unique("topology");
    let exchange_name = format!("{prefix}.events");
    let mut plain = subscription(&format!("{prefix}.plain"), &exchange_name);
    plain.queue_type = QueueType::Quorum;
    let mut parts = subscription(&format!("{prefix}.parts"), &exchange_name);
    parts.partitions = 4;
    let mut log = subscription(&format!("{prefix}.log"), &exchange_name);
    log.queue_type = QueueType::Stream;
    let subscriptions = vec![plain, parts, log];
    let options = broker.options_with(|options| options.topology.subscriptions = subscriptions);

    let missing = inspect(&options, "outboxd check", &[], &[]).await;
    assert!(missing.iter().all(|check| matches!(check.finding, Finding::Passed(_))), "{missing:#?}");
    let verify_only = changed(&options, |options| options.topology.declare = false);
    let problems = inspect(&verify_only, "outboxd check", &[], &[]).await;
    let wrong = problems.iter().filter(|check| !matches!(check.finding, Finding::Passed(_))).count();
    assert_eq!(wrong, 10, "2 exchanges, 6 queues, 2 dead letter queues: {problems:#?}");

    broker.publisher(&options).await.close().await;
    let mut publisher = broker.publisher(&options).await;
    for number in 0..400 {
        publisher.publish(PublishTag(number), message(number, &exchange_name, "any.key"));
    }
    let outcomes = outcomes(&mut publisher, 400).await;
    assert!(outcomes.values().all(|outcome| *outcome == Outcome::Confirmed));
    // RabbitMQ refuses basic.get on a quorum queue with a single active consumer.
    let passive = QueueDeclareOptions { passive: true, ..Default::default() };
    let plain = channel
        .queue_declare(name(&format!("{prefix}.plain")), passive, FieldTable::default())
        .await
        .unwrap();
    assert_eq!(plain.message_count(), 400);
    let mut seen = BTreeSet::new();
    let mut used = 0;
    for part in 0..4 {
        let bodies = drained(&channel, &format!("{prefix}.parts-{part}")).await;
        used += usize::from(!bodies.is_empty());
        let aggregates: BTreeSet<u64> = bodies
            .iter()
            .map(|body| body.trim_matches(|c: char| !c.is_ascii_digit()).parse::<u64>().unwrap() % 50)
            .collect();
        assert!(seen.is_disjoint(&aggregates), "an aggregate is in two partitions");
        seen.extend(aggregates);
    }
    assert_eq!(seen.len(), 50);
    assert!(used > 1, "all in one partition");
    for options in [&options, &verify_only] {
        let checks = inspect(options, "outboxd check", &[], &[]).await;
        assert!(checks.iter().all(|check| matches!(check.finding, Finding::Passed(_))), "{checks:#?}");
    }
}

#[tokio::test]
async fn a_closed_connection_is_noticed_in_flight_and_when_idle() {
    let (broker, _alone) = Broker::alone().await;
    let mut busy = broker.publisher(&broker.options()).await;
    let mut idle = broker.publisher(&broker.options()).await;
    for number in 0..2000 {
        busy.publish(PublishTag(number), message(number, "", "nowhere"));
    }
    let killing = broker.node.ctl(&["close_all_connections", "--global", "operator says so"]);
    let (_, busy, idle) = tokio::join!(killing, error(&mut busy), error(&mut idle));
    for error in [busy, idle] {
        assert!(
            matches!(error, BrokerError::ConnectionClosed { refusal: Refusal { code: 320, .. }, .. }),
            "{error:?}"
        );
        assert!(error.to_string().contains("operator says so"), "{error}");
    }
}

#[tokio::test]
async fn a_missing_plugin_is_named() {
    let (broker, _alone) = Broker::alone().await;
    let mut parts = subscription(&unique("plugin"), &unique("events"));
    parts.partitions = 2;
    let options = broker.options_with(|options| options.topology.subscriptions = vec![parts]);
    const TYPE: &str = "exchange, <<\"x-consistent-hash\">>";
    broker.node.ctl(&["eval", &format!("rabbit_registry:unregister({TYPE}).")]).await;
    let connected = Publisher::connect(&options, "outboxd test", 0).await;
    let module = "rabbit_exchange_type_consistent_hash";
    broker.node.ctl(&["eval", &format!("rabbit_registry:register({TYPE}, {module}).")]).await;
    let error = connected.err().unwrap();
    assert!(
        matches!(&error, BrokerError::Declare { error, .. } if error.reason == Reason::UnknownExchangeType),
        "{error:?}"
    );
    assert!(
        error.to_string().contains("rabbitmq-plugins enable rabbitmq_consistent_hash_exchange"),
        "{error}"
    );
}

/// Forwards to the broker until the test stalls or cuts the link.
async fn proxy(to: String) -> (u16, tokio::sync::watch::Sender<Link>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, mut link) = tokio::sync::watch::channel(Link::Up);
    tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut server = tokio::net::TcpStream::connect(to).await.unwrap();
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut client, &mut server) => return,
            _ = link.changed() => {}
        }
        if *link.borrow() == Link::Stalled {
            tokio::time::sleep(PATIENCE).await;
        }
    });
    (port, sender)
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Link {
    Up,
    Stalled,
    Cut,
}

#[tokio::test]
async fn a_silent_or_cut_link_is_noticed_in_flight_and_when_idle() {
    let broker = Broker::shared().await;
    let address = broker.url.split_once('@').unwrap().1.split_once('/').unwrap().0.to_owned();
    for link in [Link::Stalled, Link::Cut] {
        for in_flight in [false, true] {
            let (port, sender) = proxy(address.clone()).await;
            let mut options = options(broker.url_with(&address, &format!("127.0.0.1:{port}")));
            options.connection.heartbeat = Duration::from_secs(1);
            let mut publisher = broker.publisher(&options).await;
            publisher.publish(PublishTag(1), message(1, "", "nowhere"));
            outcomes(&mut publisher, 1).await;
            sender.send(link).unwrap();
            if in_flight {
                publisher.publish(PublishTag(2), message(2, "", "nowhere"));
            }
            let begun = Instant::now();
            let failure = error(&mut publisher).await;
            assert!(matches!(failure, BrokerError::Lost { .. }), "{failure:?}");
            assert!(begun.elapsed() < Duration::from_secs(10), "{link:?}: {:?}", begun.elapsed());
            // The publisher repeats its error.
            assert_eq!(error(&mut publisher).await.to_string(), failure.to_string());
        }
    }
}

#[tokio::test]
async fn a_blocked_connection_says_so_and_goes_on_by_itself() {
    let (broker, _alone) = Broker::alone().await;
    let mut publisher = broker.publisher(&broker.options()).await;
    broker.node.block().await;
    for number in 0..5 {
        publisher.publish(PublishTag(number), message(number, &unique("blocked"), "k"));
    }
    let mut told = 0;
    let blocked = loop {
        match next(&mut publisher).await.unwrap() {
            PublisherEvent::Blocked { reason } => break reason,
            PublisherEvent::Outcomes(outcomes) => told += outcomes.len(),
            event => panic!("{event:?}"),
        }
    };
    assert!(!blocked.is_empty());
    // No further event comes, not even for a declaration, and waiting can be cancelled at any time.
    for number in 5..10 {
        publisher.publish(PublishTag(number), message(number, &unique("blocked"), "k"));
    }
    let quiet = timeout(Duration::from_secs(1), publisher.next()).await;
    broker.node.unblock().await;
    assert!(quiet.is_err(), "{quiet:?}");
    let mut unblocked = false;
    while told < 10 {
        match next(&mut publisher).await.unwrap() {
            PublisherEvent::Unblocked => unblocked = true,
            PublisherEvent::Outcomes(outcomes) => told += outcomes.len(),
            event => panic!("{event:?}"),
        }
    }
    assert!(unblocked);
}

#[tokio::test]
async fn tls_verifies_the_server_and_shows_the_client_certificate() {
    let (broker, _alone) = Broker::alone().await;
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let (certificate, key) = broker.authority().await.issue("client", &[]);
    for (file, text) in [
        ("ca.pem", broker.authority().await.certificate()),
        ("client.pem", &certificate),
        ("client.key", &key),
    ] {
        std::fs::write(dir.join(file), text).unwrap();
    }
    let url = format!("amqps://guest:guest@localhost:{}/%2f", broker.node.tls_port());
    let client_cert = Some((dir.join("client.pem"), dir.join("client.key")));
    let mut good = options(url.clone());
    good.connection.ca_file = Some(dir.join("ca.pem"));
    good.connection.client_cert = client_cert;
    let good = good;
    let mut publisher = broker.publisher(&good).await;
    publisher.publish(PublishTag(1), message(1, "", "nowhere"));
    outcomes(&mut publisher, 1).await;
    publisher.close().await;

    let unknown_ca = changed(&good, |options| options.connection.ca_file = None);
    let at = |url: String| changed(&good, |options| options.connection.urls = vec![url]);
    let (other_name, plain) =
        (at(url.replace("localhost", "127.0.0.1")), at(broker.url.replace("amqp://", "amqps://")));
    for (options, what) in [(unknown_ca, "CA"), (other_name, "name"), (plain, "no TLS")] {
        let error = connect_error(&options).await;
        assert!(matches!(error, BrokerError::Tls { .. } | BrokerError::Certificates(_)), "{what}: {error:?}");
    }
    // In TLS 1.3 the broker refuses the client after the handshake.
    let no_identity = changed(&good, |options| options.connection.client_cert = None);
    let error = connect_error(&no_identity).await;
    assert!(matches!(error, BrokerError::Tls { .. } | BrokerError::Handshake { .. }), "{error:?}");
}
