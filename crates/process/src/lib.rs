//! Life cycle of a long-running program: exit status, signals, backoff, HTTP connections and log lines.
//!
//! Does not know what a program does. All programs share one clock, which a simulation can pause.

pub mod backoff;
pub mod clock;
pub mod failure;
pub mod http_connections;
pub mod shutdown;
pub mod telemetry;
