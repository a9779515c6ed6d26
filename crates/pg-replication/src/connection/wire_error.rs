//! Errors between the client and a PostgreSQL server, for both kinds of connections.
//!
//! Knows what happened, but no hosts, which [`ConnectError`](super::connect_error::ConnectError) adds, and no retry
//! policy: the caller decides by [`WireError::sqlstate`] and the variant.

use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::ErrorFields;
use std::{fmt, io, time::Duration};

use super::{endpoint_error::EndpointError, tls};
use crate::sqlstate;

/// Most bytes kept of each text from a server. Logs, `/readyz` and `/status` show these texts.
const TEXT_BYTES_MAX: usize = 2000;

/// Next step when a connection pooler answers.
pub(crate) const POOLER_CURE: &str = "a connection pooler forwards no replication and keeps no session: connect to PostgreSQL \
                                      directly, with the server's own host and port";

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
    /// Reads the fields of an ErrorResponse or NoticeResponse. Total: invalid UTF-8 is replaced, fields that end
    /// early leave the rest empty, and long texts are cut.
    pub(crate) fn from_fields(mut fields: ErrorFields<'_>) -> Self {
        let mut error = ServerError::default();
        while let Ok(Some(field)) = fields.next() {
            let text = cut(&String::from_utf8_lossy(field.value_bytes()));
            match field.type_() {
                b'S' if error.severity.is_empty() => error.severity = text,
                // 'V' is the severity in English, whatever the server's language.
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

    /// Adds a hint for a lock or a read-only session, if the server gives none.
    fn hinted(mut self) -> Self {
        let hint = match self.code.as_str() {
            sqlstate::READ_ONLY_SQL_TRANSACTION => {
                "this session may not write: ALTER ROLE ... IN DATABASE ... SET default_transaction_read_only = off; for its role; or \
                 connect to the primary"
            }
            sqlstate::LOCK_NOT_AVAILABLE => {
                "another session holds a lock that this statement needs: SELECT pid, pg_blocking_pids(pid), query FROM \
                 pg_stat_activity; shows which"
            }
            _ => return self,
        };
        self.hint.get_or_insert_with(|| hint.to_owned());
        self
    }

    /// Tells whether the error comes from a connection pooler. PgBouncer, and others with its messages, refuse the
    /// startup parameters `replication` and `options`; RDS Proxy refuses `options`.
    pub fn is_of_pooler(&self) -> bool {
        let message = self.message.to_ascii_lowercase();
        message.starts_with("unsupported startup parameter")
            || message.starts_with("unsupported options startup parameter")
            || message.contains("rds proxy")
    }

    /// Returns the next step after a refused login that the server's message does not give.
    fn own_hint(&self, encrypted: bool) -> Option<&'static str> {
        match (self.code.as_str(), encrypted) {
            _ if self.is_of_pooler() => Some(POOLER_CURE),
            (sqlstate::INVALID_AUTHORIZATION_SPECIFICATION, true) if self.message.contains("pg_hba.conf") => {
                Some(
                    "let this role in by a line of pg_hba.conf that begins with host or hostssl; where it has only a hostnossl \
                 line, set sslmode=disable",
                )
            }
            (sqlstate::INVALID_AUTHORIZATION_SPECIFICATION, false)
                if self.message.contains("pg_hba.conf") =>
            {
                Some(
                    "let this role in by a line of pg_hba.conf that begins with host or hostnossl; where it has only a hostssl \
                 line, set sslmode=verify-full",
                )
            }
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

/// Returns the text, cut to [`TEXT_BYTES_MAX`].
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

/// Reason why the client did not log in.
#[derive(Debug, thiserror::Error)]
pub enum AuthenticationError {
    /// The server asks for a password, and none is configured.
    #[error(
        "the server asks for a password and none is configured: put it into the URL or into a password file"
    )]
    PasswordMissing,
    /// The server asks for a password, and the password file gives none.
    #[error("the server asks for a password and none is configured: {0}")]
    PasswordFile(String),
    /// The server asks for a method that `require_auth` does not allow.
    #[error(
        "the server asks for {0}, which require_auth in the connection string does not allow: correct pg_hba.conf, or \
         require_auth"
    )]
    MethodNotAllowed(&'static str),
    /// The server asks for a clear-text password, and the server is not identified or the connection not encrypted.
    #[error(
        "the server asks for the password in clear text over {}, which is refused: {GIVES_PASSWORD_AWAY}{}",
        connection(*encrypted),
        if *encrypted { "; require_auth=password allows it" } else { "" }
    )]
    ClearTextRefused {
        /// The connection uses TLS, with an unverified certificate.
        encrypted: bool,
    },
    /// The server asks for an MD5 hash of the password, and the server is not identified.
    #[error(
        "the server asks for the password as an MD5 hash over {}, which is refused: {GIVES_PASSWORD_AWAY}; require_auth=md5 \
         allows it",
        connection(*encrypted)
    )]
    Md5Refused {
        /// The connection uses TLS, with an unverified certificate.
        encrypted: bool,
    },
    /// A login method that this client does not support.
    #[error(
        "the server asks for {0} authentication, which is not supported: use scram-sha-256, cert or peer in pg_hba.conf"
    )]
    Unsupported(String),
    /// `channel_binding=require`, and the server asks for a method without channel binding.
    #[error(
        "channel_binding=require, but {0}: it needs TLS, scram-sha-256 in pg_hba.conf, and a server certificate whose \
         signature has a hash (RSA with PKCS #1 padding, or ECDSA)"
    )]
    ChannelBindingMissing(&'static str),
    /// The server failed to prove that it knows the password, or sent an invalid SCRAM message.
    #[error("the SCRAM exchange failed: the server could not prove that it knows the password")]
    Scram(#[source] io::Error),
    /// tokio-postgres gave up the authentication of an SQL connection.
    #[error("the authentication dialogue of the SQL connection failed")]
    Sql(#[source] tokio_postgres::Error),
    /// The password cannot be sent, because it holds a zero byte.
    #[error("the password cannot be sent")]
    Password(#[source] io::Error),
}

/// Danger and cure of a password in clear text or as an MD5 hash.
const GIVES_PASSWORD_AWAY: &str = "anyone who answers or listens there could log in with it. Use sslmode=verify-full with sslrootcert, or \
                                   scram-sha-256 in pg_hba.conf and for the stored password (password_encryption)";

/// Describes a connection to an unidentified server.
fn connection(encrypted: bool) -> &'static str {
    if encrypted { "a TLS connection whose certificate is not verified" } else { "an unencrypted connection" }
}

impl AuthenticationError {
    /// Recognises errors that tokio-postgres distinguishes only by their text (`connect_raw.rs`), without a cure.
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
    /// An error of the operating system: refused, reset, unreachable, no such host.
    #[error("{doing} failed")]
    Io {
        /// The operation, such as "connecting".
        doing: &'static str,
        /// The operating system's error.
        #[source]
        source: io::Error,
    },
    /// The server ended the connection.
    #[error("the server closed the connection{}", if *mid_message { " in the middle of a message" } else { "" })]
    Closed {
        /// The end came within a message.
        mid_message: bool,
    },
    /// `connect_timeout` passed before the connection was ready.
    #[error("no connection within {} s (connect_timeout)", .0.as_secs())]
    Timeout(Duration),
    /// The TLS handshake or the TLS session failed.
    #[error("TLS failed: {hint}")]
    Tls {
        /// The next step.
        hint: &'static str,
        /// The TLS library's error.
        #[source]
        source: io::Error,
    },
    /// `sslmode` requires TLS, and the server does not offer it.
    #[error("the server does not offer TLS: set ssl = on there, or sslmode=disable here")]
    TlsNotOffered,
    /// The connection string, or a file that it names, cannot be used.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// The client gave up authentication. A rejection by the server is [`WireError::Server`] with SQLSTATE class 28.
    #[error("authentication failed")]
    Authentication(#[from] AuthenticationError),
    /// The server answered with an error.
    #[error(transparent)]
    Server(Box<ServerError>),
    /// Bytes that are not PostgreSQL's protocol, or a message out of place.
    #[error("protocol error: {0}")]
    Protocol(String),
    /// The server is not one that `target_session_attrs` allows.
    #[error("the server is {found} and target_session_attrs={wanted}")]
    SessionNotSuitable {
        /// `read-only` or `a standby`.
        found: &'static str,
        /// `read-write` or `primary`.
        wanted: &'static str,
    },
    /// A pooler between client and server dropped the session's settings.
    #[error(
        "the session has {setting} {found} instead of {wanted}: a connection pooler dropped the session's settings; {POOLER_CURE}"
    )]
    SettingsDropped {
        /// The setting.
        setting: &'static str,
        /// The value that the session has.
        found: String,
        /// The requested value.
        wanted: &'static str,
    },
    /// A failure of an SQL connection that tokio-postgres does not specify.
    #[error("the SQL connection failed")]
    Sql(#[source] tokio_postgres::Error),
}

impl WireError {
    /// Returns the SQLSTATE of a server's error.
    pub fn sqlstate(&self) -> Option<&str> {
        self.server().map(|error| error.code.as_str())
    }

    /// Returns the server's error.
    pub fn server(&self) -> Option<&ServerError> {
        match self {
            WireError::Server(error) => Some(error),
            _ => None,
        }
    }

    /// Adds the next step if the server gives none: for a pooler, or for encryption that `pg_hba.conf` refuses.
    pub(crate) fn explained(mut self, encrypted: bool) -> Self {
        if let WireError::Server(server) = &mut self
            && server.hint.is_none()
        {
            server.hint = server.own_hint(encrypted).map(str::to_owned);
        }
        self
    }

    /// Returns the error of a session setting with another value than requested.
    pub(crate) fn dropped(setting: &'static str, found: &str, wanted: &'static str) -> Self {
        WireError::SettingsDropped { setting, found: cut(found), wanted }
    }

    pub(crate) fn protocol(what: impl Into<String>) -> Self {
        WireError::Protocol(what.into())
    }

    /// Classifies an I/O error of an open connection. rustls and `SqlSocket` wrap their errors in `io::Error`, and a
    /// peer that vanishes without TLS's close message is an end of file.
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
            // Text of tokio-util's `Decoder::decode_eof`.
            Some(Ok(source)) if source.to_string() == "bytes remaining on stream" => {
                WireError::Closed { mid_message: true }
            }
            Some(Ok(source)) => WireError::from_io("talking to the server", *source),
            Some(Err(other)) => WireError::protocol(other.to_string()),
            None => WireError::Closed { mid_message: false },
        }
    }
}

/// An error with its sources on one line.
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
