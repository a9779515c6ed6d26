//! Jittered exponential backoff.

use std::time::Duration;

/// Exponentially longer waits up to a maximum, with jitter so that many clients of a failed server do not return in
/// step.
#[derive(Clone, Debug)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    attempts: u32,
}

impl Backoff {
    /// Creates waits between `min` and `max`, the first about `min`.
    pub fn new(min: Duration, max: Duration) -> Self {
        Self { min, max, attempts: 0 }
    }

    /// Returns the next wait.
    pub fn next_wait(&mut self) -> Duration {
        self.attempts = self.attempts.saturating_add(1);
        delay(self.min, self.max, self.attempts)
    }

    /// Returns the number of waits since the last [`reset`](Self::reset).
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Starts over with short waits, after a success.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }
}

/// Returns the wait before attempt number `attempt` (from 1): between half of and all of `min * 2^(attempt - 1)`, at
/// most `max`.
pub fn delay(min: Duration, max: Duration, attempt: u32) -> Duration {
    let doublings = attempt.saturating_sub(1).min(20);
    let whole = min.saturating_mul(1 << doublings).min(max);
    whole.mul_f64(0.5 + fastrand::f64() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_maximum_and_stay_within_half_and_whole() {
        let (min, max) = (Duration::from_millis(100), Duration::from_secs(10));
        let mut backoff = Backoff::new(min, max);
        for attempt in 1..100u32 {
            let whole = (min * (1 << (attempt - 1).min(10))).min(max);
            let wait = backoff.next_wait();
            assert!(wait >= whole / 2 && wait <= whole, "attempt {attempt}: {wait:?} of {whole:?}");
        }
        backoff.reset();
        assert!(backoff.next_wait() <= min);
    }
}
