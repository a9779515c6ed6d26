//! Opens connections: tries the hosts in order, each within its time limit.
//!
//! Replication and SQL connections get the same session settings, so a value has the same text whichever way it
//! comes.

use std::{
    borrow::Cow,
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use postgres_protocol::message::backend::{DATA_ROW_TAG, READY_FOR_QUERY_TAG};
use tokio_postgres::{
    Client, SimpleQueryMessage,
    config::{SslMode, SslNegotiation},
};

use super::{
    answer::simple_answer,
    connect_error::ConnectError,
    endpoint::{Address, Endpoint, SessionWanted, Target},
    hosting::Hosting,
    login::{self, Credentials},
    remedy::{self, ConnectionKind},
    socket::Socket,
    sql_socket::{Negotiated, SqlSocket},
    tls::{TlsMode, TlsOptions},
    wire::Wire,
    wire_error::{AuthenticationError, WireError},
};
use crate::sqlstate;
use diagnostics::remedy::Mender;

/// Session settings of every connection. The first ones decide the text of values (manual, "Locale and Formatting").
///
/// `search_path` shuts out objects of other users: otherwise the server may call a function in `public` that fits the
/// arguments better than the one in `pg_catalog`, with the role's rights (manual, "Writing SECURITY DEFINER Functions
/// Safely"). It applies before the first statement. With `constraint_exclusion=off` the planner calls no function of
/// a partition's CHECK constraints (`relation_excluded_by_constraints`, plancat.c); partition pruning still works.
const SETTINGS: &str = "-c DateStyle=ISO -c IntervalStyle=postgres -c TimeZone=UTC -c extra_float_digits=3 \
                        -c bytea_output=hex -c search_path=pg_catalog,pg_temp -c constraint_exclusion=off";

/// `search_path` as the server reports it.
const SEARCH_PATH: &str = "pg_catalog,pg_temp";

impl Endpoint {
    /// Opens an SQL connection. A spawned task drives it and ends with the client.
    ///
    /// The session has DateStyle ISO, IntervalStyle postgres, TimeZone UTC, extra_float_digits 3, bytea_output hex
    /// and constraint_exclusion off. Its `search_path` holds `pg_catalog` and the temporary schema only, so
    /// statements qualify every other name. An `application_name` in the connection string takes precedence over the
    /// argument. Files with the connection string or the password are read first.
    ///
    /// # Errors
    /// [`ConnectError`] when no host gives a session that `target_session_attrs` allows. The error names every host
    /// tried.
    pub async fn connect_sql(&self, application_name: &str) -> Result<Client, ConnectError> {
        self.as_it_is_now(ConnectionKind::Sql)?.open_sql(application_name).await
    }

    /// Opens a connection in replication mode (`replication=database`; manual, "Streaming Replication Protocol") with
    /// the settings of [`Self::connect_sql`] and this `wal_sender_timeout`.
    pub(crate) async fn connect_replication(
        &self,
        application_name: &str,
        wal_sender_timeout: Duration,
    ) -> Result<Wire, ConnectError> {
        let now = self.as_it_is_now(ConnectionKind::Replication)?;
        now.open_replication(application_name, wal_sender_timeout).await
    }

    fn as_it_is_now(&self, kind: ConnectionKind) -> Result<Endpoint, ConnectError> {
        self.now().map_err(|error| {
            let cause = error.into();
            let remedy = remedy::of_connection(kind, self, Hosting::own(), &cause);
            ConnectError {
                host: self.describe().into(),
                cause,
                earlier: Vec::new(),
                remedy: Box::new(remedy),
            }
        })
    }

    async fn open_sql(&self, application_name: &str) -> Result<Client, ConnectError> {
        let mut config = self.config().clone();
        config.application_name(self.application_name(application_name));
        config.options(options(self.config().get_options(), ""));
        // tokio-postgres gets a socket whose TLS handshake is done. `Direct` stops it from asking the server again;
        // `Require` makes it ask for the channel binding.
        config.ssl_mode(SslMode::Require).ssl_negotiation(SslNegotiation::Direct);
        let (wanted, methods) = (self.session_wanted(), self.login_methods());
        self.first_host(ConnectionKind::Sql, |socket, password| {
            let mut config = config.clone();
            if let Some(password) = password {
                config.password(password);
            }
            async move {
                let (client, connection) =
                    config.connect_raw(SqlSocket::new(socket, methods), Negotiated).await?;
                // Servers report TimeZone at login. Another value shows that a pooler dropped the settings.
                if let Some(zone) = connection.parameter("TimeZone").filter(|zone| *zone != "UTC") {
                    return Err(WireError::dropped("TimeZone", zone, "UTC"));
                }
                // PostgreSQL reports search_path since version 18. A pooler may drop one setting and keep another, so
                // it is always checked.
                let path = connection.parameter("search_path").map(str::to_owned);
                tokio::spawn(async move {
                    match connection.await.map_err(WireError::from) {
                        Ok(()) => {}
                        // The client's own error would only say that the connection is closed.
                        Err(WireError::Protocol(problem)) => {
                            tracing::warn!(
                                problem,
                                "SQL connection closed: PostgreSQL sent a message that the client cannot read"
                            );
                        }
                        Err(error) => {
                            tracing::debug!(
                                error = &error as &dyn std::error::Error,
                                "SQL connection closed"
                            );
                        }
                    }
                });
                let path = match path {
                    Some(path) => path,
                    None => first_value(&client, "SHOW search_path").await?.unwrap_or_default(),
                };
                check_path(&path)?;
                if let Some(query) = query_of(wanted) {
                    let value = first_value(&client, query).await?;
                    check_session(wanted, is_true(value.as_deref()))?;
                }
                Ok(client)
            }
        })
        .await
    }

    async fn open_replication(
        &self,
        application_name: &str,
        wal_sender_timeout: Duration,
    ) -> Result<Wire, ConnectError> {
        let config = self.config();
        // An exported snapshot ends with its transaction, which idles while the snapshot's rows are read.
        let more = format!(
            "-c idle_in_transaction_session_timeout=0 -c wal_sender_timeout={}",
            wal_sender_timeout.as_millis()
        );
        let options = options(config.get_options(), &more);
        let application_name = self.application_name(application_name);
        self.first_host(ConnectionKind::Replication, |socket, password| {
            let parameters = [
                ("replication", "database"),
                ("database", self.database()),
                ("application_name", application_name),
                ("client_encoding", "UTF8"),
                ("options", options.as_str()),
            ];
            async move {
                let credentials = Credentials {
                    user: self.user(),
                    password: password.as_deref(),
                    channel_binding: config.get_channel_binding(),
                    methods: self.login_methods(),
                };
                let mut wire = login::login(socket, credentials, &parameters).await?;
                // The search path stands for all settings: they arrive in the same startup option.
                let path = match wire.search_path() {
                    Some(path) => path.to_owned(),
                    None => ask(&mut wire, "SHOW search_path").await?,
                };
                check_path(&path)?;
                let wanted = self.session_wanted();
                if let Some(query) = query_of(wanted) {
                    check_session(wanted, is_true(Some(&ask(&mut wire, query).await?)))?;
                }
                Ok(wire)
            }
        })
        .await
    }

    fn application_name<'a>(&'a self, given: &'a str) -> &'a str {
        self.config().get_application_name().unwrap_or(given)
    }

    /// Tries every address of every host until `session` succeeds. `connect_timeout` limits each attempt as a whole.
    async fn first_host<T, F>(
        &self,
        kind: ConnectionKind,
        session: impl Fn(Socket, Option<Vec<u8>>) -> F,
    ) -> Result<T, ConnectError>
    where
        F: Future<Output = Result<T, WireError>>,
    {
        let limit = self.connect_timeout();
        let (mut failures, mut remedies) = (Vec::new(), Vec::new());
        let remedy = |cause: &WireError| remedy::of_connection(kind, self, Hosting::own(), cause);
        for target in &self.targets() {
            let mut places = match within(limit, places(target)).await {
                Ok(places) => places,
                Err(error) => {
                    remedies.push(remedy(&error));
                    failures.push((target.to_string(), error));
                    continue;
                }
            };
            let first = failures.len();
            if self.in_random_order() {
                fastrand::shuffle(&mut places);
            }
            for place in places {
                match self.first_mode(target, place, &session).await {
                    Ok(session) => return Ok(session),
                    Err(errors) => {
                        let name = name(target, place);
                        failures.extend(errors.into_iter().map(|error| (name.to_string(), error)));
                    }
                }
            }
            // `localhost` may have an address at which nothing listens. A remedy from another address says more.
            let of_target: Vec<_> = failures[first..].iter().map(|(_, cause)| remedy(cause)).collect();
            let telling = of_target.iter().position(|remedy| remedy.mender == Mender::Person);
            remedies.extend(of_target.into_iter().nth(telling.unwrap_or(failures.len() - first - 1)));
        }
        let (host, cause) = failures
            .pop()
            .unwrap_or_else(|| (self.describe(), WireError::protocol("the host name has no address")));
        // The host with the database may be the one that is down: a remedy that waits wins.
        let passes = remedies.iter().position(|remedy| remedy.mender == Mender::Time);
        let last = remedies.len().saturating_sub(1);
        let remedy = match remedies.into_iter().nth(passes.unwrap_or(last)) {
            Some(remedy) => remedy,
            None => remedy(&cause),
        };
        Err(ConnectError { host: host.into(), cause, earlier: failures, remedy: Box::new(remedy) })
    }

    /// Tries one address as `sslmode` says. As in libpq, `allow` and `prefer` try the other way when `pg_hba.conf`
    /// refuses the first. Unlike libpq they do so after no other refusal, so a wrong password is sent once.
    async fn first_mode<T, F>(
        &self,
        target: &Target,
        place: Place,
        session: &impl Fn(Socket, Option<Vec<u8>>) -> F,
    ) -> Result<T, Vec<WireError>>
    where
        F: Future<Output = Result<T, WireError>>,
    {
        let limit = self.connect_timeout();
        let password = self.password_for(target);
        let mut errors: Vec<WireError> = Vec::new();
        for mode in self.tls().mode.attempts() {
            let encrypted = AtomicBool::new(false);
            let attempt = async {
                let socket = self.open(target, place, *mode).await?;
                encrypted.store(socket.is_encrypted(), Ordering::Relaxed);
                session(socket, password.as_ref().ok().cloned()).await
            };
            let error = match within(limit, attempt).await {
                Ok(session) => return Ok(session),
                Err(error) => error,
            };
            let encrypted = encrypted.load(Ordering::Relaxed);
            let error = match (error, &password) {
                (WireError::Authentication(AuthenticationError::PasswordMissing), Err(Some(why))) => {
                    AuthenticationError::PasswordFile(why.clone()).into()
                }
                (error, _) => error.explained(encrypted),
            };
            // A second attempt is useless on a Unix socket and without TLS on the server.
            let other_way = matches!(place, Place::Tcp(_)) && encrypted == (*mode == TlsMode::Prefer);
            let again = error.sqlstate() == Some(sqlstate::INVALID_AUTHORIZATION_SPECIFICATION) && other_way;
            // The first refusal says more than "the server does not offer TLS".
            let said = matches!(error, WireError::TlsNotOffered) && !errors.is_empty()
                || errors.iter().any(|earlier| earlier.to_string() == error.to_string());
            if !said {
                errors.push(error);
            }
            if !again {
                break;
            }
        }
        Err(errors)
    }

    async fn open(&self, target: &Target, place: Place, mode: TlsMode) -> Result<Socket, WireError> {
        match (&target.address, place) {
            (_, Place::Tcp(address)) => {
                let tls = TlsOptions { mode, ..self.tls().clone() };
                Socket::open_tcp(address, &target.server_name, self.config(), &tls).await
            }
            (Address::Unix(directory), Place::Unix) => Socket::open_unix(directory, target.port).await,
            (Address::Tcp(_), Place::Unix) => Err(WireError::protocol("a host name in place of a directory")),
        }
    }
}

/// A target with its name resolved.
#[derive(Clone, Copy)]
enum Place {
    Tcp(SocketAddr),
    Unix,
}

async fn places(target: &Target) -> Result<Vec<Place>, WireError> {
    match &target.address {
        Address::Unix(_) => Ok(vec![Place::Unix]),
        Address::Tcp(host) => match tokio::net::lookup_host((host.as_str(), target.port)).await {
            Ok(found) => Ok(found.map(Place::Tcp).collect()),
            Err(source) => Err(WireError::Io { doing: "looking up the host name", source }),
        },
    }
}

/// The target's name, with its IP address if the name is a host name.
fn name(target: &Target, place: Place) -> Cow<'static, str> {
    match place {
        Place::Tcp(address) if target.to_string() != address.to_string() => {
            format!("{target} ({})", address.ip()).into()
        }
        _ => target.to_string().into(),
    }
}

async fn within<T>(
    limit: Duration,
    attempt: impl Future<Output = Result<T, WireError>>,
) -> Result<T, WireError> {
    tokio::time::timeout(limit, attempt).await.unwrap_or(Err(WireError::Timeout(limit)))
}

/// Refuses a session whose `search_path` is not the requested one, as behind a pooler that drops startup options.
fn check_path(path: &str) -> Result<(), WireError> {
    match path.replace(' ', "") == SEARCH_PATH {
        true => Ok(()),
        false => Err(WireError::dropped("search_path", path, SEARCH_PATH)),
    }
}

/// Returns the first value of a query's answer.
async fn first_value(client: &Client, question: &str) -> Result<Option<String>, WireError> {
    let answer = simple_answer(client, question).await?;
    let value = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    Ok(value.map(str::to_owned))
}

/// Joins startup options. The connection string's come first, because PostgreSQL uses the last of several values.
fn options(given: Option<&str>, more: &str) -> String {
    [given.unwrap_or_default(), SETTINGS, more].join(" ").trim().to_owned()
}

/// Returns the query whose answer `on` or `t` makes a session unsuitable.
fn query_of(wanted: SessionWanted) -> Option<&'static str> {
    match wanted {
        SessionWanted::Any => None,
        // `on` in a read-only session and on every hot standby.
        SessionWanted::ReadWrite => Some("SHOW transaction_read_only"),
        SessionWanted::Primary => Some("SELECT pg_catalog.pg_is_in_recovery()"),
    }
}

fn is_true(value: Option<&str>) -> bool {
    matches!(value, Some("on" | "t"))
}

fn check_session(wanted: SessionWanted, unsuitable: bool) -> Result<(), WireError> {
    match wanted {
        SessionWanted::ReadWrite if unsuitable => {
            Err(WireError::SessionNotSuitable { found: "read-only", wanted: "read-write" })
        }
        SessionWanted::Primary if unsuitable => {
            Err(WireError::SessionNotSuitable { found: "a standby", wanted: "primary" })
        }
        _ => Ok(()),
    }
}

/// Runs a query with one column and returns the value of its last row.
async fn ask(wire: &mut Wire, query: &str) -> Result<String, WireError> {
    postgres_protocol::message::frontend::query(query, wire.output())
        .map_err(|error| WireError::protocol(error.to_string()))?;
    let mut answer = String::new();
    loop {
        let frame = wire.next_frame().await?;
        match frame.tag() {
            // A row: number of columns, length of the value, its text.
            DATA_ROW_TAG => {
                const BEFORE_VALUE: usize = 6;
                let value = frame.payload().get(BEFORE_VALUE..).unwrap_or_default();
                answer = String::from_utf8_lossy(value).into_owned();
            }
            READY_FOR_QUERY_TAG => return Ok(answer),
            _ => {}
        }
    }
}
