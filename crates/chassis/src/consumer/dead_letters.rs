//! Dead letters of a queue, and their way back.

use amqp_publisher::{Connection as OwnConnection, ConnectionOptions, Endpoint, short_string::short};
use lapin::{
    Channel, Confirmation, Connection,
    options::{BasicAckOptions, BasicGetOptions, ConfirmSelectOptions},
    types::ShortString,
};

use super::{
    ConsumerError,
    connect::{self, answered},
    depth, frame_bytes,
    guard::InHand,
    properties, published,
};

/// Returns the name of a queue's dead-letter queue.
pub fn queue_of(queue: &str) -> String {
    format!("{queue}.dead")
}

/// Connection that puts dead letters back into their queue, the oldest first.
pub struct DeadLetters {
    connection: Connection,
    at: Endpoint,
    channel: Channel,
    queue: ShortString,
    dead: ShortString,
}

impl DeadLetters {
    /// Connects without declaring anything. RabbitMQ's management shows `name`.
    ///
    /// # Errors
    ///
    /// [`ConsumerError`] when the broker cannot be reached or refuses.
    pub async fn open(options: &ConnectionOptions, queue: &str, name: &str) -> Result<Self, ConsumerError> {
        // Reports why the broker refuses this user, which lapin does not.
        let first = OwnConnection::connect(options, name, 0).await?;
        let at = first.at().clone();
        first.close().await;
        // Nothing is delivered here: each message is requested.
        let connection = connect::connect(options, &at, name, 0, &InHand::default()).await?;
        let failed = |source| ConsumerError::after_open(&at, source);
        let channel = answered(connection.create_channel()).await.map_err(failed)?;
        answered(channel.confirm_select(ConfirmSelectOptions::default())).await.map_err(failed)?;
        let dead = short(&queue_of(queue)).map_err(|error| failed(error.into()))?;
        let queue = short(queue).map_err(|error| failed(error.into()))?;
        Ok(Self { connection, at, channel, queue, dead })
    }

    /// Returns the number of dead letters.
    ///
    /// # Errors
    ///
    /// [`ConsumerError`] when the connection is lost or the queue does not exist.
    pub async fn waiting(&self) -> Result<u32, ConsumerError> {
        self.answered(depth(&self.channel, &self.dead)).await
    }

    /// Moves the oldest dead letter to the end of its queue, as it was before. The dead letter is acknowledged once
    /// the broker has confirmed the copy: a failure in between leaves two copies, never none. `false` when there is
    /// none.
    ///
    /// # Errors
    ///
    /// [`ConsumerError`], also when the queue does not accept the copy; the dead letter then stays where it is.
    pub async fn put_back(&self) -> Result<bool, ConsumerError> {
        let get = self.channel.basic_get(self.dead.clone(), BasicGetOptions::default());
        let Some(message) = self.answered(get).await? else { return Ok(false) };
        let properties = properties::put_back(&message.delivery.properties, frame_bytes(&self.connection));
        let copy = published(&self.channel, &self.queue, &message.delivery.data, properties);
        let Confirmation::Ack(None) = self.answered(copy).await? else {
            return Err(ConsumerError::NotBuried { at: self.at.clone(), queue: self.queue.to_string() });
        };
        self.answered(message.delivery.ack(BasicAckOptions::default())).await?;
        Ok(true)
    }

    /// Closes the connection in order.
    pub async fn close(self) {
        connect::close(&self.connection).await;
    }

    async fn answered<T>(&self, answer: impl Future<Output = lapin::Result<T>>) -> Result<T, ConsumerError> {
        answered(answer).await.map_err(|source| ConsumerError::after_open(&self.at, source))
    }
}
