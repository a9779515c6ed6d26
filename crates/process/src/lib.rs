//! Life cycle of a long-running program: exit status, signals, backoff, heartbeats, the service manager, HTTP connections and log
//! lines.
//!
//! Does not know what a program does. All programs share one clock, which a simulation can pause.

pub mod backoff;
pub mod clock;
pub mod failure;
pub mod heartbeat;
pub mod http_connections;
pub mod loopback;
pub mod service_manager;
pub mod shutdown;
pub mod telemetry;
