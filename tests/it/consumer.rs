//! The services' consumer beside the publisher: what both need of a broker.

use amqp_publisher::{
    BrokerError, PublisherOptions,
    publisher::{Outcome, PublishTag, Publisher},
    topology::Subscription,
};
use chassis::consumer::{Consumer, ConsumerError, ConsumerOptions};
use tokio::time::timeout;

use crate::{
    broker::{Broker, message, options, outcomes, subscription, unique},
    stage::PATIENCE,
};

/// Options of a service's consumer on the queue of a subscription.
fn consumer(options: &PublisherOptions, subscription: &Subscription) -> ConsumerOptions {
    ConsumerOptions {
        connection: options.connection.clone(),
        declare: true,
        exchange: None,
        subscription: subscription.clone(),
        prefetch: 1,
    }
}

#[tokio::test]
async fn too_few_channels_are_refused_by_name() {
    let (broker, _alone) = Broker::alone().await;
    let set = async |channels: u16| {
        broker.node.ctl(&["eval", &format!("application:set_env(rabbit, channel_max, {channels}).")]).await
    };
    let queue = unique("channels");
    let mut seen = Vec::new();
    for channels in [1, 2, 3] {
        set(channels).await;
        let published = Publisher::connect(&broker.options(), "outboxd test", 0).await.map(drop);
        let subscription = subscription(&queue, &unique("events"));
        let consumed =
            Consumer::connect(&consumer(&broker.options(), &subscription), "a service", 0).await.map(drop);
        let consumed = consumed.map_err(|error| match error {
            ConsumerError::Broker(error) => error,
            error => panic!("{error}"),
        });
        seen.push((channels, published, consumed));
    }
    set(2047).await;
    for (channels, published, consumed) in seen {
        for result in [published, consumed] {
            match result {
                Ok(()) => assert_eq!(channels, 3),
                Err(error @ BrokerError::TooFewChannels { .. }) => {
                    assert!(channels < 3 && error.to_string().contains("raise channel_max"), "{error}");
                }
                Err(error) => panic!("{channels}: {error}"),
            }
        }
    }
}

#[tokio::test]
async fn an_ipv6_address_will_do_for_publisher_and_consumer() {
    let broker = Broker::shared().await;
    let Ok(listener) = tokio::net::TcpListener::bind("[::1]:0").await else {
        println!("this machine has no IPv6");
        return;
    };
    let address = broker.url.split_once('@').unwrap().1.split_once('/').unwrap().0.to_owned();
    let url = broker.url_with(&address, &listener.local_addr().unwrap().to_string());
    assert!(url.contains("@[::1]:"), "{url}");
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut server = tokio::net::TcpStream::connect(&address).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut server).await });
        }
    });
    let options = options(url);
    let subscription = subscription(&unique("ipv6"), &unique("events"));
    let consuming = consumer(&options, &subscription);
    let mut consumer = Consumer::connect(&consuming, "a service", 0).await.unwrap();
    let mut publisher = broker.publisher(&options).await;
    publisher.publish(PublishTag(1), message(1, &subscription.exchange, "k"));
    assert_eq!(outcomes(&mut publisher, 1).await[&1], Outcome::Confirmed);
    timeout(PATIENCE, consumer.next()).await.unwrap().unwrap();
}
