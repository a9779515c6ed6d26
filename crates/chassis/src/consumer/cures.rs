//! Cures of RabbitMQ's refusals, with a service's configuration keys.
//!
//! Errors say what happened and what RabbitMQ's administrator does about it. What the service's operator does is
//! added here.

use amqp_publisher::{BrokerError, Reason, connection::tls::CertificateError, error::none_usable};

use super::ConsumerError;

/// Returns what happened, and the next step.
pub(crate) fn explain(error: &ConsumerError) -> String {
    match error {
        ConsumerError::Broker(error) => explain_broker(error),
        error => error.to_string(),
    }
}

fn explain_broker(error: &BrokerError) -> String {
    match error {
        BrokerError::NoneUsable { tried } => none_usable(tried.iter().map(explain_broker)),
        error => format!("{error}{}", more(error)),
    }
}

/// Returns the continuation of the cure.
fn more(error: &BrokerError) -> &'static str {
    match error {
        BrokerError::NoUrl => " (amqp_url)",
        BrokerError::Certificates(CertificateError::NoPlatformRoots) => " or set amqp_tls_ca_file",
        BrokerError::Tls { .. } => " (amqp_tls_ca_file, amqp_tls_cert_file)",
        error => match error.reason() {
            Some(Reason::Permission) => ", as the service's configuration file says",
            Some(Reason::Missing) => ", or set amqp_declare = true",
            Some(Reason::Different) => ", or set amqp_declare = false to use it as it is",
            Some(Reason::Ended) => ": the service reconnects by itself",
            _ => "",
        },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use amqp_publisher::{DeclareError, Endpoint, Refusal, error::Cause};

    use super::*;
    use crate::settings::BASE_KEYS;

    #[test]
    fn an_error_of_the_broker_names_keys_that_a_service_has() {
        let at = Endpoint::parse("amqp://h", Duration::ZERO).unwrap();
        let invalid = Endpoint::parse("http://h", Duration::ZERO).unwrap_err();
        let timed_out = BrokerError::TimedOut { at: at.clone(), after: Duration::ZERO };
        let mut errors = vec![BrokerError::from(invalid), BrokerError::NoUrl, timed_out];
        errors.push(CertificateError::NoPlatformRoots.into());
        errors.push(BrokerError::Tls { at: at.clone(), source: Cause::new(std::io::Error::other("tls")) });
        for object in ["queue 'q'", "exchange 'e'", "binding of queue 'q' to exchange 'e'"] {
            for (code, words) in [
                (403, "access to queue 'q' in vhost '/' refused for user 'u'"),
                (403, "something else"),
                (404, "no queue 'q' in vhost '/'"),
                (405, "cannot obtain exclusive access to locked queue"),
                (406, "inequivalent arg 'type' for exchange 'e' in vhost '/'"),
                (406, "cannot declare queue 'q': queue limit in vhost '/' (1) is reached"),
                (406, "invalid arg 'x-queue-type'"),
                (503, "unknown exchange type 'x-consistent-hash'"),
                (530, "vhost v not found"),
                (530, "connection refused for user 'u': user connection limit (1) is reached"),
                (
                    530,
                    "number of channels opened for user 'u' has reached the maximum allowed user limit of (1)",
                ),
                (320, "Closed via management plugin"),
            ] {
                let (object, text) = (object.to_owned(), words.to_owned());
                let error = DeclareError::new(object, Refusal { code, text });
                errors.push(BrokerError::Declare { at: at.clone(), error });
            }
        }
        errors.push(BrokerError::NoneUsable { tried: errors.clone() });
        for error in errors {
            let own = explain(&ConsumerError::Broker(error));
            // outboxd's keys have a dot in them, and the service has no subscriptions to configure.
            let own = own.replace("rabbitmq.conf", "");
            for foreign in
                ["rabbitmq.", "message.", "delivery.", "sources.", "subscription", "partitions", "outboxd"]
            {
                assert!(!own.contains(foreign), "{own}");
            }
            let named = own.split(|c: char| c != '_' && !c.is_ascii_lowercase());
            for key in named.filter(|word| word.starts_with("amqp_")) {
                assert!(BASE_KEYS.contains(&key), "there is no key {key}: {own}");
            }
        }
    }
}
