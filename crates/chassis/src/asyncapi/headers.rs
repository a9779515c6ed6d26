//! Headers of messages: those of the outbox row, and those that a relay adds.

use serde_json::{Map, Value, json};

use super::message::Kind;
use crate::{saga::headers, trace};

/// Place of a reply's correlation id, as AsyncAPI writes it.
pub(super) const CORRELATION: &str = "$message.header#/in-reply-to";

/// Headers that outboxd adds to a row's own. Another relay may leave them out.
const OF_THE_RELAY: [(&str, &str, &str); 6] = [
    ("aggregate-type", "string", "Type of the aggregate"),
    ("aggregate-id", "string", "Id of the aggregate, whose messages arrive in commit order"),
    ("event-type", "string", "Name of the message"),
    ("outbox-source", "string", "Outbox of the message"),
    (
        "outbox-position",
        "string",
        "Position in the outbox. Of one source the greater text is the later message",
    ),
    ("outbox-replayed", "boolean", "true in a message that `outboxd replay` published again"),
];

/// Schema and example of a message's headers.
pub(super) struct Headers {
    pub(super) schema: Value,
    pub(super) example: Value,
}

/// Returns the headers of a message `name`. `reply_channels`: the channels that a command may name for its reply.
pub(super) fn of(kind: Kind, name: &str, reply_channels: &[&str]) -> Headers {
    let text = |description: &str| json!({ "type": "string", "description": description });
    let constant = |text: &str, description: &str| json!({ "type": "string", "const": text, "description": description });
    let saga_type = text("Type of the saga");
    let saga_id = text("Id of the saga: a 64-bit integer in digits");
    let own = match kind {
        Kind::Event => vec![],
        Kind::Command(_) => vec![
            (headers::COMMAND_TYPE, constant(name, "Name of the message"), name),
            (headers::SAGA_TYPE, saga_type.clone(), "CreateOrder"),
            (headers::SAGA_ID, saga_id, "1764362400000007"),
            (
                headers::REPLY_TO,
                json!({ "type": "string", "enum": reply_channels, "description": "Channel of the reply. Other channels get none" }),
                reply_channels.first().copied().unwrap_or_default(),
            ),
        ],
        Kind::Reply(outcome) => vec![
            (headers::REPLY_TYPE, constant(name, "Name of the message"), name),
            (headers::SAGA_TYPE, saga_type.clone(), "CreateOrder"),
            (headers::SAGA_ID, saga_id, "1764362400000007"),
            (
                headers::IN_REPLY_TO,
                text("The message_id of the command"),
                "0199c2f0-6d5e-7c3a-9b1f-2f4a8d0e5b71",
            ),
            (headers::OUTCOME, constant(outcome.name(), "Meaning of the reply"), outcome.name()),
        ],
    };
    let parent =
        (trace::HEADER, text("W3C Trace Context"), "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    let own: Vec<(&str, Value, &str)> = own.into_iter().chain([parent]).collect();
    let required: Vec<&str> = own.iter().map(|(name, ..)| *name).collect();
    let example: Map<String, Value> =
        own.iter().map(|(name, _, text)| ((*name).to_owned(), Value::from(*text))).collect();
    let mut properties: Map<String, Value> =
        own.iter().map(|(name, schema, _)| ((*name).to_owned(), schema.clone())).collect();
    if kind == Kind::Event {
        let description = "Type of the saga that coordinates the aggregate by commands, if one does";
        properties.insert(headers::SAGA_TYPE.to_owned(), text(description));
    }
    for (name, kind, description) in OF_THE_RELAY {
        properties.insert(name.to_owned(), json!({ "type": kind, "description": description }));
    }
    let schema = json!({ "type": "object", "properties": properties, "required": required });
    Headers { schema, example: example.into() }
}
