//! Parsed AMQP URL: host, login and limits. Never shown with user or password.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use amq_protocol::uri::{AMQPScheme, AMQPUri};

/// Largest requested frame, in bytes, unless the URL's `frame_max` sets another.
pub const FRAME_MAX: u32 = 32 * 1024;
/// Channels that a connection needs: for messages, for declarations, and for the fence.
pub(crate) const CHANNELS: u16 = 3;

/// One broker's address. Displayed as `host:port/vhost`, never with user or password.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Shared, because errors hold clones of their endpoint.
    uri: Arc<AMQPUri>,
}

/// Error of a text that is not an AMQP URL. Repeats no part of the text, because any part may belong to a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}; {cure}")]
pub struct InvalidUrl {
    /// The problem, as the end of a sentence whose subject is the URL.
    pub what: &'static str,
    /// The cure.
    pub cure: &'static str,
    /// Set if the text looks like several URLs.
    pub is_several: bool,
}

impl InvalidUrl {
    const fn new(what: &'static str, cure: &'static str) -> Self {
        Self { what, cure, is_several: false }
    }

    const fn several(what: &'static str, cure: &'static str) -> Self {
        Self { what, cure, is_several: true }
    }
}

const EXAMPLE: &str = "write amqp://user:password@host:5672/%2f";

impl Endpoint {
    /// Reads a URL (<https://www.rabbitmq.com/docs/uri-spec>) with the query parameters `frame_max`, `heartbeat`,
    /// `channel_max` and `auth_mechanism`. `FRAME_MAX` and `heartbeat` are the defaults.
    ///
    /// # Errors
    ///
    /// [`InvalidUrl`], also for a valid URL that is probably a mistake: for example a second URL in the path, which
    /// logs would show.
    pub fn parse(url: &str, heartbeat: Duration) -> Result<Self, InvalidUrl> {
        let mut uri = parsed(url)?;
        uri.query.frame_max.get_or_insert(FRAME_MAX);
        uri.query.heartbeat.get_or_insert(whole_seconds(heartbeat));
        Ok(Self { uri: Arc::new(uri) })
    }

    /// Reads a URL and replaces its user and password by the given ones.
    ///
    /// # Errors
    ///
    /// As [`parse`](Self::parse).
    pub fn with_login(
        url: &str,
        username: Option<&str>,
        password: Option<&str>,
    ) -> Result<String, InvalidUrl> {
        let mut uri = parsed(url)?;
        let user = &mut uri.authority.userinfo;
        user.username = username.unwrap_or(&user.username).to_owned();
        user.password = password.unwrap_or(&user.password).to_owned();
        if uri.authority.host.contains(':') {
            uri.authority.host = format!("[{}]", uri.authority.host);
        }
        Ok(uri.to_string())
    }

    /// Tells whether the URL asks for TLS.
    pub(crate) fn is_tls(&self) -> bool {
        self.uri.scheme == AMQPScheme::AMQPS
    }

    /// Returns the user.
    pub fn user(&self) -> &str {
        &self.uri.authority.userinfo.username
    }

    /// Returns the virtual host.
    pub fn vhost(&self) -> &str {
        &self.uri.vhost
    }

    /// Returns the host name or IP address, without brackets.
    pub fn host(&self) -> &str {
        &self.uri.authority.host
    }

    /// Tells whether the host is this machine, by name or address.
    pub(crate) fn is_local(&self) -> bool {
        let host = self.host();
        host.eq_ignore_ascii_case("localhost")
            || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    }

    /// Returns the TCP port.
    pub(crate) fn port(&self) -> u16 {
        self.uri.authority.port
    }

    /// Returns the whole URL, including the password.
    pub fn uri(&self) -> &AMQPUri {
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

fn parsed(url: &str) -> Result<AMQPUri, InvalidUrl> {
    let rest = ["amqp://", "amqps://"].iter().find_map(|scheme| url.strip_prefix(scheme));
    let rest = rest.ok_or(InvalidUrl::new("does not begin with amqp:// or amqps://", EXAMPLE))?;
    let address = ipv6_address(plain(rest)?)?;
    // The parser's errors may repeat the URL, so they are dropped.
    let mut uri: AMQPUri = url.parse().map_err(|_: String| {
        InvalidUrl::new(
            "is not a valid URL",
            "write amqp://user:password@host:5672/%2f, with special characters in user and password as %XX",
        )
    })?;
    // The parser drops an IPv6 address and would connect to `localhost`.
    if let Some(address) = address {
        uri.authority.host = address.to_string();
    }
    if uri.vhost.is_empty() {
        return Err(InvalidUrl::new(
            "ends in a slash, which names a virtual host without a name",
            "append %2f for the default virtual host, or remove the slash",
        ));
    }
    if uri.vhost.len() > 255 {
        return Err(InvalidUrl::new("names a virtual host of more than 255 bytes", "correct its path"));
    }
    if uri.query.channel_max.is_some_and(|channels| (1..CHANNELS).contains(&channels)) {
        return Err(InvalidUrl::new(
            "allows fewer channels than the three that are needed",
            "leave channel_max out, or set it to 3 or more",
        ));
    }
    Ok(uri)
}

/// Refuses a text that is not clearly one URL, and returns the host as written.
fn plain(rest: &str) -> Result<&str, InvalidUrl> {
    const EACH_APART: &str = "give each broker a URL of its own";
    let refuse = |what, cure| Err(InvalidUrl::new(what, cure));
    if rest.contains("://") {
        return Err(InvalidUrl::several("holds more than one URL", EACH_APART));
    }
    if rest.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return refuse(
            "holds a blank",
            "write %20 for a blank that belongs to user, password or virtual host",
        );
    }
    let (authority, behind) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    if behind.contains(['@', '#']) {
        return refuse(
            "holds an @ or # behind the host",
            "write @ / ? # in user, password and virtual host as %40 %2F %3F %23",
        );
    }
    if behind.split('?').next().unwrap_or_default().matches('/').count() > 1 {
        return Err(InvalidUrl::several(
            "has a path of more than one part",
            "write a / of the virtual host as %2f, and each broker's URL apart",
        ));
    }
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    if host.is_empty() || host.starts_with(':') {
        return refuse("names no host", EXAMPLE);
    }
    if host.contains([',', ';']) {
        return Err(InvalidUrl::several("names more than one host", EACH_APART));
    }
    Ok(host)
}

/// Returns the address between brackets.
fn ipv6_address(host: &str) -> Result<Option<Ipv6Addr>, InvalidUrl> {
    let Some(bracketed) = host.strip_prefix('[') else { return Ok(None) };
    let address = bracketed.split_once(']').and_then(|(address, _)| address.parse().ok());
    address.map(Some).ok_or(InvalidUrl::new(
        "has brackets around something else than an IPv6 address",
        "write for instance amqp://user:password@[2001:db8::1]:5672/%2f, without a zone",
    ))
}

/// Returns whole seconds, rounded up: AMQP counts heartbeats in seconds, and 0 turns them off.
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
        for bad in [
            "",
            "mq:5672",
            "http://u:s3cret@h",
            "amqp:u:s3cret@h",
            "amqp://u:s3cret@h:99999/",
            "amqp://a:s3cret@h1/%2f,amqp://a:s3cret@h2/%2f",
            "amqp://a:s3cret@h1,amqp://a:s3cret@h2",
            "amqp://a:s3cret@h1/%2f amqp://a:s3cret@h2/%2f",
            "amqp://a:s3cret@h1/%2f,a:s3cret@h2/%2f",
            "amqp://a:s3cret@h1,h2/%2f",
            "amqp://h1/%2f?heartbeat=1,amqp://a:s3cret@h2",
            // A password with a character that ends the host.
            "amqp://user:12/s3cret@h",
            "amqp://user:12#s3cret@h/%2f",
            "amqp://user:12?s3cret@h/%2f",
            "amqp://h/a/s3cret",
            "amqp://u:p@[s3cret]/",
            "amqp://u:s3cret@[fe80::1%25eth0]/%2f",
            "amqp://u:s3cret@h/%2f?channel_max=2",
        ] {
            let error = Endpoint::parse(bad, HEARTBEAT).unwrap_err();
            assert!(!format!("{error}{error:?}").contains("s3cret"), "{error}");
            assert_eq!(Endpoint::with_login(bad, None, None).unwrap_err(), error);
        }
    }

    #[test]
    fn a_login_given_apart_is_put_in_and_everything_else_stays() {
        for (url, expected) in [
            ("amqp://mq", "amqp://shop:p%2Fw@mq:5672/%2F"),
            ("amqps://a:b@[2001:db8::1]/shop%2feu", "amqps://shop:p%2Fw@[2001:db8::1]:5671/shop%2Feu"),
        ] {
            let url = Endpoint::with_login(url, Some("shop"), Some("p/w")).unwrap();
            assert_eq!(url, expected);
            let endpoint = Endpoint::parse(&url, HEARTBEAT).unwrap();
            assert_eq!((endpoint.user(), &*endpoint.uri().authority.userinfo.password), ("shop", "p/w"));
        }
    }
}
