//! Direct access to the broker: messages that no relay publishes, and the content of queues.

use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties,
    message::BasicGetMessage,
    options::{BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};

/// Message to publish directly.
#[derive(Clone, Debug)]
pub(crate) struct ByHand<'a> {
    pub(crate) id: Option<&'a str>,
    pub(crate) event_type: Option<&'a str>,
    pub(crate) body: &'a [u8],
}

async fn channel(url: &str) -> (Connection, Channel) {
    let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    (connection, channel)
}

/// Publishes to a queue directly and waits for the confirm.
pub(crate) async fn publish(url: &str, queue: &str, message: ByHand<'_>) {
    let mut headers = FieldTable::default();
    headers.insert("by".into(), AMQPValue::LongString("hand".into()));
    let mut properties = BasicProperties::default().with_headers(headers);
    if let Some(id) = message.id {
        properties = properties.with_message_id(id.into());
    }
    if let Some(event_type) = message.event_type {
        properties = properties.with_type(event_type.into());
    }
    publish_as(url, queue, properties, message.body).await;
}

/// As [`publish`], with the test's own properties.
pub(crate) async fn publish_as(url: &str, queue: &str, properties: BasicProperties, body: &[u8]) {
    let (connection, channel) = channel(url).await;
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    let options = BasicPublishOptions { mandatory: true, ..Default::default() };
    let published = channel.basic_publish("".into(), queue.into(), options, body, properties).await;
    assert_eq!(published.unwrap().await.unwrap(), Confirmation::Ack(None));
    connection.close(200, "published".into()).await.unwrap();
}

/// Removes the first message from a queue, if there is one.
pub(crate) async fn take(url: &str, queue: &str) -> Option<BasicGetMessage> {
    let (_connection, channel) = channel(url).await;
    channel.basic_get(queue.into(), BasicGetOptions { no_ack: true }).await.unwrap()
}

/// Declares a durable queue with these arguments, as an older version did.
pub(crate) async fn declare(url: &str, queue: &str, arguments: &[(&str, AMQPValue)]) {
    let (_connection, channel) = channel(url).await;
    let mut table = FieldTable::default();
    for (name, value) in arguments {
        table.insert((*name).into(), value.clone());
    }
    let options = QueueDeclareOptions { durable: true, ..Default::default() };
    channel.queue_declare(queue.into(), options, table).await.unwrap();
}

/// Returns the number of waiting messages, without those sent to a consumer.
pub(crate) async fn waiting(url: &str, queue: &str) -> u32 {
    let (_connection, channel) = channel(url).await;
    let options = QueueDeclareOptions { passive: true, ..Default::default() };
    channel.queue_declare(queue.into(), options, FieldTable::default()).await.unwrap().message_count()
}

/// Returns headers of slightly more than this many bytes.
pub(crate) fn large_headers(bytes: usize) -> FieldTable {
    let mut headers = FieldTable::default();
    for number in 0..bytes / 100 {
        headers.insert(format!("h{number}").as_str().into(), AMQPValue::LongString("x".repeat(100).into()));
    }
    headers
}

/// Returns headers with this one.
pub(crate) fn text_header(name: &str, text: &str) -> FieldTable {
    let mut headers = FieldTable::default();
    headers.insert(name.into(), AMQPValue::LongString(text.into()));
    headers
}

/// Returns a header's text.
pub(crate) fn header(message: &BasicGetMessage, name: &str) -> Option<String> {
    let headers = message.delivery.properties.headers().as_ref()?;
    headers.inner().get(name)?.as_long_string().map(ToString::to_string)
}
