//! Links between processes and servers, and the answers that come over them.

use tokio::time::Instant;

/// A link to a server, or of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    Up,
    /// Both ends know.
    Cut,
    /// Nothing passes since this time, and neither end knows.
    Hung(Instant),
}

/// Answer of a simulated connection.
pub(crate) enum Said<T> {
    This(T),
    /// No answer before this time, unless the world changes.
    NothingBefore(Option<Instant>),
}
