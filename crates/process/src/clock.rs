//! The clock.

use std::time::Instant;

/// The time by the runtime's clock, which is the machine's unless a simulation has stopped it. The relay asks no other
/// clock how much time has passed.
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
