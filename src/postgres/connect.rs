//! Opens connections: tries the hosts in order, each within its time, and fixes the session settings that both kinds
//! of connections share, so that a value reads the same whether it came by replication or by SQL.

use std::{borrow::Cow, net::SocketAddr, time::Duration};

use postgres_protocol::message::backend::{DATA_ROW_TAG, READY_FOR_QUERY_TAG};
use tokio_postgres::{
    Client, SimpleQueryMessage,
    config::{SslMode, SslNegotiation, TargetSessionAttrs},
};

use super::{
    endpoint::{Address, Endpoint, Target},
    error::{ConnectError, WireError},
    login::{self, Credentials},
    socket::Socket,
    sql_socket::{Negotiated, SqlSocket},
    wire::Wire,
};

/// Session settings of every connection; text of values depends on them (manual, "Locale and Formatting").
const SETTINGS: &str = "-c DateStyle=ISO -c IntervalStyle=postgres -c TimeZone=UTC -c extra_float_digits=3 \
                        -c bytea_output=hex";
/// `on` in a read-only session and on every hot standby.
const READ_ONLY_QUERY: &str = "SHOW transaction_read_only";

impl Endpoint {
    /// Opens an ordinary SQL connection. Its driver task is spawned and ends with the client.
    ///
    /// The session has DateStyle ISO, IntervalStyle postgres, TimeZone UTC, extra_float_digits 3 and bytea_output hex.
    /// An `application_name` in the connection string goes before the one given here.
    ///
    /// # Errors
    /// When no host gave a session that `target_session_attrs` allows; names every host tried.
    pub async fn connect_sql(&self, application_name: &str) -> Result<Client, ConnectError> {
        let mut config = self.config().clone();
        config.application_name(self.application_name(application_name));
        config.options(options(self.config().get_options(), ""));
        // TLS is done already when tokio-postgres gets the socket. `Direct` keeps it from asking the server again, and
        // `Require` makes it ask us for the channel binding.
        config.ssl_mode(SslMode::Require).ssl_negotiation(SslNegotiation::Direct);
        let wanted = config.get_target_session_attrs();
        self.first_host(|socket| {
            let config = config.clone();
            async move {
                let (client, connection) = config.connect_raw(SqlSocket::new(socket), Negotiated).await?;
                tokio::spawn(async move {
                    match connection.await.map_err(WireError::from) {
                        Ok(()) => {}
                        // The client only hears that the connection is closed.
                        Err(WireError::Protocol(problem)) => {
                            tracing::warn!(
                                problem,
                                "an SQL connection ended: PostgreSQL sent what outboxd cannot read"
                            );
                        }
                        Err(error) => {
                            tracing::debug!(
                                error = &error as &dyn std::error::Error,
                                "an SQL connection ended"
                            );
                        }
                    }
                });
                if wanted != TargetSessionAttrs::Any {
                    let read_only = client.simple_query(READ_ONLY_QUERY).await?.iter().any(
                        |message| matches!(message, SimpleQueryMessage::Row(row) if row.get(0) == Some("on")),
                    );
                    check_session(wanted, read_only)?;
                }
                Ok(client)
            }
        })
        .await
    }

    /// Opens a connection in replication mode (manual, "Streaming Replication Protocol"): `replication=database`, with
    /// the settings of [`Self::connect_sql`] and this `wal_sender_timeout`.
    pub(super) async fn connect_replication(
        &self,
        application_name: &str,
        wal_sender_timeout: Duration,
    ) -> Result<Wire, ConnectError> {
        let config = self.config();
        // A backlog's snapshot lives in a transaction that idles here while its rows are published.
        let more = format!(
            "-c idle_in_transaction_session_timeout=0 -c wal_sender_timeout={}",
            wal_sender_timeout.as_millis()
        );
        let options = options(config.get_options(), &more);
        let application_name = self.application_name(application_name);
        self.first_host(|socket| {
            let parameters = [
                ("replication", "database"),
                ("database", self.database()),
                ("application_name", application_name),
                ("client_encoding", "UTF8"),
                ("options", options.as_str()),
            ];
            let credentials = Credentials {
                user: self.user(),
                password: config.get_password(),
                channel_binding: config.get_channel_binding(),
            };
            async move {
                let mut wire = login::login(socket, credentials, &parameters).await?;
                let wanted = config.get_target_session_attrs();
                if wanted != TargetSessionAttrs::Any {
                    check_session(wanted, is_read_only(&mut wire).await?)?;
                }
                Ok(wire)
            }
        })
        .await
    }

    fn application_name<'a>(&'a self, given: &'a str) -> &'a str {
        self.config().get_application_name().unwrap_or(given)
    }

    /// Tries every host, and every address of each, until `session` succeeds on one. Each has `connect_timeout` for
    /// everything together.
    async fn first_host<T, F>(&self, session: impl Fn(Socket) -> F) -> Result<T, ConnectError>
    where
        F: Future<Output = Result<T, WireError>>,
    {
        let limit = self.connect_timeout();
        let mut failures = Vec::new();
        let mut targets = self.targets();
        if self.in_random_order() {
            fastrand::shuffle(&mut targets);
        }
        for target in &targets {
            let mut places = match within(limit, places(target)).await {
                Ok(places) => places,
                Err(error) => {
                    failures.push((target.to_string(), error));
                    continue;
                }
            };
            if self.in_random_order() {
                fastrand::shuffle(&mut places);
            }
            for place in places {
                let attempt = async { session(self.open(target, place).await?).await };
                match within(limit, attempt).await {
                    Ok(session) => return Ok(session),
                    Err(error) => failures.push((name(target, place).into_owned(), error)),
                }
            }
        }
        let (host, cause) = failures
            .pop()
            .unwrap_or_else(|| (self.describe(), WireError::protocol("the host name has no address")));
        Err(ConnectError { host, cause, earlier: failures })
    }

    async fn open(&self, target: &Target, place: Place) -> Result<Socket, WireError> {
        match (&target.address, place) {
            (_, Place::Tcp(address)) => {
                Socket::open_tcp(address, &target.server_name, self.config(), self.tls()).await
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

/// The target, with the address when that says more.
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

/// The user's options first: PostgreSQL takes the last of several settings.
fn options(given: Option<&str>, more: &str) -> String {
    [given.unwrap_or_default(), SETTINGS, more].join(" ").trim().to_owned()
}

fn check_session(wanted: TargetSessionAttrs, read_only: bool) -> Result<(), WireError> {
    match (wanted, read_only) {
        (TargetSessionAttrs::ReadWrite, true) => {
            Err(WireError::SessionNotSuitable { found: "read-only", wanted: "read-write" })
        }
        (TargetSessionAttrs::ReadOnly, false) => {
            Err(WireError::SessionNotSuitable { found: "read-write", wanted: "read-only" })
        }
        _ => Ok(()),
    }
}

async fn is_read_only(wire: &mut Wire) -> Result<bool, WireError> {
    postgres_protocol::message::frontend::query(READ_ONLY_QUERY, wire.output())
        .map_err(|error| WireError::protocol(error.to_string()))?;
    let mut read_only = false;
    loop {
        let frame = wire.next_frame().await?;
        match frame.tag() {
            // One column, its length, its text: the row of a one-column result ends with the value.
            DATA_ROW_TAG => read_only = frame.payload().ends_with(b"\0\0\0\x02on"),
            READY_FOR_QUERY_TAG => return Ok(read_only),
            _ => {}
        }
    }
}
