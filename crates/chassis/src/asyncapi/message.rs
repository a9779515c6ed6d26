//! Type of message: channel, name, headers, schema of its payload, and an example.

use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::headers;
use crate::{outbox, saga::Outcome};

/// Type of message that services exchange.
#[derive(Clone, Debug, PartialEq)]
pub struct MessageType {
    channel: String,
    name: &'static str,
    summary: &'static str,
    kind: Kind,
    /// Schema of the payload: an object.
    payload: Value,
    /// Schemas that the payload's schema refers to, by name.
    schemas: Vec<(String, Value)>,
    example: Value,
}

/// Purpose of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Tells what happened.
    Event,
    /// Asks one service to do something. Has the types of the replies.
    Command(&'static [&'static str]),
    /// Answers a command.
    Reply(Outcome),
}

impl MessageType {
    /// Describes an event of an aggregate type. `example` is a real value: its type gives the schema.
    pub fn event<P: ToSchema + Serialize>(
        aggregate_type: &str,
        name: &'static str,
        summary: &'static str,
        example: &P,
    ) -> Self {
        Self::new(&outbox::events_of(aggregate_type), name, summary, Kind::Event, example)
    }

    /// Describes a command and the types of its replies.
    pub fn command<P: ToSchema + Serialize>(
        channel: &str,
        name: &'static str,
        summary: &'static str,
        replies: &'static [&'static str],
        example: &P,
    ) -> Self {
        Self::new(channel, name, summary, Kind::Command(replies), example)
    }

    /// Describes a reply and its meaning.
    pub fn reply<P: ToSchema + Serialize>(
        channel: &str,
        name: &'static str,
        summary: &'static str,
        outcome: Outcome,
        example: &P,
    ) -> Self {
        Self::new(channel, name, summary, Kind::Reply(outcome), example)
    }

    fn new<P: ToSchema + Serialize>(
        channel: &str,
        name: &'static str,
        summary: &'static str,
        kind: Kind,
        example: &P,
    ) -> Self {
        let mut payload = schema_of(&P::schema());
        if let Some(members) = payload.as_object_mut() {
            // The message has a summary of its own, and its type may serve several messages.
            members.remove("description");
        }
        let mut schemas = Vec::new();
        P::schemas(&mut schemas);
        let schemas = schemas.iter().map(|(name, schema)| (name.clone(), schema_of(schema))).collect();
        Self { channel: channel.to_owned(), name, summary, kind, payload, schemas, example: json_of(example) }
    }

    /// States that this message always has the field, which its Rust type makes optional.
    #[must_use]
    pub fn always(mut self, field: &'static str) -> Self {
        if let Some(members) = self.payload.as_object_mut() {
            let required = members.entry("required").or_insert_with(|| json!([]));
            if let Some(required) = required.as_array_mut() {
                required.push(field.into());
            }
        }
        self
    }

    /// States that this message never has the field, which its Rust type makes optional.
    #[must_use]
    pub fn never(mut self, field: &'static str) -> Self {
        if let Some(properties) = self.payload["properties"].as_object_mut() {
            properties.remove(field);
        }
        self
    }

    /// Returns the name: the routing key, and the AMQP property `type`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Returns the channel: the name of an exchange.
    pub fn channel(&self) -> &str {
        &self.channel
    }

    /// Tells whether one service only gets the message.
    pub(super) fn is_point_to_point(&self) -> bool {
        self.kind != Kind::Event
    }

    /// Returns the types of the replies to a command.
    pub(super) fn replies(&self) -> &'static [&'static str] {
        match self.kind {
            Kind::Command(replies) => replies,
            Kind::Event | Kind::Reply(_) => &[],
        }
    }

    /// Tells whether this is one of the replies to `command`.
    pub(super) fn answers(&self, command: &Self) -> bool {
        matches!(self.kind, Kind::Reply(_)) && command.replies().contains(&self.name)
    }

    pub(super) fn schemas(&self) -> &[(String, Value)] {
        &self.schemas
    }

    /// Returns the message object. `reply_channels`: the channels that a command may name for its reply.
    pub(super) fn object(&self, reply_channels: &[&str]) -> Value {
        let headers = headers::of(self.kind, self.name, reply_channels);
        let mut object = json!({
            "name": self.name,
            "summary": self.summary,
            "contentType": "application/json",
            "headers": headers.schema,
            "payload": self.payload,
            "bindings": { "amqp": { "messageType": self.name, "bindingVersion": "0.3.0" } },
            "examples": [{ "name": self.name, "headers": headers.example, "payload": self.example }],
        });
        if let Kind::Reply(_) = self.kind {
            let description = "The message_id of the command";
            object["correlationId"] = json!({ "description": description, "location": headers::CORRELATION });
        }
        object
    }
}

/// Returns JSON. Null, which the tests of a contract refuse, if there is none.
fn json_of(value: &impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

/// Returns a schema as JSON, in the words of JSON Schema.
fn schema_of(schema: &impl Serialize) -> Value {
    let mut schema = json_of(schema);
    translate(&mut schema);
    schema
}

/// Replaces `example`, which is OpenAPI's, and drops `multipleOf` of numbers. Most validators divide binary fractions: 0.07 would be no
/// multiple of 0.0001, and a reader would refuse a valid price.
fn translate(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            if members.get("type").is_some_and(|kind| kind == "number") {
                members.remove("multipleOf");
            }
            if let Some(example) = members.remove("example") {
                members.insert("examples".to_owned(), json!([example]));
            }
            for (keyword, value) in members {
                match value {
                    // Names of fields are no keywords.
                    Value::Object(fields) if keyword == "properties" => {
                        fields.values_mut().for_each(translate)
                    }
                    value => translate(value),
                }
            }
        }
        Value::Array(elements) => elements.iter_mut().for_each(translate),
        _ => {}
    }
}
