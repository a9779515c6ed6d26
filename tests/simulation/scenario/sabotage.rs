//! Sabotage: bugs of the relay, simulated in the servers' answers, so that the oracle proves itself without a switch in the
//! product. Each has a test with a limit on the number of seeds. `tests/mutations.sh` changes the product's own code in a copy.

/// A bug that a relay could have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sabotage {
    /// Acknowledges received positions to PostgreSQL instead of confirmed ones.
    AcknowledgeReceived,
    /// Treats a confirm as a confirm of every earlier message.
    ConfirmTakesThoseBefore,
    /// Sends messages of one aggregate together, although one at a time is promised.
    NoGate,
    /// Skips the first row after a reconnect.
    SkipOnResume,
    /// Declares exchange, queue and binding on the first connection only.
    DeclareOnlyAtFirst,
    /// Removes rows as soon as they are seen.
    RemoveAtOnce,
    /// Holds twice the messages that `in_flight_max` allows.
    HoldTwice,
    /// Does not read the slot's record, so that a lost slot looks like a first start.
    ForgetRecord,
    /// Grants the fence to every connection.
    NoFence,
    /// Counts a row as parked before it is in the table.
    ForgetParked,
    /// Does not copy the slot's position into its record.
    RecordSeldom,
    /// Trusts the slot's position although its record knows better.
    DistrustRecord,
    /// Sends the whole window again after the channel was closed for one message.
    WindowAgain,
    /// Counts messages as confirmed that were not sent when the channel was closed.
    UnsentCounts,
    /// Sends a nacked message again at once.
    NackedAtOnce,
    /// Does not lengthen the waits between turns of nacked messages.
    NackedWithoutGrowingWaits,
    /// Trusts a record that this server has not written.
    TrustAnyRecord,
    /// Does not mark replayed messages.
    ReplayUnmarked,
    /// Leaves the last row out of a replay, without a word.
    SnapshotLosesRow,
    /// Counts a returned message of a command as confirmed.
    ReturnedIsRequeued,
    /// Requeues a parked row without a look for later rows.
    OverlookOvertaking,
    /// Lets two commands work on the parked rows at once.
    ForgetParkedLock,
    /// Waits for ever in the middle of the loop's turn.
    StuckInTheLoop,
    /// Requeues parked rows from the last to the first.
    ParkedListReversed,
}
