//! Life of a long-running program: how it ends, what signals mean, when it tries again, and where its log lines go.
//!
//! Knows nothing of what a program does. One clock for all of them, which a simulation can stop.

pub mod backoff;
pub mod clock;
pub mod failure;
pub mod http_connections;
pub mod shutdown;
pub mod telemetry;
