//! A fence: of all connections that ask for it one has it at a time, and only that one publishes.
//!
//! It is an exclusive queue to which nothing is ever published. RabbitMQ keeps such a queue for as long as it keeps the
//! connection that declared it, and answers everybody else with 405 RESOURCE_LOCKED (AMQP 0-9-1 reference, queue.declare
//! "exclusive"; <https://www.rabbitmq.com/docs/queues#exclusive-queues>). So whoever gets it knows that the connection of
//! the one before is gone, and with it every frame that a frozen process, a kernel or a network may still hold.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use lapin::{
    Connection,
    options::QueueDeclareOptions,
    types::{AMQPValue, FieldTable},
};

use super::{
    error::{DeclareError, protocol_error, reply},
    topology::{Failure, short},
};

/// How often a fence that another connection has is asked for. Each time the broker logs a channel that failed.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);

/// What became of asking for a fence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fence {
    /// It is ours until the connection ends: nobody else publishes.
    Held,
    /// Another connection has it. It is asked for again, until one of the other two is told.
    Busy {
        /// The broker's own words, which name the queue.
        text: String,
    },
    /// The user has no right to configure the queue, so there is no fence.
    Denied {
        /// The broker's own words, which name the queue and the user.
        text: String,
    },
}

/// A fence that is being asked for.
pub(super) struct Asking {
    connection: Arc<Connection>,
    queue: String,
    declared: BoxFuture<'static, lapin::Result<()>>,
    told_busy: bool,
}

impl Asking {
    pub(super) fn new(connection: Arc<Connection>, queue: &str) -> Self {
        let queue = queue.to_owned();
        let declared = declare(connection.clone(), queue.clone()).boxed();
        Self { connection, queue, declared, told_busy: false }
    }

    /// Asks, and asks again while the fence is another's, which is told once. To be dropped after any other answer.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Fence, Failure>> {
        loop {
            let Poll::Ready(declared) = self.declared.poll_unpin(cx) else { return Poll::Pending };
            let Err(error) = declared else { return Poll::Ready(Ok(Fence::Held)) };
            let (code, text) = match protocol_error(&error) {
                Some(refusal) => (refusal.get_id(), refusal.get_message().to_string()),
                None => return Poll::Ready(Err(Failure::Connection(error))),
            };
            match code {
                reply::RESOURCE_LOCKED => {
                    let (connection, queue) = (self.connection.clone(), self.queue.clone());
                    self.declared = async move {
                        tokio::time::sleep(RETRY_INTERVAL).await;
                        declare(connection, queue).await
                    }
                    .boxed();
                    if !std::mem::replace(&mut self.told_busy, true) {
                        return Poll::Ready(Ok(Fence::Busy { text }));
                    }
                }
                reply::ACCESS_REFUSED => return Poll::Ready(Ok(Fence::Denied { text })),
                _ => {
                    let object = format!("queue '{}'", self.queue);
                    return Poll::Ready(Err(match DeclareError::new(object, &error) {
                        Some(refused) => Failure::Declare(refused),
                        None => Failure::Connection(error),
                    }));
                }
            }
        }
    }
}

/// On a channel of its own, as a refusal closes it. Classic, whatever the virtual host's default is: no other type can
/// be exclusive.
pub(super) async fn declare(connection: Arc<Connection>, queue: String) -> lapin::Result<()> {
    let channel = connection.create_channel().await?;
    let options = QueueDeclareOptions { exclusive: true, ..Default::default() };
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("classic".into()));
    channel.queue_declare(short(&queue)?, options, arguments).await?;
    // The queue belongs to the connection, not to the channel; one that cannot be closed is closed with the connection.
    let _ = channel.close(200, "OK".into()).await;
    Ok(())
}
