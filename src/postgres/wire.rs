//! sketch

/// Could not connect.
#[derive(Debug, thiserror::Error)]
#[error("sketch")]
pub struct ConnectError;
