//! Messages that a broker accepted, by its own trace: the firehose (<https://www.rabbitmq.com/docs/firehose>) copies every
//! accepted publish, with connection and user.

use std::{
    sync::{Arc, Mutex},
    time::Instant,
};

use futures_util::StreamExt;
use lapin::{
    Connection, ConnectionProperties,
    message::Delivery,
    options::{BasicConsumeOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};

use testkit::RabbitMq;

/// A publish that the broker accepted.
#[derive(Clone, Debug)]
pub(crate) struct Accepted {
    pub(crate) user: String,
    pub(crate) connection: String,
    pub(crate) at: Instant,
}

/// Publishes of one connection without another connection's in between.
#[derive(Debug)]
pub(crate) struct Turn {
    pub(crate) user: String,
    pub(crate) connection: String,
    pub(crate) messages: usize,
    pub(crate) began: Instant,
}

/// All publishes in a virtual host from now on.
pub(crate) struct Trace {
    accepted: Arc<Mutex<Vec<Accepted>>>,
    _connection: Connection,
}

impl Trace {
    pub(crate) async fn start(broker: &RabbitMq, vhost: &str) -> Self {
        broker.ctl(&["trace_on", "-p", vhost]).await;
        let url = broker.url(vhost);
        let connection = Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        let options = QueueDeclareOptions { exclusive: true, ..Default::default() };
        let queue = channel.queue_declare("".into(), options, FieldTable::default()).await.unwrap();
        let name = queue.name().clone();
        let options = QueueBindOptions::default();
        channel
            .queue_bind(
                name.clone(),
                "amq.rabbitmq.trace".into(),
                "publish.#".into(),
                options,
                FieldTable::default(),
            )
            .await
            .unwrap();
        let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
        let mut copies =
            channel.basic_consume(name, "".into(), options, FieldTable::default()).await.unwrap();
        let accepted: Arc<Mutex<Vec<Accepted>>> = Arc::default();
        let seen = accepted.clone();
        tokio::spawn(async move {
            while let Some(Ok(copy)) = copies.next().await {
                let (user, connection) = (header(&copy, "user"), header(&copy, "connection"));
                seen.lock().unwrap().push(Accepted { user, connection, at: Instant::now() });
            }
        });
        Self { accepted, _connection: connection }
    }

    /// Turns of the publishing connections, in order.
    pub(crate) fn turns(&self) -> Vec<Turn> {
        let mut turns: Vec<Turn> = Vec::new();
        for Accepted { user, connection, at } in self.accepted.lock().unwrap().iter().cloned() {
            match turns.last_mut() {
                Some(turn) if turn.connection == connection => turn.messages += 1,
                _ => turns.push(Turn { user, connection, messages: 1, began: at }),
            }
        }
        turns
    }

    /// Number of turns of connections that had published before.
    pub(crate) fn overlaps(&self) -> usize {
        let turns = self.turns();
        let again = |(number, turn): &(usize, &Turn)| {
            turns[..*number].iter().any(|before| before.connection == turn.connection)
        };
        turns.iter().enumerate().filter(again).count()
    }

    /// Panics unless every connection published in a single turn.
    #[track_caller]
    pub(crate) fn assert_one_at_a_time(&self) {
        let turns = self.turns();
        println!("{turns:#?}");
        assert!(turns.len() > 1, "nobody took over: {turns:#?}");
        assert_eq!(self.overlaps(), 0, "two published at the same time: {turns:#?}");
    }
}

fn header(copy: &Delivery, name: &str) -> String {
    let headers = copy.properties.headers().as_ref();
    match headers.and_then(|headers| headers.inner().get(name)) {
        Some(AMQPValue::LongString(text)) => text.to_string(),
        other => panic!("the trace has no header {name}: {other:?}"),
    }
}
