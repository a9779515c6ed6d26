//! An AMQP URL, resolved: where to connect, as whom, and with which limits. Shown without user and password.

use std::{fmt, sync::Arc, time::Duration};

use lapin::uri::{AMQPScheme, AMQPUri};

/// Largest AMQP frame in bytes that is asked for unless the URL's `frame_max` says otherwise.
///
/// lapin, which consumes, allots 32 frames each way to a connection and touches all of it in time: 1 MiB here, where
/// RabbitMQ's default of 131072 would cost 4 MiB each way.
pub(super) const FRAME_MAX: u32 = 32 * 1024;

/// One broker's address. Displayed as `host:port/vhost`, never with user or password.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Shared, because every error carries its endpoint.
    uri: Arc<AMQPUri>,
}

/// A text that is not an AMQP URL. The text itself is not repeated: it may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not an AMQP URL ({reason}); write amqp://user:password@host:5672/vhost or amqps://..., with the vhost / as %2f"
)]
pub struct InvalidUrl {
    reason: &'static str,
}

impl Endpoint {
    /// Reads a URL as <https://www.rabbitmq.com/docs/uri-spec> has it, query parameters `frame_max`, `heartbeat`,
    /// `channel_max` and `auth_mechanism` included; what it leaves open is set from `FRAME_MAX` and `heartbeat`.
    pub fn parse(url: &str, heartbeat: Duration) -> Result<Self, InvalidUrl> {
        let scheme_known = ["amqp://", "amqps://"].iter().any(|scheme| url.starts_with(scheme));
        if !scheme_known {
            return Err(InvalidUrl { reason: "it does not start with amqp:// or amqps://" });
        }
        // lapin's reasons may repeat the URL, so none of them is passed on.
        let mut uri: AMQPUri =
            url.parse().map_err(|_: String| InvalidUrl { reason: "it cannot be parsed" })?;
        if let Some(host) = bracketed_host(url) {
            uri.authority.host = host.to_owned();
        }
        if uri.authority.host.is_empty() {
            return Err(InvalidUrl { reason: "it names no host" });
        }
        if uri.vhost.len() > 255 {
            return Err(InvalidUrl { reason: "its vhost is longer than 255 bytes" });
        }
        uri.query.frame_max.get_or_insert(FRAME_MAX);
        uri.query.heartbeat.get_or_insert(whole_seconds(heartbeat));
        Ok(Self { uri: Arc::new(uri) })
    }

    /// Whether the URL asks for TLS.
    pub(super) fn is_tls(&self) -> bool {
        self.uri.scheme == AMQPScheme::AMQPS
    }

    /// Host name or IP address, without brackets.
    pub(super) fn host(&self) -> &str {
        &self.uri.authority.host
    }

    /// TCP port.
    pub(super) fn port(&self) -> u16 {
        self.uri.authority.port
    }

    /// Holds the password.
    pub(super) fn uri(&self) -> &AMQPUri {
        &self.uri
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (host, port, vhost) = (self.host(), self.port(), &self.uri.vhost);
        match host.contains(':') {
            true => write!(f, "[{host}]:{port}/{vhost}"),
            false => write!(f, "{host}:{port}/{vhost}"),
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endpoint({self})")
    }
}

/// The host between brackets, for an IPv6 address. amq-protocol-uri drops such a host and connects to `localhost`.
fn bracketed_host(url: &str) -> Option<&str> {
    let authority = url.split_once("://")?.1.split(['/', '?', '#']).next()?;
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    host.strip_prefix('[')?.split_once(']').map(|(address, _)| address)
}

/// AMQP counts heartbeats in whole seconds and takes 0 for none, so a fraction is rounded up.
fn whole_seconds(duration: Duration) -> u16 {
    let seconds = duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
    u16::try_from(seconds).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const HEARTBEAT: Duration = Duration::from_millis(9_500);

    #[test]
    fn neither_display_nor_debug_shows_who_logs_in() {
        let endpoint = Endpoint::parse("amqps://alice:s3cr%40t@mq.example/shop%2feu", HEARTBEAT).unwrap();
        assert_eq!(endpoint.to_string(), "mq.example:5671/shop/eu");
        assert_eq!(format!("{endpoint:?}"), "Endpoint(mq.example:5671/shop/eu)");
        assert!(endpoint.is_tls());
        assert_eq!(endpoint.uri().authority.userinfo.password, "s3cr@t");
    }

    #[test]
    fn an_ipv6_host_is_kept() {
        for (url, shown) in [
            ("amqp://[::1]:5673/%2f", "[::1]:5673//"),
            ("amqp://u:p@[fe80::2]", "[fe80::2]:5672//"),
            ("amqp://10.0.0.7/a", "10.0.0.7:5672/a"),
        ] {
            assert_eq!(Endpoint::parse(url, HEARTBEAT).unwrap().to_string(), shown);
        }
    }

    #[test]
    fn the_url_wins_over_our_defaults() {
        let ours = Endpoint::parse("amqp://h", HEARTBEAT).unwrap();
        assert_eq!((ours.uri.query.frame_max, ours.uri.query.heartbeat), (Some(FRAME_MAX), Some(10)));
        let theirs = Endpoint::parse("amqp://h/%2f?frame_max=131072&heartbeat=3", HEARTBEAT).unwrap();
        assert_eq!((theirs.uri.query.frame_max, theirs.uri.query.heartbeat), (Some(131_072), Some(3)));
    }

    #[test]
    fn a_bad_url_is_refused_without_repeating_it() {
        for bad in ["", "mq:5672", "http://u:s3cret@h", "amqp:u:s3cret@h", "amqp://u:s3cret@h:99999/"] {
            let error = Endpoint::parse(bad, HEARTBEAT).unwrap_err();
            assert!(!format!("{error}{error:?}").contains("s3cret"), "{error}");
        }
    }
}
