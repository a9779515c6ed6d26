//! The broker's refusal of a message, in an operator's words and with the cure. Shows no payload.

use super::{
    error::{DeclareError, reply},
    refusal::{self, Reason},
};
use crate::outbox::Message;

/// Reason why the broker does not take one message: it closed the channel for it, or refused its exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The channel was closed.
    Publish {
        /// AMQP reply code.
        code: u16,
        /// The broker's own words.
        text: String,
    },
    /// The exchange is not there and cannot be declared, or is of another type.
    Exchange(DeclareError),
    /// The exchange is none of the configuration's, and it would be one more than rows may have made: the broker was looked at and does
    /// not have it, or rows may have none made at all.
    TooManyExchanges {
        /// `delivery.exchanges_max`
        exchanges_max: usize,
    },
}

impl Refused {
    /// Tells whether the broker does not have the exchange that was published to. Its publisher asks for it again before the next
    /// publish.
    pub fn misses_exchange(&self) -> bool {
        matches!(self, Self::Publish { code: reply::NOT_FOUND, .. })
    }

    /// Explains what is the matter with the message, and what to do about it.
    pub fn explain(&self, message: &Message) -> String {
        let (code, text) = match self {
            Refused::Publish { code, text } => (*code, text),
            Refused::Exchange(error) => return error.to_string(),
            Refused::TooManyExchanges { exchanges_max } => {
                return too_many_exchanges(&message.exchange, *exchanges_max);
            }
        };
        let Message { exchange, routing_key, body, .. } = message;
        let (means, cure) = (refusal::means(code, text), refusal::cure(code, text));
        let more = match refusal::reason(code, text) {
            Reason::TopicPermission => format!(", with a pattern for writing that matches '{routing_key}'"),
            Reason::Permission => format!(", with a pattern for writing that matches '{exchange}'"),
            Reason::MessageTooLarge => format!(" (its body has {} bytes)", body.len()),
            _ => String::new(),
        };
        format!("exchange '{exchange}' {means}: {code} {text}; {cure}{more}")
    }
}

fn too_many_exchanges(exchange: &str, exchanges_max: usize) -> String {
    if exchanges_max == 0 {
        return format!(
            "exchange '{exchange}' is not in the configuration, and delivery.exchanges_max is 0; see whether the row should name \
             it, then add the exchange to [[exchanges]], or raise delivery.exchanges_max, and restart outboxd"
        );
    }
    format!(
        "exchange '{exchange}' is not at the broker and is not declared: outboxd has declared {exchanges_max} new ones for rows of \
         this source since it started, and delivery.exchanges_max is {exchanges_max}; see whether the row should name it, then \
         declare it at the broker, or raise delivery.exchanges_max or add it to [[exchanges]] and restart outboxd"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        outbox::AggregateKey,
        position::{Lsn, Position},
    };

    fn explained(code: u16, text: &str) -> String {
        let message = Message::empty(Position { commit_lsn: Lsn(1), index: 0 }, AggregateKey(1));
        let message = Message {
            exchange: "Order.events".into(),
            routing_key: "Nope".into(),
            body: bytes::Bytes::from_static(b"12345"),
            ..message
        };
        Refused::Publish { code, text: text.to_owned() }.explain(&message)
    }

    #[test]
    fn each_refusal_names_its_cure() {
        for (code, text, cures) in [
            (
                403,
                "ACCESS_REFUSED - access to topic 'Nope' in exchange topic 'Order.events' in vhost 'v' refused for user 'shop'",
                &["set_topic_permissions -p v shop Order.events WRITE READ", "matches 'Nope'"][..],
            ),
            (
                403,
                "ACCESS_REFUSED - access to exchange 'Order.events' in vhost '/' refused for user 'shop'",
                &["set_permissions -p / shop CONFIGURE WRITE READ", "matches 'Order.events'"],
            ),
            (
                406,
                "PRECONDITION_FAILED - message size 5 is larger than configured max size 4",
                &["delivery.message_bytes_max", "max_message_size", "5 bytes"],
            ),
        ] {
            let explained = explained(code, text);
            assert!(explained.contains(text), "{explained}");
            for cure in cures {
                assert!(explained.contains(cure), "{cure}: {explained}");
            }
        }
    }
}
