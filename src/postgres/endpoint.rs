//! A connection string, parsed once at start: `tokio_postgres::Config` plus the TLS settings that it does not know. (sketch)

/// Sketch: hosts, user, password, database, TLS. Its Debug and Display never show the password.
#[derive(Clone, Debug)]
pub struct Endpoint;

/// Why a connection string cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("sketch")]
pub struct EndpointError;

impl Endpoint {
    /// Parses `postgresql://` URLs and libpq key=value strings, including sslmode=verify-ca|verify-full, sslrootcert, sslcert, sslkey.
    pub fn parse(text: &str) -> Result<Self, EndpointError> {
        todo!()
    }
    /// Opens an ordinary SQL connection; its driver task is spawned and ends with the client. Session settings fixed:
    /// DateStyle ISO, TimeZone UTC, bytea_output hex, extra_float_digits 3, IntervalStyle postgres; application_name.
    pub async fn connect_sql(
        &self,
        application_name: &str,
    ) -> Result<tokio_postgres::Client, super::wire::ConnectError> {
        todo!()
    }
    /// `host:port/database` as shown in logs, without user's password.
    pub fn describe(&self) -> String {
        todo!()
    }
}
