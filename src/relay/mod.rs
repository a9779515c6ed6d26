//! The relay: what joins PostgreSQL and RabbitMQ. Only this room knows both.
//!
//! ```text
//! supervisor   connect, acquire the slot or stand by, run, back off, drain
//!   backfill::publish   rows of the table         \
//!   pipeline   the replication stream              > Delivery (ledger and publisher) -> broker
//! slot_creation  whom a slot that is being made waits for
//! fence        of several instances one publishes
//! monitor      beside the stream: how far the slot is
//! mishap       what holds messages up while both links are well, in words
//! fault        what went wrong, and the verdict: again, or halt
//! subscriptions   one task for all sources: whether their queues are still there
//! window       the sources of a process share it
//! database, broker   what all of these, and the features, ask of the two servers
//! source       everything that relaying one source needs
//! ```
//!
//! Features have rooms of their own, which stand on the seam to both servers (`database`, `broker`), on `Fault` and on `Delivery`:
//! [`backfill`](crate::backfill) (backlog, recover, replay), [`parking`](crate::parking), [`cleanup`](crate::cleanup).

use std::time::Duration;

pub mod broker;
pub mod database;
pub(crate) mod deadline;
pub(crate) mod delivery;
pub(crate) mod fault;
mod fence;
pub(crate) mod mishap;
mod monitor;
mod pipeline;
pub(crate) mod slot_creation;
pub(crate) mod source;
mod streamed_table;
mod subscriptions;
mod supervisor;
mod window;

pub use fault::{Fault, Verdict};
pub use fence::fence_queue;
pub use mishap::Overdue;
pub use slot_creation::watch_slot_creation;
pub use source::{Ended, Source};
use streamed_table::StreamedTable;
pub use subscriptions::watch_subscriptions;
pub use supervisor::supervise;
pub use window::SharedWindow;

pub use crate::ledger::Ordering;
use process::{backoff, shutdown::Shutdown};

/// What to do with a message that no queue is bound for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnUnroutable {
    /// Hold everything and try again until a route appears.
    Halt,
    /// Put its row aside, and go on.
    Park,
    /// Log it, count it, and go on.
    Drop,
}

/// Policy for a row that cannot become a message, or whose message the broker refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnInvalid {
    /// Confirm what came before it, then halt.
    Halt,
    /// Put it aside, and go on.
    Park,
    /// Log it, and go on. Only for a replay, whose rows are still in the table.
    LeaveOut,
}

/// Policy for a message that a queue does not take (`basic.nack`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnNack {
    /// Send it again until it gets through.
    Wait,
    /// When nothing of its exchange and routing key gets through for a while, put its row aside, and go on.
    Park,
}

/// What to do with the rows that are older than the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BacklogPolicy {
    /// Publish them before the stream.
    Publish,
    /// Leave them alone.
    Skip,
}

/// How one source is relayed: keys `delivery.*`, `backlog` and `rabbitmq.confirm_timeout_ms`.
#[derive(Clone, Debug)]
pub struct RelayOptions {
    /// When messages of one aggregate may be in flight together.
    pub ordering: Ordering,
    /// Messages held at once, waiting ones included.
    pub in_flight_max: usize,
    /// Bytes held at once.
    pub in_flight_bytes_max: usize,
    /// With whom: the sources of the process.
    pub window: SharedWindow,
    /// Policy for returned messages.
    pub on_unroutable: OnUnroutable,
    /// Policy for rows that cannot become messages, and for messages that the broker refuses.
    pub on_invalid: OnInvalid,
    /// Policy for nacked messages.
    pub on_nack: OnNack,
    /// Policy for rows older than the slot.
    pub backlog: BacklogPolicy,
    /// How long the broker may owe an answer before its connection is given up.
    pub confirm_timeout: Duration,
    /// First wait before an attempt is repeated.
    pub backoff_min: Duration,
    /// Longest wait before an attempt is repeated.
    pub backoff_max: Duration,
    /// After progress, PostgreSQL is told at most this often.
    pub status_interval: Duration,
    /// Without progress, PostgreSQL is told this often; well below `wal_sender_timeout`.
    pub keepalive_interval: Duration,
    /// PostgreSQL may be silent for so long, although it is asked for a sign of life with each status, before its
    /// connection is given up.
    pub server_silence_max: Duration,
}

impl RelayOptions {
    /// Policy may put rows aside, so a message's row has to be kept beside it.
    pub fn parks(&self) -> bool {
        self.on_unroutable == OnUnroutable::Park
            || self.on_invalid == OnInvalid::Park
            || self.on_nack == OnNack::Park
    }
}
