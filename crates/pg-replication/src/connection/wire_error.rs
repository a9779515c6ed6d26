//! What can go wrong between us and a PostgreSQL server, whatever the connection was for.
//!
//! Says what happened. Knows nothing of hosts, which are [`ConnectError`](super::connect_error::ConnectError)'s, and nothing of retry
//! policy: whoever retries reads [`WireError::sqlstate`] and the variants, and decides.

use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::ErrorFields;
use std::{fmt, io, time::Duration};

use super::{endpoint_error::EndpointError, tls};

/// Most bytes that are kept of each text that a server says: they are shown in logs, `/readyz` and `/status`.
const TEXT_BYTES_MAX: usize = 2000;

/// Next step when a pooler answers.
pub(crate) const POOLER_CURE: &str = "a pooler passes no replication on and keeps no session: connect to PostgreSQL directly, with \
                                      the server's own host and port";

/// An `ErrorResponse` of the server (manual, "Error and Notice Message Fields").
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerError {
    /// `ERROR`, `FATAL` or `PANIC`.
    pub severity: String,
    /// SQLSTATE, five characters (manual, appendix "PostgreSQL Error Codes").
    pub code: String,
    /// The primary message.
    pub message: String,
    /// More about the problem.
    pub detail: Option<String>,
    /// The next step.
    pub hint: Option<String>,
}

impl ServerError {
    /// Reads the fields of an ErrorResponse or NoticeResponse. Total: what is not UTF-8 is replaced, and fields
    /// that end early leave the rest empty, because half an error message is worth more than none. For the same
    /// reason a text that is too long for a log is cut.
    pub(crate) fn from_fields(mut fields: ErrorFields<'_>) -> Self {
        let mut error = ServerError::default();
        while let Ok(Some(field)) = fields.next() {
            let text = cut(&String::from_utf8_lossy(field.value_bytes()));
            match field.type_() {
                b'S' if error.severity.is_empty() => error.severity = text,
                // 'V' is the severity that is never translated.
                b'V' => error.severity = text,
                b'C' => error.code = text,
                b'M' => error.message = text,
                b'D' => error.detail = Some(text),
                b'H' => error.hint = Some(text),
                _ => {}
            }
        }
        error.hinted()
    }

    /// With the next step for what a lock or a read-only session refuses, where the server names none.
    fn hinted(mut self) -> Self {
        let hint = match self.code.as_str() {
            "25006" => {
                "this session may not write: ALTER ROLE ... IN DATABASE ... SET default_transaction_read_only = off; for its role; or \
                 connect to the primary"
            }
            "55P03" => {
                "another session holds a lock that this statement needs: SELECT pid, pg_blocking_pids(pid), query FROM \
                 pg_stat_activity; shows which"
            }
            _ => return self,
        };
        self.hint.get_or_insert_with(|| hint.to_owned());
        self
    }

    /// Tells whether a connection pooler says this in PostgreSQL's place: PgBouncer, and those that took its words over, refuse the
    /// startup parameters `replication` and `options`; RDS Proxy refuses `options`.
    pub fn is_of_pooler(&self) -> bool {
        let message = self.message.to_ascii_lowercase();
        message.starts_with("unsupported startup parameter")
            || message.starts_with("unsupported options startup parameter")
            || message.contains("rds proxy")
    }

    /// The next step after a refused login, where the server's words alone do not tell.
    fn own_hint(&self, encrypted: bool) -> Option<&'static str> {
        match (self.code.as_str(), encrypted) {
            _ if self.is_of_pooler() => Some(POOLER_CURE),
            ("28000", true) if self.message.contains("pg_hba.conf") => Some(
                "let this role in by a line of pg_hba.conf that begins with host or hostssl; where it has only a hostnossl \
                 line, set sslmode=disable",
            ),
            ("28000", false) if self.message.contains("pg_hba.conf") => Some(
                "let this role in by a line of pg_hba.conf that begins with host or hostnossl; where it has only a hostssl \
                 line, set sslmode=verify-full",
            ),
            _ => None,
        }
    }
}

impl From<&tokio_postgres::error::DbError> for ServerError {
    fn from(error: &tokio_postgres::error::DbError) -> Self {
        ServerError {
            severity: cut(error.severity()),
            code: cut(error.code().code()),
            message: cut(error.message()),
            detail: error.detail().map(cut),
            hint: error.hint().map(cut),
        }
        .hinted()
    }
}

/// The text, or as much of it as can be shown.
fn cut(text: &str) -> String {
    let end = (0..=TEXT_BYTES_MAX.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    if end == text.len() { text.to_owned() } else { format!("{}... ({} bytes)", &text[..end], text.len()) }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.severity, self.code, self.message)?;
        if let Some(detail) = &self.detail {
            write!(f, "; detail: {detail}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "; hint: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ServerError {}

/// Reason why the client would not, or could not, prove to the server who it is.
#[derive(Debug, thiserror::Error)]
pub enum AuthenticationError {
    /// The server asks for a password and the configuration has none.
    #[error(
        "the server asks for a password and none is configured: put it into the URL or into a password file"
    )]
    PasswordMissing,
    /// The server asks for a password, and the password file has none for it.
    #[error("the server asks for a password and none is configured: {0}")]
    PasswordFile(String),
    /// `require_auth` does not list how the server wants to have it.
    #[error(
        "the server asks for {0}, which require_auth in the connection string does not allow: correct pg_hba.conf, or \
         require_auth"
    )]
    MethodNotAllowed(&'static str),
    /// The server asks for the password itself where others could read it, or might be another one.
    #[error(
        "the server asks for the password in clear text over {}, which is refused: {GIVES_PASSWORD_AWAY}{}",
        connection(*encrypted),
        if *encrypted { "; require_auth=password gives it all the same" } else { "" }
    )]
    ClearTextRefused {
        /// TLS is at work, with a certificate that nobody has verified.
        encrypted: bool,
    },
    /// The server asks for a hash of the password where others could read it, or might be another one.
    #[error(
        "the server asks for the password as an MD5 hash over {}, which is refused: {GIVES_PASSWORD_AWAY}; require_auth=md5 gives it \
         all the same",
        connection(*encrypted)
    )]
    Md5Refused {
        /// TLS is at work, with a certificate that nobody has verified.
        encrypted: bool,
    },
    /// A method that this client does not speak.
    #[error(
        "the server asks for {0} authentication, which is not supported: use scram-sha-256, cert or peer in pg_hba.conf"
    )]
    Unsupported(String),
    /// `channel_binding=require`, but the server asked for something that cannot do it.
    #[error(
        "channel_binding=require, but {0}: it needs TLS, scram-sha-256 in pg_hba.conf, and a server certificate whose \
         signature has a hash (RSA with PKCS #1 padding, or ECDSA)"
    )]
    ChannelBindingMissing(&'static str),
    /// SCRAM did not add up: the server does not know our password either, or sent nonsense.
    #[error("the SCRAM exchange failed: the server could not prove that it knows the password")]
    Scram(#[source] io::Error),
    /// An SQL connection gave authentication up.
    #[error("the authentication dialogue of the SQL connection failed")]
    Sql(#[source] tokio_postgres::Error),
    /// The password cannot be sent (it holds a zero byte).
    #[error("the password cannot be sent")]
    Password(#[source] io::Error),
}

/// Danger and cure of a password in clear text or as an MD5 hash.
const GIVES_PASSWORD_AWAY: &str = "whoever answers or listens there could log in with it. Use sslmode=verify-full with sslrootcert, or \
                                   scram-sha-256 in pg_hba.conf and for the stored password (password_encryption)";

/// Connection on which nobody knows who answers.
fn connection(encrypted: bool) -> &'static str {
    if encrypted { "a TLS connection whose certificate is not verified" } else { "an unencrypted connection" }
}

impl AuthenticationError {
    /// tokio-postgres tells these apart only by their text (`connect_raw.rs`), which names no cure.
    fn in_words_of_tokio_postgres(error: &tokio_postgres::Error) -> Option<Self> {
        match std::error::Error::source(error)?.to_string().as_str() {
            "password missing" => Some(Self::PasswordMissing),
            "server did not use channel binding" => {
                Some(Self::ChannelBindingMissing("the server did not use it"))
            }
            "unsupported authentication method" => Some(Self::Unsupported("another kind of".to_owned())),
            _ => None,
        }
    }
}

/// Failure of one connection.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The operating system says so: refused, reset, unreachable, no such host.
    #[error("{doing} failed")]
    Io {
        /// The act, such as "connecting".
        doing: &'static str,
        /// The operating system's error.
        #[source]
        source: io::Error,
    },
    /// The server ended the connection.
    #[error("the server closed the connection{}", if *mid_message { " in the middle of a message" } else { "" })]
    Closed {
        /// A message had begun to arrive.
        mid_message: bool,
    },
    /// Connecting, the TLS handshake and the login together took too long.
    #[error("no connection within {} s (connect_timeout)", .0.as_secs())]
    Timeout(Duration),
    /// The TLS handshake failed, or TLS broke later.
    #[error("TLS failed: {hint}")]
    Tls {
        /// The next step.
        hint: &'static str,
        /// The TLS library's error.
        #[source]
        source: io::Error,
    },
    /// `sslmode` asks for TLS, and the server does not do it.
    #[error("the server does not offer TLS: set ssl = on there, or sslmode=disable here")]
    TlsNotOffered,
    /// The connection string or a file it names cannot be used.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// Authentication was given up on our side; a rejection by the server is [`WireError::Server`] with SQLSTATE class 28.
    #[error("authentication failed")]
    Authentication(#[from] AuthenticationError),
    /// The server answered with an error.
    #[error(transparent)]
    Server(Box<ServerError>),
    /// Bytes that are not the PostgreSQL protocol, or not what may come here.
    #[error("protocol error: {0}")]
    Protocol(String),
    /// The server works but is not one that `target_session_attrs` asks for.
    #[error("the server is {found} and target_session_attrs={wanted}")]
    SessionNotSuitable {
        /// `read-only` or `a standby`.
        found: &'static str,
        /// `read-write` or `primary`.
        wanted: &'static str,
    },
    /// A pooler on the way to the server has dropped the settings of the session.
    #[error(
        "the session has {setting} {found} though {wanted} was asked for: a connection pooler that drops the settings of a session \
         stands between; {POOLER_CURE}"
    )]
    SettingsDropped {
        /// The setting.
        setting: &'static str,
        /// The value that the session has.
        found: String,
        /// The value that was asked for.
        wanted: &'static str,
    },
    /// An SQL connection failed in a way that tokio-postgres does not tell apart.
    #[error("the SQL connection failed")]
    Sql(#[source] tokio_postgres::Error),
}

impl WireError {
    /// SQLSTATE, when it was the server who refused.
    pub fn sqlstate(&self) -> Option<&str> {
        self.server().map(|error| error.code.as_str())
    }

    /// The server's own words, when it was the server who refused.
    pub fn server(&self) -> Option<&ServerError> {
        match self {
            WireError::Server(error) => Some(error),
            _ => None,
        }
    }

    /// With the next step where the server names none: a pooler in its place, or encryption that `pg_hba.conf` refuses.
    pub(crate) fn explained(mut self, encrypted: bool) -> Self {
        if let WireError::Server(server) = &mut self
            && server.hint.is_none()
        {
            server.hint = server.own_hint(encrypted).map(str::to_owned);
        }
        self
    }

    /// Of a setting with another value than was asked for.
    pub(crate) fn dropped(setting: &'static str, found: &str, wanted: &'static str) -> Self {
        WireError::SettingsDropped { setting, found: cut(found), wanted }
    }

    pub(crate) fn protocol(what: impl Into<String>) -> Self {
        WireError::Protocol(what.into())
    }

    /// Sorts an I/O error of an open connection: rustls hides its own errors inside `io::Error`, a peer that vanishes
    /// without TLS's close message is an end of file like any other, and what `SqlSocket` refuses comes back through
    /// the socket.
    pub(crate) fn from_io(doing: &'static str, source: io::Error) -> Self {
        if source.kind() == io::ErrorKind::UnexpectedEof {
            return WireError::Closed { mid_message: false };
        }
        let source = match source.downcast::<WireError>() {
            Ok(refused) => return refused,
            Err(source) => source,
        };
        match source.get_ref() {
            Some(inner) => match inner.downcast_ref::<rustls::Error>() {
                Some(error) => WireError::Tls { hint: tls::hint(error), source },
                None => WireError::Io { doing, source },
            },
            None => WireError::Io { doing, source },
        }
    }
}

impl From<ServerError> for WireError {
    fn from(error: ServerError) -> Self {
        WireError::Server(Box::new(error))
    }
}

impl From<tokio_postgres::Error> for WireError {
    fn from(error: tokio_postgres::Error) -> Self {
        if let Some(server) = error.as_db_error() {
            return ServerError::from(server).into();
        }
        if error.is_closed() {
            return WireError::Closed { mid_message: false };
        }
        if let Some(refusal) = AuthenticationError::in_words_of_tokio_postgres(&error) {
            return refusal.into();
        }
        if error.to_string() == "authentication error" {
            return AuthenticationError::Sql(error).into();
        }
        let is_io = std::error::Error::source(&error).is_some_and(|source| source.is::<io::Error>());
        if !is_io {
            return WireError::Sql(error);
        }
        match error.into_source().map(|source| source.downcast::<io::Error>()) {
            // Said by tokio-util's `Decoder::decode_eof`.
            Some(Ok(source)) if source.to_string() == "bytes remaining on stream" => {
                WireError::Closed { mid_message: true }
            }
            Some(Ok(source)) => WireError::from_io("talking to the server", *source),
            Some(Err(other)) => WireError::protocol(other.to_string()),
            None => WireError::Closed { mid_message: false },
        }
    }
}

/// An error and its sources in one line.
pub(crate) struct Chain<'a>(pub(crate) &'a dyn std::error::Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}
