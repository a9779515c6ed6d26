//! The holder of a slot: a server process and its client.

use std::fmt;

/// Prefix of the application name of every outboxd, by which instances recognise each other.
const APPLICATION_PREFIX: &str = "outboxd";

/// A server process that holds a slot, and its client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Server process.
    pub pid: i32,
    /// Application name of the client.
    pub application: String,
    /// Role of the client.
    pub user: Option<String>,
    /// Address of the client.
    pub address: ClientAddress,
    /// Set if the client is an outboxd. Its application name begins with outboxd, or is that of this instance or of the holder in the
    /// slot's record; or it holds the temporary slot, which only outboxd creates.
    pub is_outboxd: bool,
}

/// Address that a client has connected from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientAddress {
    /// An IP address.
    Ip(String),
    /// A Unix socket on the server's machine.
    UnixSocket,
    /// Hidden from this role.
    Hidden,
}

impl ClientAddress {
    /// The address from `client_addr` and `client_port` of `pg_stat_activity`.
    pub(crate) fn of(address: Option<String>, port: Option<i32>) -> Self {
        match (address, port) {
            (Some(address), _) => ClientAddress::Ip(address),
            (None, Some(_)) => ClientAddress::UnixSocket,
            (None, None) => ClientAddress::Hidden,
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "application \"{}\", user ", self.application)?;
        match &self.user {
            Some(user) => write!(f, "\"{user}\", ")?,
            None => f.write_str("unknown, ")?,
        }
        match &self.address {
            ClientAddress::Ip(address) => write!(f, "address {address}, ")?,
            ClientAddress::UnixSocket => f.write_str("on a Unix socket, ")?,
            ClientAddress::Hidden => f.write_str("address hidden without pg_read_all_stats, ")?,
        }
        write!(f, "server process {}", self.pid)
    }
}

impl Holder {
    /// Tells whether a client of this application name is an outboxd. `own` is the name of this instance: instances of a source share
    /// their configuration, and so a name in the connection string.
    pub fn is_outboxd(application: &str, own: &str) -> bool {
        application.starts_with(APPLICATION_PREFIX) || !application.is_empty() && application == own
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outboxd_is_known_by_its_name_and_by_ours() {
        for (application, own, is) in [
            ("outboxd orders", "outboxd orders", true),
            ("outboxd recover orders", "outboxd orders", true),
            ("billing relay", "billing relay", true),
            ("Debezium Streaming", "outboxd orders", false),
            ("pg_recvlogical", "billing relay", false),
            ("", "", false),
        ] {
            assert_eq!(Holder::is_outboxd(application, own), is, "{application} to {own}");
        }
    }
}
