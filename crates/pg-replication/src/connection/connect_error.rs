//! The error of a connection string none of whose hosts gave a connection: each host's failure, and the remedy.

use std::fmt;

use super::{
    endpoint::Endpoint,
    hosting::Hosting,
    remedy::{self, ConnectionKind},
    wire_error::{Chain, WireError},
};
use diagnostics::remedy::Remedy;

/// No host of the connection string gave a connection.
#[derive(Debug)]
pub struct ConnectError {
    /// The last host tried, as `host:port`.
    pub host: Box<str>,
    /// Failure of that host.
    pub cause: WireError,
    /// Failures of the hosts and addresses tried before it, in order.
    pub earlier: Vec<(String, WireError)>,
    /// The cure, and who applies it.
    pub remedy: Box<Remedy>,
}

impl ConnectError {
    /// Returns the error with the cure for this hosting. For a replication connection whose `hosting` an SQL
    /// connection has detected.
    pub fn hosted(mut self, endpoint: &Endpoint, hosting: &Hosting) -> Self {
        let kind = ConnectionKind::Replication;
        self.remedy.cure = remedy::of_connection(kind, endpoint, hosting, &self.cause).cure;
        self
    }

    /// SQLSTATE, when the last host's server refused.
    pub fn sqlstate(&self) -> Option<&str> {
        self.cause.sqlstate()
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot connect to PostgreSQL at {}", self.host)?;
        for (host, cause) in &self.earlier {
            write!(f, "; before that, {host}: {}", Chain(cause))?;
        }
        Ok(())
    }
}

impl std::error::Error for ConnectError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.cause)
    }
}
