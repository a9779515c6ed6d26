//! `[rabbitmq]`, with what `[[exchanges]]` and `[[subscriptions]]` say beside it.

use std::{path::PathBuf, time::Duration};

use super::{exchanges, subscriptions};
use crate::{
    configuration::Section,
    rabbitmq::{Endpoint, publisher::BrokerOptions, subscriptions::SubscriptionWatch},
};

/// What the three of them say.
pub(super) struct Broker {
    pub(super) options: BrokerOptions,
    /// Waited for by the relay, not by the publisher.
    pub(super) confirm_timeout: Duration,
}

pub(super) fn read(root: &mut Section<'_>) -> Broker {
    let mut rabbitmq = root.section("rabbitmq");
    let declare = rabbitmq.flag("declare", true);
    let heartbeat = rabbitmq.seconds("heartbeat_s", 1..=3600, 10);
    let connect_timeout = rabbitmq.milliseconds("connect_timeout_ms", 100..=600_000, 5000);
    let confirm_timeout = rabbitmq.milliseconds("confirm_timeout_ms", 100..=3_600_000, 30_000);
    let urls = urls(&mut rabbitmq);
    let ca_file = readable_file(&mut rabbitmq, "tls_ca_file");
    let (has_cert, has_key) = (rabbitmq.has("tls_cert_file"), rabbitmq.has("tls_key_file"));
    let cert = readable_file(&mut rabbitmq, "tls_cert_file");
    let key = readable_file(&mut rabbitmq, "tls_key_file");
    if has_cert != has_key {
        let (there, missing) =
            if has_cert { ("tls_cert_file", "tls_key_file") } else { ("tls_key_file", "tls_cert_file") };
        rabbitmq.problem(there, format!("is of no use without {missing}"), "give both, or neither");
    }
    let encrypted = urls.iter().any(|url| url.starts_with("amqps://"));
    for (key, given) in [("tls_ca_file", ca_file.is_some()), ("tls_cert_file", cert.is_some())] {
        if given && !encrypted && !urls.is_empty() {
            rabbitmq.problem(
                key,
                "has no effect: no URL begins with amqps://",
                "use amqps://, or leave the key out",
            );
        }
    }
    rabbitmq.finish();
    let exchanges = exchanges::read(root);
    let options = BrokerOptions {
        urls,
        declare,
        heartbeat,
        connect_timeout,
        ca_file,
        client_cert: cert.zip(key),
        subscriptions: subscriptions::read(root, &exchanges),
        watch: SubscriptionWatch::default(),
        exchanges,
    };
    Broker { options, confirm_timeout }
}

/// The URLs with user and password put in where they are given apart.
fn urls(rabbitmq: &mut Section<'_>) -> Vec<String> {
    let given = |rabbitmq: &Section<'_>, key: &str| rabbitmq.has(key) || rabbitmq.has(&format!("{key}_file"));
    let (one, many) = (given(rabbitmq, "url"), given(rabbitmq, "urls"));
    if one && many {
        rabbitmq.problem("urls", "contradicts url", "give one of the two");
    }
    if !one && !many {
        rabbitmq.problem("url", "is missing", "set it to for instance \"amqp://user@host:5672/%2f\"");
    }
    let origin = if one { "url" } else { "urls" };
    let url = rabbitmq.secret("url");
    let urls = rabbitmq.secrets("urls");
    if !one && urls.as_ref().is_some_and(Vec::is_empty) {
        rabbitmq.problem("urls", "is empty", "list at least one URL");
    }
    let username = rabbitmq.filled_text("username");
    let password = rabbitmq.secret("password");

    let mut whole = Vec::new();
    for url in url.into_iter().chain(urls.unwrap_or_default()) {
        match Endpoint::with_login(&url, username.as_deref(), password.as_deref()) {
            Ok(url) => whole.push(url),
            Err(error) => rabbitmq.problem(origin, error.what, error.cure),
        }
    }
    whole
}

fn readable_file(section: &mut Section<'_>, key: &str) -> Option<PathBuf> {
    let file = PathBuf::from(section.filled_text(key)?);
    if let Err(error) = std::fs::File::open(&file) {
        let what = format!("{} cannot be read: {error}", file.display());
        section.problem(key, what, "name a PEM file that outboxd's user can read");
    }
    Some(file)
}
