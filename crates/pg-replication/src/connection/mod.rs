//! Connections: from a connection string to an open session, for SQL or replication.
//!
//! Knows libpq's options, files, TLS, login and frames. Does not know what a session is used for.

pub(crate) mod answer;
mod connect;
pub(crate) mod connect_error;
mod connection_string;
pub(crate) mod endpoint;
pub(crate) mod endpoint_error;
pub(crate) mod hosting;
mod login;
mod login_methods;
mod options;
mod password_file;
mod remedy;
mod service_file;
pub(crate) mod socket;
mod sql_limits;
mod sql_socket;
mod tls;
pub(crate) mod wire;
pub(crate) mod wire_error;
