//! Clock.

use std::time::Instant;

/// Returns the time of the runtime's clock, which a simulation can pause. The relay measures time by no other clock.
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
