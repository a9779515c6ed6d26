//! Faults of the relay itself, done at the seam, so that the oracle can show that it bites without a switch in the product.
//! `tests/mutations.sh` changes the product's own code, in a copy.

/// What a relay could do wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sabotage {
    /// PostgreSQL is told what was received, not what is confirmed.
    AcknowledgeReceived,
    /// A confirm counts for every message published before.
    ConfirmTakesThoseBefore,
    /// Messages of one aggregate go out together, although one at a time is promised.
    NoGate,
    /// The first row after a reconnect goes missing.
    SkipOnResume,
    /// Exchange, queue and binding are declared by the first connection only.
    DeclareOnlyAtFirst,
    /// Twice the messages that `in_flight_max` allows are held.
    HoldTwice,
    /// A row counts as parked before it is in the table.
    ForgetParked,
}
