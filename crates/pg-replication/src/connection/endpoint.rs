//! Endpoint of a connection: hosts, user, database and TLS, read from a connection string.
//!
//! [`Endpoint`] keeps the string, or the file that holds it, and parses it again for every connection: a rotated
//! password or token takes effect without a restart. `connect` opens connections. [`Endpoint`] and [`EndpointError`]
//! never show the password.

use std::{
    fmt,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio_postgres::{Config, config::ChannelBinding};

use super::{
    connection_string::{self, Options},
    endpoint_error::EndpointError,
    login_methods::LoginMethods,
    options, password_file, service_file,
    tls::{Roots, TlsMode, TlsOptions, TlsVersions},
};
use secret::Secret;

/// Limit for one address (TCP, TLS and login together) without `connect_timeout`.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Silence after which TCP keepalive probes begin.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
/// Interval between keepalive probes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// Unanswered keepalive probes after which the connection is closed.
const KEEPALIVE_RETRIES: u32 = 3;
/// Time that sent data may stay unacknowledged. Keepalive probes pause meanwhile.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(60);
const PORT: u16 = 5432;

/// Hosts, user, password, database and TLS of one PostgreSQL database.
#[derive(Clone)]
pub struct Endpoint {
    /// The connection string. All other fields are derived from it, again for every connection.
    url: Secret,
    /// Replaces the password in the connection string.
    password: Option<Secret>,
    /// User, password, database, options and keepalives, without hosts and TLS.
    config: Config,
    targets: Vec<Target>,
    random_order: bool,
    session: SessionWanted,
    tls: TlsOptions,
    login_methods: LoginMethods,
    password_file: Option<PathBuf>,
    words: Words,
}

/// Words of the caller's configuration, used in cures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Words {
    /// Name of the connection string, such as its key: completes "correct the host in ...".
    pub connection_string: &'static str,
    /// Name of the password setting: completes "set ...".
    pub password: &'static str,
    /// The command that creates a missing role.
    pub make_role: &'static str,
}

impl Default for Words {
    fn default() -> Self {
        Words {
            connection_string: "the connection string",
            password: "password in the connection string",
            make_role: "make it with CREATE ROLE ... LOGIN",
        }
    }
}

/// One host and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) address: Address,
    pub(crate) port: u16,
    /// The name that the server's certificate must bear.
    pub(crate) server_name: String,
}

/// Address of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    /// Host name or IP address.
    Tcp(String),
    /// The directory of the server's Unix socket.
    Unix(PathBuf),
}

/// Supported values of `target_session_attrs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SessionWanted {
    Any,
    ReadWrite,
    Primary,
}

impl Endpoint {
    /// Reads a connection string: a `postgresql://` or `postgres://` URL, or libpq's key=value pairs (manual,
    /// "Connection Strings"). `password` replaces the string's password. Values in files are read again for every
    /// connection.
    ///
    /// Hosts are tried in order. The user is required; the database defaults to the user's name. Every option of
    /// libpq 18 is known: each is honoured, without effect here, or refused by name. The file of `service` is read;
    /// no other file, and no connection, is opened.
    ///
    /// # Errors
    /// [`EndpointError`], which names the option and never its value.
    pub fn read(url: Secret, password: Option<Secret>) -> Result<Self, EndpointError> {
        let of = |what| move |source| EndpointError::Secret { what, source };
        let text = url.read().map_err(of("connection string"))?;
        let password_text = password.as_ref().map(Secret::read).transpose().map_err(of("password"))?;
        let mut options = options::checked(connection_string::parse(&text)?)?;
        if options.contains_key("service") {
            options = options::checked(service_file::completed(options)?)?;
        }
        options.extend(password_text.map(|password| ("password".to_owned(), password)));
        Self::made_from(url, password, &options)
    }

    /// Reads a connection string from text, as [`Self::read`] does.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn parse(text: &str) -> Result<Self, EndpointError> {
        Self::read(Secret::Text(text.to_owned()), None)
    }

    fn made_from(url: Secret, password: Option<Secret>, options: &Options) -> Result<Self, EndpointError> {
        let text = |name: &str| options.get(name).map(String::as_str);
        let targets = targets(options)?;
        let Some(user) = text("user") else {
            return Err(EndpointError::Missing {
                what: "user",
                cure: "write postgresql://USER@HOST/DATABASE, or user=USER",
            });
        };
        let mut config = Config::new();
        config.user(user).dbname(text("dbname").unwrap_or(user));
        if let Some(password) = text("password") {
            config.password(password);
        }
        if let Some(options) = text("options") {
            config.options(options);
        }
        if let Some(name) = text("application_name") {
            config.application_name(name);
        }
        config.channel_binding(match text("channel_binding") {
            Some("disable") => ChannelBinding::Disable,
            Some("require") => ChannelBinding::Require,
            _ => ChannelBinding::Prefer,
        });
        set_times(&mut config, options)?;
        Ok(Endpoint {
            url,
            password,
            config,
            targets,
            random_order: text("load_balance_hosts") == Some("random"),
            session: match text("target_session_attrs") {
                Some("read-write") => SessionWanted::ReadWrite,
                Some("primary") => SessionWanted::Primary,
                _ => SessionWanted::Any,
            },
            tls: tls_options(options)?,
            login_methods: options::login_methods(options)?,
            password_file: password_file::path(text("passfile")),
            words: Words::default(),
        })
    }

    /// Returns the endpoint with cures in the caller's words.
    #[must_use]
    pub fn with_words(self, words: Words) -> Self {
        Self { words, ..self }
    }

    pub(crate) fn words(&self) -> Words {
        self.words
    }

    /// Reads the connection string and the password again.
    pub(crate) fn now(&self) -> Result<Self, EndpointError> {
        Ok(Self::read(self.url.clone(), self.password.clone())?.with_words(self.words))
    }

    /// Returns the names of [`Self::files`], joined by "and"; `None` without files.
    pub fn file_names(&self) -> Option<String> {
        let files: Vec<String> = self.files().iter().map(|file| file.display().to_string()).collect();
        (!files.is_empty()).then(|| files.join(" and "))
    }

    /// Returns the files that hold the connection string or the password. They are read for every connection.
    pub fn files(&self) -> Vec<&Path> {
        [Some(&self.url), self.password.as_ref()].into_iter().flatten().filter_map(Secret::file).collect()
    }

    /// Returns the files that suffice to log in: [`Self::files`] and the key of `sslkey`. The password file is not
    /// among them: one that others may read is refused when it is used.
    pub fn secret_files(&self) -> Vec<&Path> {
        let key = self.tls.client.as_ref().map(|(_, key)| key.as_path());
        self.files().into_iter().chain(key).collect()
    }

    /// Reads and checks the files of `sslrootcert`, `sslcert` and `sslkey`, or the platform's root certificates. Uses
    /// no network. Every connection reads the files again, so a renewed certificate takes effect without a restart.
    ///
    /// # Errors
    /// [`EndpointError`] with the file, the problem and the cure.
    pub fn validate_tls(&self) -> Result<(), EndpointError> {
        self.tls.client_config().map(drop)
    }

    /// Returns `host:port,host:port/database`, without user and password, as logs show it.
    pub fn describe(&self) -> String {
        let places: Vec<String> = self.targets.iter().map(Target::to_string).collect();
        format!("{}/{}", places.join(","), self.database())
    }

    /// Returns the user.
    pub fn user(&self) -> &str {
        self.config.get_user().unwrap_or_default()
    }

    /// Returns the database.
    pub fn database(&self) -> &str {
        self.config.get_dbname().unwrap_or_default()
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn tls(&self) -> &TlsOptions {
        &self.tls
    }

    pub(crate) fn connect_timeout(&self) -> Duration {
        self.config.get_connect_timeout().copied().unwrap_or(CONNECT_TIMEOUT)
    }

    /// Returns the targets in the configured order, or shuffled with `load_balance_hosts=random`.
    pub(crate) fn targets(&self) -> Vec<Target> {
        let mut targets = self.targets.clone();
        if self.random_order {
            fastrand::shuffle(&mut targets);
        }
        targets
    }

    pub(crate) fn in_random_order(&self) -> bool {
        self.random_order
    }

    pub(crate) fn session_wanted(&self) -> SessionWanted {
        self.session
    }

    pub(crate) fn login_methods(&self) -> LoginMethods {
        self.login_methods
    }

    /// Returns the password for a target: the configured one, else the one in the password file. The error is the
    /// reason why the password file has none.
    pub(crate) fn password_for(&self, target: &Target) -> Result<Vec<u8>, Option<String>> {
        if let Some(password) = self.config.get_password() {
            return Ok(password.to_owned());
        }
        let file = self.password_file.as_deref().ok_or(None)?;
        let host = match &target.address {
            Address::Tcp(_) => &target.server_name,
            Address::Unix(directory) => &directory.display().to_string(),
        };
        let (database, user) = (self.database(), self.user());
        let login = password_file::Login { host, port: target.port, database, user };
        password_file::password(file, &login).map(String::into_bytes).map_err(Some)
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

/// Returns one target for each host, or for each address without hosts.
fn targets(options: &Options) -> Result<Vec<Target>, EndpointError> {
    let list = |name: &str| -> Vec<&str> {
        options.get(name).map(|text| text.split(',').map(str::trim).collect()).unwrap_or_default()
    };
    let (hosts, addresses, ports) = (list("host"), list("hostaddr"), list("port"));
    if hosts.is_empty() && addresses.is_empty() {
        return Err(EndpointError::Missing {
            what: "host",
            cure: "write postgresql://USER@HOST/DATABASE, or host=/run/postgresql for a Unix socket",
        });
    }
    if !hosts.is_empty() && !addresses.is_empty() && hosts.len() != addresses.len() {
        return Err(EndpointError::Value { option: "hostaddr", expected: "one address for each host" });
    }
    let count = hosts.len().max(addresses.len());
    if ports.len() > 1 && ports.len() != count {
        return Err(EndpointError::Value { option: "port", expected: "one port, or one for each host" });
    }
    (0..count)
        .map(|index| {
            let given = |list: &[&'_ str]| list.get(index).copied().unwrap_or_default().to_owned();
            let port = match ports.get(index).or(ports.first()) {
                None | Some(&"") => PORT,
                Some(port) => match port.parse() {
                    Ok(port) if port > 0 => port,
                    _ => return Err(EndpointError::Value { option: "port", expected: "from 1 to 65535" }),
                },
            };
            target(given(&hosts), given(&addresses), port)
        })
        .collect()
}

fn target(host: String, address: String, port: u16) -> Result<Target, EndpointError> {
    if !address.is_empty() && address.parse::<IpAddr>().is_err() {
        return Err(EndpointError::Value {
            option: "hostaddr",
            expected: "IP addresses; names belong into host",
        });
    }
    match (host.as_str(), address.is_empty()) {
        ("", true) => Err(EndpointError::Value { option: "host", expected: "a list without empty names" }),
        ("", false) => Ok(Target { server_name: address.clone(), address: Address::Tcp(address), port }),
        (name, true) if name.starts_with('/') => {
            Ok(Target { address: Address::Unix(name.into()), port, server_name: String::new() })
        }
        (name, true) if name.starts_with('@') => Err(EndpointError::Value {
            option: "host",
            expected: "a name, an address or the directory of a Unix socket; abstract sockets are not supported",
        }),
        (_, true) => Ok(Target { address: Address::Tcp(host.clone()), port, server_name: host }),
        (_, false) => Ok(Target { address: Address::Tcp(address), port, server_name: host }),
    }
}

/// Sets time limits and keepalives. As in libpq, zero or less selects the default. The defaults are shorter than the
/// system's.
fn set_times(config: &mut Config, options: &Options) -> Result<(), EndpointError> {
    let number = |option: &'static str| match options.get(option).map(|text| text.trim().parse::<i64>()) {
        None => Ok(None),
        Some(Ok(number)) => Ok(u32::try_from(number).ok().filter(|number| *number > 0)),
        Some(Err(_)) => Err(EndpointError::Value { option, expected: "a whole number" }),
    };
    let seconds = |option| {
        let number = number(option)?;
        Ok::<_, EndpointError>(number.map(|seconds| Duration::from_secs(seconds.into())))
    };
    config.connect_timeout(seconds("connect_timeout")?.unwrap_or(CONNECT_TIMEOUT));
    config.keepalives(options.get("keepalives").is_none_or(|text| text != "0"));
    config.keepalives_idle(seconds("keepalives_idle")?.unwrap_or(KEEPALIVE_IDLE));
    config.keepalives_interval(seconds("keepalives_interval")?.unwrap_or(KEEPALIVE_INTERVAL));
    config.keepalives_retries(number("keepalives_count")?.unwrap_or(KEEPALIVE_RETRIES));
    let user_timeout = number("tcp_user_timeout")?.map(|millis| Duration::from_millis(millis.into()));
    config.tcp_user_timeout(user_timeout.unwrap_or(TCP_USER_TIMEOUT));
    Ok(())
}

fn tls_options(options: &Options) -> Result<TlsOptions, EndpointError> {
    let text = |name: &str| options.get(name).map(String::as_str);
    let direct = text("sslnegotiation") == Some("direct");
    let roots = text("sslrootcert").map(|path| match path {
        "system" => Roots::Platform,
        path => Roots::File(path.into()),
    });
    let mode = match text("sslmode").and_then(TlsMode::parse) {
        Some(mode) => mode,
        // libpq's rule for `system`: public authorities prove nothing unless the host's name is checked.
        None if roots == Some(Roots::Platform) => TlsMode::VerifyFull,
        None => TlsMode::Prefer,
    };
    let mode = match (mode, &roots) {
        (TlsMode::Allow | TlsMode::Prefer | TlsMode::Require | TlsMode::VerifyCa, Some(Roots::Platform)) => {
            return Err(EndpointError::Contradiction(
                "sslrootcert=system trusts every public authority, so it needs sslmode=verify-full",
            ));
        }
        (TlsMode::Allow | TlsMode::Prefer, Some(Roots::File(_))) => {
            return Err(EndpointError::Contradiction(
                "sslrootcert is given but sslmode=prefer, the default, and sslmode=allow verify nothing: write \
                 sslmode=verify-full",
            ));
        }
        (TlsMode::Require, Some(Roots::File(_))) => TlsMode::VerifyCa,
        _ => mode,
    };
    if direct && matches!(mode, TlsMode::Disable | TlsMode::Allow | TlsMode::Prefer) {
        return Err(EndpointError::Contradiction(
            "sslnegotiation=direct needs sslmode=require, verify-ca or verify-full",
        ));
    }
    let versions = match (text("ssl_min_protocol_version"), text("ssl_max_protocol_version")) {
        (Some(min), Some(max))
            if min.eq_ignore_ascii_case("TLSv1.3") && max.eq_ignore_ascii_case("TLSv1.2") =>
        {
            return Err(EndpointError::Contradiction(
                "ssl_min_protocol_version is higher than ssl_max_protocol_version",
            ));
        }
        (Some(min), _) if min.eq_ignore_ascii_case("TLSv1.3") => TlsVersions::Only13,
        (_, Some(max)) if max.eq_ignore_ascii_case("TLSv1.2") => TlsVersions::Only12,
        _ => TlsVersions::Both,
    };
    let client = match (text("sslcert"), text("sslkey")) {
        (Some(certificate), Some(key)) => Some((certificate.into(), key.into())),
        (None, None) => None,
        _ => return Err(EndpointError::Contradiction("sslcert and sslkey must be given together")),
    };
    let client = client.filter(|_| text("sslcertmode") != Some("disable"));
    Ok(TlsOptions { mode, roots, client, direct, names_server: text("sslsni") != Some("0"), versions })
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
        assert_eq!((&url.tls, &url.targets), (&pairs.tls, &pairs.targets));
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
        assert_eq!(targets("host=a,b hostaddr=,::1 port=1,2 user=u"), ["a:1", "b:2"]);
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
            ("host=h user=u sslmode=allow sslrootcert=/ca.pem", "sslmode=verify-full"),
            ("host=@abstract user=u", "host must be"),
            ("host=h hostaddr=db.example user=u", "hostaddr must be IP addresses"),
            ("host=h,i hostaddr=10.0.0.1 user=u", "one address for each host"),
            ("host=h user=u port=0", "port must be"),
            ("host=h user=u target_session_attrs=standby", "target_session_attrs must be any, read-write"),
            (
                "host=h user=u ssl_min_protocol_version=TLSv1.3 ssl_max_protocol_version=TLSv1.2",
                "is higher than",
            ),
            ("host=h user=u require_auth=oauth", "require_auth must be"),
            (
                "host=h user=u service=no_such_service servicefile=/no/such",
                "service no_such_service cannot be used",
            ),
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
        assert_eq!(mode("host=h user=u sslmode=allow"), Ok(TlsMode::Allow));
        assert_eq!(mode("postgresql://u@h?ssl=true"), Ok(TlsMode::Require));
        let tls = |text: &str| Endpoint::parse(&format!("host=h user=u {text}")).unwrap().tls;
        assert!(tls("").names_server && !tls("sslsni=0").names_server);
        assert_eq!(tls("ssl_min_protocol_version=TLSv1.3").versions, TlsVersions::Only13);
        assert_eq!(tls("ssl_min_protocol_version=TLSv1.1").versions, TlsVersions::Both);
        assert_eq!(tls("sslcert=/c sslkey=/k sslcertmode=disable").client, None);
    }

    #[test]
    fn a_string_and_a_password_in_files_are_read_for_every_connection() {
        let file = |text: &str| {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), text).unwrap();
            file
        };
        let (url, password) = (file("postgresql://v-1:old@h/db\n"), file("tOp\n"));
        let secret = |file: &tempfile::NamedTempFile| Secret::File(file.path().to_owned());
        let endpoint = Endpoint::read(secret(&url), None).unwrap();
        let with_password = Endpoint::read(secret(&url), Some(secret(&password))).unwrap();
        assert_eq!(with_password.files(), [url.path(), password.path()]);
        std::fs::write(url.path(), "postgresql://v-2:new@h/db\n").unwrap();
        std::fs::write(password.path(), "nExt").unwrap();
        let (now, with) = (endpoint.now().unwrap(), with_password.now().unwrap());
        assert_eq!((now.user(), now.config.get_password()), ("v-2", Some(b"new".as_slice())));
        assert_eq!((with.user(), with.config.get_password()), ("v-2", Some(b"nExt".as_slice())));
        std::fs::write(password.path(), "").unwrap();
        let error = with_password.now().unwrap_err().to_string();
        let path = password.path().display().to_string();
        assert!(error.contains("the file of the password") && error.contains(&path), "{error}");
        std::fs::write(url.path(), "hunter2").unwrap();
        let error = format!("{:?}", endpoint.now().unwrap_err());
        assert!(!error.contains("hunter2"), "{error}");
    }

    #[test]
    fn a_password_file_serves_where_no_password_is_given() {
        use std::os::unix::fs::PermissionsExt;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "h:5432:db:u:s3cret\n/run/pg:*:*:*:local\n").unwrap();
        std::fs::set_permissions(file.path(), PermissionsExt::from_mode(0o600)).unwrap();
        let password = |text: &str| {
            let endpoint = Endpoint::parse(&format!("{text} passfile='{}'", file.path().display())).unwrap();
            endpoint.password_for(&endpoint.targets()[0])
        };
        assert_eq!(password("host=h hostaddr=10.0.0.1 user=u dbname=db"), Ok(b"s3cret".to_vec()));
        assert_eq!(password("host=/run/pg user=u"), Ok(b"local".to_vec()));
        assert_eq!(password("host=h user=u dbname=db password=given"), Ok(b"given".to_vec()));
        assert!(password("host=i user=u").unwrap_err().unwrap().contains("no line for i:5432:u:u"));
    }

    #[test]
    fn the_password_is_never_shown() {
        let password = Some(Secret::Text("tOpSeCret".to_owned()));
        let endpoint =
            Endpoint::read(Secret::Text("postgresql://u:seCret@h/db".to_owned()), password).unwrap();
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
