//! The exclusive queue of a publisher: nobody else can consume from it, anybody can publish into it.

use std::time::Duration;

use hyper::Method;

use crate::stage::Stage;
use testkit::{
    RawPublisher,
    raw_amqp::{HEADERS, MESSAGE_ID, array, arrays, properties, short, table, tables, text},
    shared_rabbitmq,
};

/// Rounds of publishing, 20 messages a second.
const ROUNDS: usize = 20;

async fn queue_of(stage: &Stage) -> String {
    let path = format!("/api/queues/{}", stage.name);
    let queues = shared_rabbitmq().await.api(Method::GET, &path, ().into()).await;
    let names = queues.as_array().unwrap().iter().filter_map(|queue| queue["name"].as_str());
    let mut names = names.filter(|name| name.starts_with("outboxd.publisher."));
    names.next().expect("the publisher has its queue").to_owned()
}

/// Properties that a client library cannot parse, with their routing keys.
fn hostile(queue: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
    let headers = |name: &[u8], value: Vec<u8>| properties(HEADERS, &[&table(&[(name, value)])]);
    let to_queue = |properties| (queue.as_bytes().to_vec(), properties);
    vec![
        to_queue(headers(b"n", arrays(1281))),
        to_queue(headers(b"n", arrays(25_000))),
        to_queue(headers(b"n", tables(1000))),
        to_queue(headers(b"\xff\xfe", text(b"x"))),
        to_queue(properties(MESSAGE_ID, &[&short(b"\xff")])),
        // Larger than outboxd's frames, unless it negotiates larger ones.
        to_queue(headers(b"n", text(&[b'x'; 100_000]))),
        (b"\xff\xfe".to_vec(), headers(b"CC", array(&text(queue.as_bytes())))),
        to_queue(properties(0, &[])),
    ]
}

async fn harms_nobody(test: &str, url_parameters: &str) {
    let mut stage = Stage::shared(test).await;
    stage.consume().await;
    let url = stage.amqp_url.clone();
    stage.amqp_url = format!("{url}{url_parameters}");
    let daemon = stage.relay().await;
    stage.amqp_url = url;
    let queue = queue_of(&stage).await;
    let mut anybody = RawPublisher::connect(&stage.amqp_url).await;
    let writing = stage.keep_writing();
    let mut probes = 0;
    for _ in 0..ROUNDS {
        for (routing_key, properties) in hostile(&queue) {
            anybody.publish("", &routing_key, &properties, &vec![b'{'; 20_000]).await;
            let (status, reason) = daemon.readyz().await;
            assert_eq!(status, 200, "after {probes} probes: {reason}");
            probes += 1;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    writing.stop().await;
    stage.verdict().await.assert_delivered(0);
    assert_eq!(daemon.reconnects("orders", "rabbitmq").await, 0);
    println!("{probes} probes, all of them ready; peak memory {} MB", daemon.memory_peak_mb());
    assert!(daemon.memory_peak_mb() < 100, "{} MB", daemon.memory_peak_mb());
}

#[tokio::test]
async fn what_anybody_publishes_into_it_costs_neither_readiness_nor_a_duplicate() {
    harms_nobody("fence_visited", "").await;
}

#[tokio::test]
async fn what_anybody_publishes_into_it_harms_nobody_with_long_frames() {
    harms_nobody("fence_long_frames", "?frame_max=131072").await;
}
