//! AsyncAPI 3.0 document: channels, and an operation for each message that a service sends or receives.

use serde_json::{Map, Value, json};

use super::message::MessageType;

/// What every channel's messages have, whatever their type.
const OF_EVERY_MESSAGE: &str = "Messages travel over RabbitMQ. A channel is an exchange, and the routing key is the message's name. \
    Each message has the AMQP properties `message_id` (the same in every copy), `type` (its name), `content_type` and `timestamp` \
    (its commit). Delivery is at least once, in the commit order of each aggregate. A reader ignores fields that it does not know.";

/// Messages that a service sends and receives.
#[derive(Clone, Debug, Default)]
pub struct Description {
    known: Vec<MessageType>,
    operations: Vec<Operation>,
}

/// Operation on one message type.
#[derive(Clone, Debug)]
struct Operation {
    action: Action,
    channel: String,
    message: String,
    /// Queue from which the message is consumed.
    queue: Option<String>,
    /// Replies to a command that is sent. Those to a command that is received stand in its message type.
    replies: Option<Replies>,
}

/// Replies to a command.
#[derive(Clone, Debug)]
struct Replies {
    channel: String,
    messages: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Send,
    Receive,
}

impl Action {
    fn name(self) -> &'static str {
        match self {
            Self::Send => "send",
            Self::Receive => "receive",
        }
    }
}

impl Description {
    /// Adds descriptions of message types. Only those that the service sends or receives get into its document.
    pub fn know(&mut self, messages: Vec<MessageType>) {
        self.known.extend(messages);
    }

    /// Adds events that the service sends.
    pub fn send(&mut self, channel: &str, messages: &[&str]) {
        for message in messages {
            self.add(Action::Send, channel, message, None, None);
        }
    }

    /// Adds a command that the service sends, and the replies that it understands.
    pub(crate) fn send_command(
        &mut self,
        channel: &str,
        message: &str,
        reply_channel: &str,
        replies: &[&str],
    ) {
        let messages = replies.iter().map(|&reply| reply.to_owned()).collect();
        let replies = Replies { channel: reply_channel.to_owned(), messages };
        self.add(Action::Send, channel, message, None, Some(replies));
    }

    /// Adds messages that the service receives from a queue.
    pub fn receive(&mut self, channel: &str, messages: &[&str], queue: &str) {
        for message in messages {
            self.add(Action::Receive, channel, message, Some(queue), None);
        }
    }

    fn add(
        &mut self,
        action: Action,
        channel: &str,
        message: &str,
        queue: Option<&str>,
        replies: Option<Replies>,
    ) {
        let (channel, message, queue) = (channel.to_owned(), message.to_owned(), queue.map(str::to_owned));
        self.operations.push(Operation { action, channel, message, queue, replies });
    }

    /// Returns the document of the service `title`.
    pub fn document(&self, title: &str) -> Value {
        let mut parts = Parts::default();
        for operation in &self.operations {
            self.describe(&operation.channel, &operation.message, &mut parts);
            let replies = self.replies(operation);
            if let Some(Replies { channel, messages }) = &replies {
                for message in messages {
                    self.describe(channel, message, &mut parts);
                }
            }
            let id = format!("{}{}", operation.action.name(), operation.message);
            parts.operations.insert(id, operation_object(operation, replies.as_ref()));
        }
        json!({
            "asyncapi": "3.0.0",
            "info": { "title": title, "version": env!("CARGO_PKG_VERSION"), "description": OF_EVERY_MESSAGE },
            "defaultContentType": "application/json",
            "channels": parts.channels,
            "operations": parts.operations,
            "components": { "schemas": parts.schemas },
        })
    }

    fn find(&self, channel: &str, name: &str) -> Option<&MessageType> {
        self.known.iter().find(|message| message.channel() == channel && message.name() == name)
    }

    /// Returns the replies to the operation's message, if it is a command.
    fn replies(&self, operation: &Operation) -> Option<Replies> {
        operation.replies.clone().or_else(|| {
            let command = self.find(&operation.channel, &operation.message)?;
            let messages: Vec<String> = command.replies().iter().map(|&reply| reply.to_owned()).collect();
            let channel = self.known.iter().find(|known| known.answers(command))?.channel().to_owned();
            Some(Replies { channel, messages })
        })
    }

    /// Adds a message, its channel, and the schemas that its payload refers to. A message that is not known gets a name only.
    fn describe(&self, channel: &str, name: &str, parts: &mut Parts) {
        let known = self.find(channel, name);
        let is_point_to_point = known.is_some_and(MessageType::is_point_to_point);
        let entry =
            parts.channels.entry(channel).or_insert_with(|| channel_object(channel, is_point_to_point));
        entry["messages"][name] =
            known.map_or_else(|| json!({ "name": name }), |known| self.message_object(known));
        parts.schemas.extend(known.iter().flat_map(|known| known.schemas().iter().cloned()));
    }

    fn message_object(&self, message: &MessageType) -> Value {
        let mut reply_channels: Vec<&str> =
            self.known.iter().filter(|known| known.answers(message)).map(MessageType::channel).collect();
        reply_channels.dedup();
        message.object(&reply_channels)
    }
}

/// Parts of a document, by name.
#[derive(Debug, Default)]
struct Parts {
    channels: Map<String, Value>,
    operations: Map<String, Value>,
    schemas: Map<String, Value>,
}

fn operation_object(operation: &Operation, replies: Option<&Replies>) -> Value {
    let Operation { action, channel, message, queue, .. } = operation;
    let bindings = match action {
        Action::Send => json!({ "deliveryMode": 2, "mandatory": true, "bindingVersion": "0.3.0" }),
        Action::Receive => json!({ "ack": true, "bindingVersion": "0.3.0" }),
    };
    let mut object = json!({
        "action": action.name(),
        "channel": { "$ref": format!("#/channels/{channel}") },
        "messages": [reference(channel, message)],
        "bindings": { "amqp": bindings },
    });
    if let Some(queue) = queue {
        object["x-queue"] = json!(queue);
    }
    if let Some(Replies { channel, messages }) = replies {
        object["reply"] = json!({
            "channel": { "$ref": format!("#/channels/{channel}") },
            "messages": messages.iter().map(|message| reference(channel, message)).collect::<Vec<Value>>(),
        });
    }
    object
}

fn reference(channel: &str, message: &str) -> Value {
    json!({ "$ref": format!("#/channels/{channel}/messages/{message}") })
}

fn channel_object(name: &str, is_point_to_point: bool) -> Value {
    let (kind, description) = if is_point_to_point {
        ("direct", "Point-to-point channel: one service gets each message, from the queue of the same name")
    } else {
        ("topic", "Events: every queue that is bound gets them")
    };
    json!({
        "address": name,
        "description": description,
        "messages": {},
        "bindings": { "amqp": {
            "is": "routingKey",
            "exchange": { "name": name, "type": kind, "durable": true, "autoDelete": false },
            "bindingVersion": "0.3.0",
        } },
    })
}
