//! AMQP properties that a row or a template can set: keys, allowed values, and the order of precedence.

use amqp_publisher::{Properties, short_string::SHORT_STRING_BYTES_MAX};

use super::InvalidReason;

/// Largest time to live, ten years. RabbitMQ's own limit differs between versions and is never lower.
const EXPIRATION_MS_MAX: u64 = 315_360_000_000;
/// RabbitMQ closes the channel if a publisher sets this `reply_to` without consuming from it ("fast reply consumer does not
/// exist"). outboxd does not consume.
const DIRECT_REPLY_TO: &str = "amq.rabbitmq.reply-to";

/// A property that can be set, named by its configuration key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Property {
    /// `priority`
    Priority,
    /// `expiration_ms`, sent as `expiration`.
    ExpirationMs,
    /// `correlation_id`
    CorrelationId,
    /// `reply_to`
    ReplyTo,
    /// `content_encoding`
    ContentEncoding,
    /// `type`
    Type,
    /// `app_id`
    AppId,
}

impl Property {
    /// All properties.
    pub const ALL: [Property; 7] = [
        Property::Priority,
        Property::ExpirationMs,
        Property::CorrelationId,
        Property::ReplyTo,
        Property::ContentEncoding,
        Property::Type,
        Property::AppId,
    ];

    /// The key below `message`, and the name of the row's header that sets the property.
    pub const fn key(self) -> &'static str {
        match self {
            Property::Priority => "priority",
            Property::ExpirationMs => "expiration_ms",
            Property::CorrelationId => "correlation_id",
            Property::ReplyTo => "reply_to",
            Property::ContentEncoding => "content_encoding",
            Property::Type => "type",
            Property::AppId => "app_id",
        }
    }

    /// Checks whether `value` is allowed.
    ///
    /// # Errors
    ///
    /// [`InvalidReason`] with the allowed values.
    pub fn accepts(self, value: &str) -> Result<(), InvalidReason> {
        self.set(&mut Properties::default(), value.to_owned())
    }

    /// Returns the property that a row's header of this name sets.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|property| property.key() == name)
    }

    /// Sets the property. An empty value removes it.
    ///
    /// # Errors
    ///
    /// [`InvalidReason`] if the value is not allowed.
    pub(super) fn set(self, properties: &mut Properties, value: String) -> Result<(), InvalidReason> {
        let invalid = |wanted| InvalidReason::Property { property: self.key(), wanted, is_header: false };
        if value.is_empty() {
            match self {
                // Only these two have a default.
                Property::Type => properties.kind = None,
                Property::AppId => properties.app_id = None,
                _ => {}
            }
            return Ok(());
        }
        match self {
            Property::Type => properties.kind = Some(self.short(value)?),
            Property::AppId => properties.app_id = Some(self.short(value)?.into()),
            Property::Priority => {
                let priority = digits(&value).and_then(|number| u8::try_from(number).ok());
                properties.priority = Some(priority.ok_or_else(|| invalid("a whole number from 0 to 255"))?);
            }
            Property::ExpirationMs => {
                let wanted = "a whole number of milliseconds without unit, at most ten years";
                let milliseconds = digits(&value).filter(|number| *number <= EXPIRATION_MS_MAX);
                properties.expiration = Some(milliseconds.ok_or_else(|| invalid(wanted))?.to_string());
            }
            Property::ReplyTo if value == DIRECT_REPLY_TO => {
                return Err(invalid(
                    "another queue than amq.rabbitmq.reply-to, which RabbitMQ accepts only from a consumer of it",
                ));
            }
            Property::CorrelationId => properties.correlation_id = Some(self.short(value)?),
            Property::ReplyTo => properties.reply_to = Some(self.short(value)?),
            Property::ContentEncoding => properties.content_encoding = Some(self.short(value)?),
        }
        Ok(())
    }

    fn short(self, text: String) -> Result<String, InvalidReason> {
        if text.len() > SHORT_STRING_BYTES_MAX {
            return Err(InvalidReason::TooLong { part: self.key(), bytes: text.len() });
        }
        Ok(text)
    }
}

/// Parses a decimal number without sign, as PostgreSQL and JSON write it.
fn digits(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn set(property: Property, value: &str) -> Result<Properties, InvalidReason> {
        let mut properties = Properties::default();
        property.set(&mut properties, value.to_owned()).map(|()| properties)
    }

    #[test]
    fn a_number_is_a_number_or_the_row_is_invalid() {
        for (value, expected) in [("0", Some(0)), ("255", Some(255)), ("007", Some(7))] {
            assert_eq!(set(Property::Priority, value).unwrap().priority, expected);
        }
        for bad in ["256", "-1", "+1", "1.0", "1e1", " 1", "high", "\u{661}", "99999999999999999999"] {
            assert!(set(Property::Priority, bad).is_err(), "{bad}");
        }
        for (value, expected) in [("0", "0"), ("060000", "60000"), ("315360000000", "315360000000")] {
            assert_eq!(set(Property::ExpirationMs, value).unwrap().expiration.as_deref(), Some(expected));
        }
        for bad in ["315360000001", "1s", "60 000", "-5", "+5", "1.5", "soon"] {
            assert!(set(Property::ExpirationMs, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_empty_value_leaves_the_property_out() {
        for property in Property::ALL {
            let kind = Some("Created".to_owned());
            let mut properties = Properties { kind, app_id: Some("outboxd".into()), ..Properties::default() };
            let before = properties.clone();
            property.set(&mut properties, String::new()).unwrap();
            match property {
                Property::Type => assert_eq!(properties, Properties { kind: None, ..before }),
                Property::AppId => assert_eq!(properties, Properties { app_id: None, ..before }),
                _ => assert_eq!(properties, before),
            }
        }
    }

    #[test]
    fn a_text_has_255_bytes_at_most() {
        for property in [
            Property::CorrelationId,
            Property::ReplyTo,
            Property::ContentEncoding,
            Property::Type,
            Property::AppId,
        ] {
            assert!(set(property, &"x".repeat(255)).is_ok());
            let part = property.key();
            assert_eq!(set(property, &"x".repeat(256)), Err(InvalidReason::TooLong { part, bytes: 256 }));
        }
    }

    #[test]
    fn the_pseudo_queue_that_would_cost_the_channel_is_refused() {
        assert!(set(Property::ReplyTo, "amq.rabbitmq.reply-to").is_err());
        assert!(set(Property::ReplyTo, "amq.rabbitmq.reply-to.g1h2AA5yZXBseUA4Nw==").is_ok());
    }
}
