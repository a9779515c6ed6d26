//! Consumer of a queue that exists as long as its connection: exclusive, deleted at the end.
//!
//! Nothing is kept for it. Messages that are published while it is away do not arrive later.

use amqp_publisher::{
    ConnectionOptions, Topology,
    topology::{Exchange, QueueType},
};
use lapin::{
    options::{QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};

use super::{
    ConsumerError, Delivery, declare,
    session::{Line, Session},
};

/// Messages that the queue holds at most. RabbitMQ drops the oldest beyond it. The consumer acknowledges at once, so
/// only one that hangs gets there.
const LENGTH_MAX: u32 = 10_000;

/// Broker and queue of a transient consumer.
#[derive(Clone, Debug)]
pub struct TransientOptions {
    /// Brokers to try, and how to connect to one of them.
    pub connection: ConnectionOptions,
    /// Set to declare the exchanges, as durable topics. Otherwise their existence is verified. The queue is always
    /// declared.
    pub declare: bool,
    /// Name of the queue, which no other connection uses.
    pub queue: String,
    /// Sources of its messages.
    pub bindings: Vec<Binding>,
    /// Most unacknowledged messages.
    pub prefetch: u16,
}

/// Exchange with the keys that bind a queue to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// A durable topic.
    pub exchange: String,
    /// Binding keys.
    pub keys: Vec<String>,
}

/// Connection that consumes a queue of its own.
pub struct TransientConsumer {
    session: Session,
}

impl TransientConsumer {
    /// Connects, declares the queue with its bindings, and starts consuming. `attempt` selects the first URL.
    /// RabbitMQ's management shows `name`.
    ///
    /// # Errors
    ///
    /// [`ConsumerError`] when the broker cannot be reached or refuses.
    pub async fn connect(
        options: &TransientOptions,
        name: &str,
        attempt: usize,
    ) -> Result<Self, ConsumerError> {
        let topology = Topology {
            declare: options.declare,
            exchanges: options.bindings.iter().map(|binding| topic(&binding.exchange)).collect(),
            ..Topology::default()
        };
        let at = declare(&options.connection, &topology, name, attempt).await?;
        let line = Line::open(&options.connection, at, name, options.prefetch).await?;
        let queue = line.short(&options.queue)?;
        let how = QueueDeclareOptions { exclusive: true, auto_delete: true, ..Default::default() };
        let mut arguments = FieldTable::default();
        // A virtual host's default type may be one that cannot be exclusive.
        arguments.insert("x-queue-type".into(), AMQPValue::LongString(QueueType::Classic.name().into()));
        arguments.insert("x-max-length".into(), AMQPValue::LongUInt(LENGTH_MAX));
        line.answered(line.channel.queue_declare(queue.clone(), how, arguments)).await?;
        for Binding { exchange, keys } in &options.bindings {
            for key in keys {
                let binding = line.channel.queue_bind(
                    queue.clone(),
                    line.short(exchange)?,
                    line.short(key)?,
                    QueueBindOptions::default(),
                    FieldTable::default(),
                );
                line.answered(binding).await?;
            }
        }
        Ok(Self { session: line.consume(queue).await? })
    }

    /// Returns the next message. Cancel-safe.
    ///
    /// # Errors
    ///
    /// [`ConsumerError`] when the connection is lost, or the broker ends the consumer.
    pub async fn next(&mut self) -> Result<Delivery, ConsumerError> {
        self.session.next().await
    }

    /// Acknowledges a message.
    ///
    /// # Errors
    ///
    /// [`ConsumerError`] when the connection is lost.
    pub async fn ack(&self, delivery: &Delivery) -> Result<(), ConsumerError> {
        self.session.ack(delivery).await
    }

    /// Closes the connection in order. The queue is deleted.
    pub async fn close(self) {
        self.session.close().await;
    }
}

fn topic(name: &str) -> Exchange {
    Exchange {
        name: name.to_owned(),
        kind: "topic".to_owned(),
        durable: true,
        mandatory: true,
        arguments: Vec::new(),
    }
}
