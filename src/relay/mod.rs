//! The relay: the loop between PostgreSQL and RabbitMQ. Only this room knows both.
//!
//! ```text
//! supervisor   connect, acquire the slot or stand by, run, back off, drain
//! backfill::publish   rows of the table         \
//! pipeline            the replication stream     > Delivery (ledger and publisher) -> broker
//! slot_creation  reports the transactions that a new slot waits for
//! fence        of several instances only one publishes
//! monitor      watches the slot beside the stream
//! mishap       texts about messages that are held up while both connections work
//! fault        faults, and the verdict on each: retry or halt
//! subscriptions   one task for all sources: checks the subscriptions' queues
//! window       the in-flight window that the sources of a process share
//! database, broker   traits: what the relay and the features need from the two servers
//! source       everything that relaying one source needs
//! ```
//!
//! Features have rooms of their own, which use the traits (`database`, `broker`), `Fault` and `Delivery`:
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

/// Policy for a message that no queue is bound for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnUnroutable {
    /// Hold back all messages, and try again until a queue is bound.
    Halt,
    /// Park the row, and go on.
    Park,
    /// Log and count the message, and go on.
    Drop,
}

/// Policy for a row that cannot become a message, or whose message the broker refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnInvalid {
    /// Confirm all earlier messages, then halt.
    Halt,
    /// Park the row, and go on.
    Park,
    /// Log the row, and go on. Only for a replay, whose rows stay in the table.
    LeaveOut,
}

/// Policy for a message that a queue does not take (`basic.nack`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnNack {
    /// Send the message again until the queue takes it.
    Wait,
    /// Park the row when no message of its exchange and routing key is confirmed for a while, and go on.
    Park,
}

/// Policy for rows that are older than the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BacklogPolicy {
    /// Publish them before the stream.
    Publish,
    /// Do not publish them.
    Skip,
}

/// Options of one source: keys `delivery.*`, `backlog` and `rabbitmq.confirm_timeout_ms`.
#[derive(Clone, Debug)]
pub struct RelayOptions {
    /// Rule for messages of one aggregate that are in flight together.
    pub ordering: Ordering,
    /// Largest number of messages held at once, waiting ones included.
    pub in_flight_max: usize,
    /// Largest number of bytes held at once.
    pub in_flight_bytes_max: usize,
    /// The window that the sources of the process share.
    pub window: SharedWindow,
    /// Policy for returned messages.
    pub on_unroutable: OnUnroutable,
    /// Policy for rows that cannot become messages, and for messages that the broker refuses.
    pub on_invalid: OnInvalid,
    /// Policy for nacked messages.
    pub on_nack: OnNack,
    /// Policy for rows older than the slot.
    pub backlog: BacklogPolicy,
    /// Longest wait for a confirm before the connection is given up.
    pub confirm_timeout: Duration,
    /// First wait before an attempt is repeated.
    pub backoff_min: Duration,
    /// Longest wait before an attempt is repeated.
    pub backoff_max: Duration,
    /// Shortest interval of status updates after progress.
    pub status_interval: Duration,
    /// Interval of status updates without progress, well below `wal_sender_timeout`.
    pub keepalive_interval: Duration,
    /// Longest silence of PostgreSQL before its connection is given up. Each status update asks for a sign of life.
    pub server_silence_max: Duration,
}

impl RelayOptions {
    /// Returns whether some policy parks rows. Rows are then kept beside their messages.
    pub fn parks(&self) -> bool {
        self.on_unroutable == OnUnroutable::Park
            || self.on_invalid == OnInvalid::Park
            || self.on_nack == OnNack::Park
    }
}
