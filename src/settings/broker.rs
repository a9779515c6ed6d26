//! `[rabbitmq]`, with what `[[exchanges]]` and `[[subscriptions]]` say beside it.

use std::{path::PathBuf, time::Duration};

use super::{exchanges, subscriptions};
use crate::{
    configuration::Section,
    rabbitmq::{Endpoint, RotatingUrls, publisher::BrokerOptions, subscriptions::SubscriptionWatch},
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
    let (urls, rotating) = urls(&mut rabbitmq);
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
        rotating,
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

/// The URLs with user and password put in where they are given apart, and the files that they come from.
fn urls(rabbitmq: &mut Section<'_>) -> (Vec<String>, Option<RotatingUrls>) {
    let given = |rabbitmq: &Section<'_>, key: &str| rabbitmq.has(key) || rabbitmq.has(&format!("{key}_file"));
    let (one, many) = (given(rabbitmq, "url"), given(rabbitmq, "urls"));
    if one && many {
        rabbitmq.problem("urls", "contradicts url", "give one of the two");
    }
    if !one && !many {
        rabbitmq.problem("url", "is missing", "set it to for instance \"amqp://user@host:5672/%2f\"");
    }
    let origin = if one { "url" } else { "urls" };
    let url = rabbitmq.rotating_secret("url");
    let urls = rabbitmq.rotating_secrets("urls");
    let username = rabbitmq.filled_text("username");
    let password = rabbitmq.rotating_secret("password");
    let Some(urls) = url.or(urls) else { return (Vec::new(), None) };
    let from_files = RotatingUrls { urls, username, password };
    // They could be read just now; a file that vanishes meanwhile is the first connection's to say.
    let text = from_files.urls.read().unwrap_or_default();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    if !one && lines.clone().next().is_none() {
        rabbitmq.problem("urls", "is empty", "list at least one URL");
    }
    let password = from_files.password.as_ref().and_then(|password| password.read().ok());

    let mut whole = Vec::new();
    for url in lines {
        match Endpoint::with_login(url, from_files.username.as_deref(), password.as_deref()) {
            Ok(url) => whole.push(url),
            Err(error) => rabbitmq.problem(origin, error.what, error.cure),
        }
    }
    let rotates = from_files.files().next().is_some();
    let rotating = rotates.then_some(from_files);
    (whole, rotating)
}

fn readable_file(section: &mut Section<'_>, key: &str) -> Option<PathBuf> {
    let file = PathBuf::from(section.filled_text(key)?);
    if let Err(error) = std::fs::File::open(&file) {
        let what = format!("{} cannot be read: {error}", file.display());
        section.problem(key, what, "name a PEM file that outboxd's user can read");
    }
    Some(file)
}
