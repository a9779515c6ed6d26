//! A connection string, parsed once at start: where the database is, who we are there, and how TLS is to be done.
//!
//! Hosts, user and the rest are `tokio_postgres::Config`'s; the TLS options that it does not know are ours. Opening
//! connections is `connect`'s business. No form of [`Endpoint`] or [`EndpointError`] shows the password.

use std::{collections::BTreeMap, fmt, net::IpAddr, path::PathBuf, time::Duration};

use tokio_postgres::{
    Config,
    config::{Host, LoadBalanceHosts, SslNegotiation},
};

use super::{
    connection_string,
    tls::{Roots, TlsMode, TlsOptions},
};

/// Time for one address: TCP, TLS and login together, when `connect_timeout` does not say otherwise.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A silent TCP connection is probed after this long...
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
/// ...again as often as this...
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// ...and given up after so many probes.
const KEEPALIVE_RETRIES: u32 = 3;
/// Keepalive probes do not run while something sent is unacknowledged; this limit holds then.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(60);
const PORT: u16 = 5432;

/// Hosts, user, password, database and TLS of one PostgreSQL database.
#[derive(Clone)]
pub struct Endpoint {
    config: Config,
    tls: TlsOptions,
}

/// Why a connection string, or a file that it names, cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// The text is neither a URL nor key=value pairs.
    #[error("the connection string cannot be read: {0}")]
    Syntax(String),
    /// An option has a value that it cannot have.
    #[error("the connection string's {option} must be {expected}")]
    Value {
        /// The option.
        option: &'static str,
        /// What it may be.
        expected: &'static str,
    },
    /// Something indispensable is not there.
    #[error("the connection string names no {what}: {cure}")]
    Missing {
        /// What is missing.
        what: &'static str,
        /// What to write.
        cure: &'static str,
    },
    /// Two options contradict each other.
    #[error("the connection string contradicts itself: {0}")]
    Contradiction(&'static str),
    /// A file of certificates or keys cannot be used.
    #[error("{option} = {}: {problem}", path.display())]
    File {
        /// `sslrootcert`, `sslcert` or `sslkey`.
        option: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it and how to mend it.
        problem: &'static str,
        /// The underlying error.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// This machine has no root certificates of its own.
    #[error(
        "this machine has no trusted root certificates: install ca-certificates, or name a file with sslrootcert"
    )]
    NoPlatformRoots,
    /// The TLS library does not take the configuration.
    #[error("TLS cannot be set up as configured")]
    Tls(#[from] rustls::Error),
}

/// One place to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) address: Address,
    pub(super) port: u16,
    /// The name that the server's certificate must bear.
    pub(super) server_name: String,
}

/// Where a target is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Address {
    /// Host name or IP address.
    Tcp(String),
    /// The directory of the server's Unix socket.
    Unix(PathBuf),
}

impl Endpoint {
    /// Parses a `postgresql://` or `postgres://` URL, or libpq's key=value pairs (manual, "Connection Strings").
    ///
    /// Several hosts are tried in order. `sslmode` is `disable`, `prefer` (the default), `require`, `verify-ca` or
    /// `verify-full`; `sslrootcert` is a file or `system`. The user must be named; the database is by default the user's name.
    /// Opens no file and no connection.
    ///
    /// # Errors
    /// Names the option, never its value.
    pub fn parse(text: &str) -> Result<Self, EndpointError> {
        let split = connection_string::split(text)?;
        let mut config: Config =
            split.rest.parse().map_err(|error| EndpointError::Syntax(text_of(&error)))?;

        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(EndpointError::Missing {
                what: "host",
                cure: "write postgresql://USER@HOST/DATABASE, or host=/run/postgresql for a Unix socket",
            });
        }
        if config.get_hosts().iter().any(|host| matches!(host, Host::Tcp(name) if name.is_empty())) {
            return Err(EndpointError::Value { option: "host", expected: "a list without empty names" });
        }
        let (hosts, addresses) = (config.get_hosts().len(), config.get_hostaddrs().len());
        if hosts > 0 && addresses > 0 && hosts != addresses {
            return Err(EndpointError::Value { option: "hostaddr", expected: "one address for each host" });
        }
        if config.get_ports().len() > 1 && config.get_ports().len() != hosts.max(addresses) {
            return Err(EndpointError::Value { option: "port", expected: "one port, or one for each host" });
        }
        let user = match config.get_user() {
            Some(user) if !user.is_empty() => user.to_owned(),
            _ => {
                return Err(EndpointError::Missing {
                    what: "user",
                    cure: "write postgresql://USER@HOST/DATABASE, or user=USER",
                });
            }
        };
        if config.get_dbname().is_none_or(str::is_empty) {
            config.dbname(user);
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        set_keepalives(&mut config, &split.taken)?;
        let tls = tls_options(&split.taken, config.get_ssl_negotiation() == SslNegotiation::Direct)?;
        Ok(Endpoint { config, tls })
    }

    /// The same endpoint with this password, for passwords that come from a file.
    #[must_use]
    pub fn with_password(mut self, password: String) -> Self {
        self.config.password(password);
        self
    }

    /// Reads and checks the files of `sslrootcert`, `sslcert` and `sslkey`, or finds the platform's root certificates.
    /// No network. Files are read again for every connection, so that renewed certificates are used without a restart.
    ///
    /// # Errors
    /// Names the file, what is wrong with it, and the cure.
    pub fn validate_tls(&self) -> Result<(), EndpointError> {
        self.tls.client_config().map(drop)
    }

    /// `host:port,host:port/database`, as shown in logs: without user and password.
    pub fn describe(&self) -> String {
        let places: Vec<String> = self.targets().iter().map(Target::to_string).collect();
        format!("{}/{}", places.join(","), self.database())
    }

    /// The user.
    pub fn user(&self) -> &str {
        self.config.get_user().unwrap_or_default()
    }

    /// The database.
    pub fn database(&self) -> &str {
        self.config.get_dbname().unwrap_or_default()
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    pub(super) fn tls(&self) -> &TlsOptions {
        &self.tls
    }

    pub(super) fn connect_timeout(&self) -> Duration {
        self.config.get_connect_timeout().copied().unwrap_or(CONNECT_TIMEOUT)
    }

    /// The places to try, in the configured order (`load_balance_hosts=random` is applied by the caller).
    pub(super) fn targets(&self) -> Vec<Target> {
        let (hosts, addresses) = (self.config.get_hosts(), self.config.get_hostaddrs());
        let ports = self.config.get_ports();
        (0..hosts.len().max(addresses.len()))
            .map(|index| {
                let port = ports.get(index).or(ports.first()).copied().unwrap_or(PORT);
                target(hosts.get(index), addresses.get(index), port)
            })
            .collect()
    }

    pub(super) fn in_random_order(&self) -> bool {
        self.config.get_load_balance_hosts() == LoadBalanceHosts::Random
    }
}

fn target(host: Option<&Host>, address: Option<&IpAddr>, port: u16) -> Target {
    let address = address.map(IpAddr::to_string);
    match (host, address) {
        (Some(Host::Unix(directory)), None) => {
            Target { address: Address::Unix(directory.clone()), port, server_name: String::new() }
        }
        (Some(Host::Tcp(name)), address) => Target {
            address: Address::Tcp(address.unwrap_or_else(|| name.clone())),
            port,
            server_name: name.clone(),
        },
        (_, address) => {
            let address = address.unwrap_or_default();
            Target { server_name: address.clone(), address: Address::Tcp(address), port }
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Address::Unix(directory) => write!(f, "{}:{}", directory.display(), self.port),
            Address::Tcp(_) if self.server_name.contains(':') => {
                write!(f, "[{}]:{}", self.server_name, self.port)
            }
            Address::Tcp(_) => write!(f, "{}:{}", self.server_name, self.port),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.describe())
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("place", &self.describe())
            .field("user", &self.user())
            .field("tls", &self.tls)
            .finish_non_exhaustive()
    }
}

/// `Config`'s own words; it names options and never repeats values.
fn text_of(error: &tokio_postgres::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

fn set_keepalives(config: &mut Config, taken: &BTreeMap<String, String>) -> Result<(), EndpointError> {
    let number = |option: &'static str| match taken.get(option) {
        None => Ok(None),
        Some(text) => text
            .parse::<u32>()
            .map(Some)
            .map_err(|_| EndpointError::Value { option, expected: "a whole number" }),
    };
    let idle = number("keepalives_idle")?.map(|seconds| Duration::from_secs(seconds.into()));
    config.keepalives_idle(idle.filter(|idle| !idle.is_zero()).unwrap_or(KEEPALIVE_IDLE));
    if config.get_keepalives_interval().is_none() {
        config.keepalives_interval(KEEPALIVE_INTERVAL);
    }
    if let Some(count) = number("keepalives_count")? {
        config.keepalives_retries(count);
    } else if config.get_keepalives_retries().is_none() {
        config.keepalives_retries(KEEPALIVE_RETRIES);
    }
    let user_timeout = number("tcp_user_timeout")?.map(|millis| Duration::from_millis(millis.into()));
    config.tcp_user_timeout(user_timeout.unwrap_or(TCP_USER_TIMEOUT));
    Ok(())
}

fn tls_options(taken: &BTreeMap<String, String>, direct: bool) -> Result<TlsOptions, EndpointError> {
    let path = |option: &str| taken.get(option).filter(|text| !text.is_empty()).map(PathBuf::from);
    let roots = path("sslrootcert").map(|path| match path.to_str() {
        Some("system") => Roots::Platform,
        _ => Roots::File(path),
    });
    let mode = match taken.get("sslmode") {
        Some(text) => TlsMode::parse(text).ok_or(EndpointError::Value {
            option: "sslmode",
            expected: "disable, prefer, require, verify-ca or verify-full",
        })?,
        // libpq's rule for `system`: roots that vouch for the whole world are of use only with the name checked.
        None if roots == Some(Roots::Platform) => TlsMode::VerifyFull,
        None => TlsMode::Prefer,
    };
    let mode = match (mode, &roots) {
        (TlsMode::Prefer | TlsMode::Require | TlsMode::VerifyCa, Some(Roots::Platform)) => {
            return Err(EndpointError::Contradiction(
                "sslrootcert=system trusts every public authority, so it needs sslmode=verify-full",
            ));
        }
        (TlsMode::Prefer, Some(Roots::File(_))) => {
            return Err(EndpointError::Contradiction(
                "sslrootcert is given but sslmode=prefer, the default, verifies nothing: write sslmode=verify-full",
            ));
        }
        (TlsMode::Require, Some(Roots::File(_))) => TlsMode::VerifyCa,
        _ => mode,
    };
    if direct && matches!(mode, TlsMode::Disable | TlsMode::Prefer) {
        return Err(EndpointError::Contradiction(
            "sslnegotiation=direct needs sslmode=require, verify-ca or verify-full",
        ));
    }
    let client = match (path("sslcert"), path("sslkey")) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        _ => return Err(EndpointError::Contradiction("sslcert and sslkey must be given together")),
    };
    Ok(TlsOptions { mode, roots, client, direct })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn mode(text: &str) -> Result<TlsMode, String> {
        Endpoint::parse(text).map(|endpoint| endpoint.tls.mode).map_err(|error| error.to_string())
    }

    #[test]
    fn both_syntaxes_say_the_same() {
        let url = Endpoint::parse("postgresql://me:pw@h1:5433,h2/db?sslmode=verify-ca&sslrootcert=/ca.pem")
            .unwrap();
        let pairs = Endpoint::parse(
            "host=h1,h2 port=5433,5432 user=me password=pw dbname=db sslmode=verify-ca sslrootcert=/ca.pem",
        )
        .unwrap();
        assert_eq!(url.config, pairs.config);
        assert_eq!(url.tls, pairs.tls);
        assert_eq!(url.describe(), "h1:5433,h2:5432/db");
    }

    #[test]
    fn defaults() {
        let endpoint = Endpoint::parse("postgres://me@h").unwrap();
        assert_eq!(endpoint.database(), "me");
        assert_eq!(endpoint.targets()[0].port, 5432);
        assert_eq!(endpoint.connect_timeout(), Duration::from_secs(10));
        assert_eq!(endpoint.config.get_keepalives_idle(), Duration::from_secs(30));
        assert_eq!(endpoint.tls.mode, TlsMode::Prefer);
        let endpoint = Endpoint::parse("postgres://me@h?keepalives_idle=7200&tcp_user_timeout=1500").unwrap();
        assert_eq!(endpoint.config.get_keepalives_idle(), Duration::from_secs(7200));
        assert_eq!(endpoint.config.get_tcp_user_timeout(), Some(&Duration::from_millis(1500)));
    }

    #[test]
    fn targets_of_every_kind() {
        let targets = |text: &str| -> Vec<String> {
            Endpoint::parse(text).unwrap().targets().iter().map(Target::to_string).collect()
        };
        assert_eq!(targets("host=/run/postgresql port=5433 user=u"), ["/run/postgresql:5433"]);
        assert_eq!(targets("postgresql://u@%2Frun%2Fpg/db"), ["/run/pg:5432"]);
        assert_eq!(targets("postgresql:///db?user=u&host=/run/pg"), ["/run/pg:5432"]);
        assert_eq!(targets("postgresql://u@[::1]:7/db"), ["[::1]:7"]);
        assert_eq!(targets("hostaddr=127.0.0.1 user=u"), ["127.0.0.1:5432"]);
        let endpoint = Endpoint::parse("host=db.example hostaddr=10.0.0.1 user=u").unwrap();
        assert_eq!(endpoint.targets()[0].server_name, "db.example");
        assert_eq!(endpoint.targets()[0].address, Address::Tcp("10.0.0.1".to_owned()));
    }

    #[test]
    fn bad_strings_name_the_option_and_the_cure() {
        for (text, expected) in [
            ("", "no host"),
            ("postgresql://", "no host"),
            ("postgresql:///db?user=u", "no host"),
            ("postgresql://h/db", "no user"),
            ("host=h1,,h3 user=u", "host must be"),
            ("host=h1,h2 port=1,2,3 user=u", "port must be"),
            ("host=h port=70000 user=u", "port"),
            ("host=h user=u sslmode=verify", "verify-full"),
            ("host=h user=u sslmode=allow", "sslmode must be"),
            ("host=h user=u colour=red", "colour"),
            ("host=h user=u sslcert=/c.pem", "together"),
            ("host=h user=u sslrootcert=/ca.pem", "sslmode=verify-full"),
            ("host=h user=u sslrootcert=system sslmode=require", "needs sslmode=verify-full"),
            ("host=h user=u sslnegotiation=direct", "sslnegotiation=direct"),
            ("host=h user=u keepalives_idle=soon", "keepalives_idle must be"),
            ("just a name", "postgresql://"),
        ] {
            let error = Endpoint::parse(text).expect_err(text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn tls_modes_follow_libpq() {
        assert_eq!(mode("host=h user=u sslmode=require"), Ok(TlsMode::Require));
        assert_eq!(mode("host=h user=u sslmode=require sslrootcert=/ca.pem"), Ok(TlsMode::VerifyCa));
        assert_eq!(mode("host=h user=u sslrootcert=system"), Ok(TlsMode::VerifyFull));
    }

    #[test]
    fn the_password_is_never_shown() {
        let endpoint =
            Endpoint::parse("postgresql://u:seCret@h/db").unwrap().with_password("tOpSeCret".to_owned());
        let shown = format!("{endpoint} {endpoint:?} {}", endpoint.describe());
        assert!(!shown.contains("eCret"), "{shown}");
        assert_eq!(endpoint.config.get_password(), Some(b"tOpSeCret".as_slice()));
    }

    #[test]
    fn a_missing_or_empty_ca_file_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (path, expected) in
            [("/nonexistent/ca.pem", "cannot be read"), (file.path().to_str().unwrap(), "no PEM")]
        {
            let text = format!("host=h user=u sslmode=verify-full sslrootcert={path}");
            let error = Endpoint::parse(&text).unwrap().validate_tls().unwrap_err().to_string();
            assert!(error.contains(path) && error.contains(expected), "{error}");
        }
    }
}
