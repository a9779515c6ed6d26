//! The table of faults.

use std::ops::RangeInclusive;

use Fault::{
    BrokerClock, BrokerKilled, BrokerLink, BrokerPassword, BrokerRestarted, BrokerSuspended,
    ConnectionsClosed, DiskAlarm, MemoryAlarm, PostgresClock, PostgresKilled, PostgresLink, PostgresPassword,
    PostgresStoppedFast, PostgresStoppedImmediate, QueueDeleted, QueueFull, RelayClock, RelayKilled,
    RelayLogFull, RelayRestarted, RelaySuspended, RowRefused, SoleSubscriptionDeleted, SubscriptionDeleted,
    WalsenderTerminated,
};
use Subject::{Broker, Postgres, Relay};
use Trouble::{Cut, CutInMessage, Refused, Slow, Stalled, StalledAnswers, Throttled};

/// One kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    RelayKilled,
    RelayRestarted,
    RelaySuspended,
    RelayLogFull,
    RelayClock,
    PostgresKilled,
    PostgresStoppedFast,
    PostgresStoppedImmediate,
    PostgresClock,
    PostgresPassword,
    WalsenderTerminated,
    BrokerKilled,
    BrokerRestarted,
    BrokerSuspended,
    BrokerClock,
    ConnectionsClosed,
    MemoryAlarm,
    DiskAlarm,
    BrokerPassword,
    RowRefused,
    QueueFull,
    QueueDeleted,
    SubscriptionDeleted,
    SoleSubscriptionDeleted,
    PostgresLink(Trouble),
    BrokerLink(Trouble),
}

/// Faults of a network link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    Cut,
    CutInMessage,
    Refused,
    Stalled,
    StalledAnswers,
    Slow,
    Throttled,
}

/// The part that a fault affects. Two faults at a time have different subjects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    Relay,
    Postgres,
    Broker,
    PostgresLink,
    BrokerLink,
}

/// One line of the table.
#[derive(Debug)]
pub(crate) struct Kind {
    pub(crate) fault: Fault,
    pub(crate) name: &'static str,
    pub(crate) subject: Subject,
    /// Duration in milliseconds. 0 for a fault without duration, whose recovery counts from its start.
    pub(crate) lasts_ms: RangeInclusive<u64>,
}

const fn kind(fault: Fault, subject: Subject, lasts_ms: RangeInclusive<u64>, name: &'static str) -> Kind {
    Kind { fault, name, subject, lasts_ms }
}

const fn postgres_link(trouble: Trouble, lasts_ms: RangeInclusive<u64>, name: &'static str) -> Kind {
    kind(PostgresLink(trouble), Subject::PostgresLink, lasts_ms, name)
}

const fn broker_link(trouble: Trouble, lasts_ms: RangeInclusive<u64>, name: &'static str) -> Kind {
    kind(BrokerLink(trouble), Subject::BrokerLink, lasts_ms, name)
}

/// Longer than some of the time limits in [`crate::world`], shorter than others.
const SILENCE_MS: RangeInclusive<u64> = 500..=9_000;

/// Long enough for rows of every kind, and for several refused attempts.
const STATE_MS: RangeInclusive<u64> = 2_000..=8_000;

/// All faults.
pub(crate) static FAULTS: [Kind; 38] = [
    kind(RelayKilled, Relay, 0..=1_500, "outboxd: kill -9"),
    kind(RelayRestarted, Relay, 0..=1_500, "outboxd: SIGTERM, then started"),
    kind(RelaySuspended, Relay, SILENCE_MS, "outboxd: SIGSTOP, then SIGCONT"),
    kind(RelayLogFull, Relay, 500..=3_000, "outboxd: disk full at its log"),
    kind(RelayClock, Relay, 1_000..=5_000, "outboxd: clock jumps there and back"),
    kind(PostgresKilled, Postgres, 0..=2_000, "PostgreSQL: kill -9"),
    kind(PostgresStoppedFast, Postgres, 0..=2_000, "PostgreSQL: stopped (fast), then started"),
    kind(PostgresStoppedImmediate, Postgres, 0..=2_000, "PostgreSQL: stopped (immediate), then started"),
    kind(PostgresClock, Postgres, 1_000..=5_000, "PostgreSQL: clock jumps there and back"),
    kind(PostgresPassword, Postgres, STATE_MS, "PostgreSQL: password changed, then changed back"),
    kind(WalsenderTerminated, Postgres, 0..=0, "PostgreSQL: walsender terminated"),
    kind(BrokerKilled, Broker, 0..=2_000, "RabbitMQ: kill -9"),
    kind(BrokerRestarted, Broker, 0..=2_000, "RabbitMQ: stopped, then started"),
    kind(BrokerSuspended, Broker, SILENCE_MS, "RabbitMQ: SIGSTOP, then SIGCONT"),
    kind(BrokerClock, Broker, 1_000..=5_000, "RabbitMQ: clock jumps there and back"),
    kind(ConnectionsClosed, Broker, 0..=0, "RabbitMQ: closes all connections"),
    kind(MemoryAlarm, Broker, 2_000..=6_000, "RabbitMQ: memory alarm"),
    kind(DiskAlarm, Broker, 2_000..=6_000, "RabbitMQ: disk alarm"),
    kind(BrokerPassword, Broker, STATE_MS, "RabbitMQ: password changed, then changed back"),
    kind(RowRefused, Broker, STATE_MS, "RabbitMQ: permission for one event type taken away, then given back"),
    kind(QueueFull, Broker, STATE_MS, "RabbitMQ: queue full, rejects what is published"),
    kind(QueueDeleted, Broker, 500..=5_000, "RabbitMQ: queue deleted and made again"),
    kind(SubscriptionDeleted, Broker, 0..=0, "RabbitMQ: a subscription's queue deleted, beside others"),
    kind(SoleSubscriptionDeleted, Broker, 0..=0, "RabbitMQ: a subscription's queue deleted, the only one"),
    postgres_link(Cut, 0..=0, "link to PostgreSQL: cut"),
    postgres_link(CutInMessage, 1_000..=1_000, "link to PostgreSQL: cut in mid-message"),
    postgres_link(Refused, 500..=5_000, "link to PostgreSQL: refused"),
    postgres_link(Stalled, SILENCE_MS, "link to PostgreSQL: stalled"),
    postgres_link(StalledAnswers, SILENCE_MS, "link to PostgreSQL: stalled towards outboxd"),
    postgres_link(Slow, 1_000..=6_000, "link to PostgreSQL: slow"),
    postgres_link(Throttled, 1_000..=6_000, "link to PostgreSQL: throttled"),
    broker_link(Cut, 0..=0, "link to RabbitMQ: cut"),
    broker_link(CutInMessage, 1_000..=1_000, "link to RabbitMQ: cut in mid-message"),
    broker_link(Refused, 500..=5_000, "link to RabbitMQ: refused"),
    broker_link(Stalled, SILENCE_MS, "link to RabbitMQ: stalled"),
    broker_link(StalledAnswers, SILENCE_MS, "link to RabbitMQ: stalled towards outboxd"),
    broker_link(Slow, 1_000..=6_000, "link to RabbitMQ: slow"),
    broker_link(Throttled, 1_000..=6_000, "link to RabbitMQ: throttled"),
];

impl Fault {
    /// Tells whether the fault needs a clock that can jump.
    pub(crate) fn is_clock(self) -> bool {
        matches!(self, RelayClock | PostgresClock | BrokerClock)
    }

    /// Tells whether the leader ends, so that a standby has to take over.
    pub(crate) fn ends_leader(self) -> bool {
        matches!(self, RelayKilled | RelayRestarted)
    }

    /// Tells whether a process loses its memory.
    pub(crate) fn ends_process(self) -> bool {
        self.ends_leader() || self == RelayLogFull
    }

    /// Tells whether the fault alone repeats no message, because a remaining process knows every confirm. A lost connection, and
    /// the copies for a full queue, count separately.
    pub(crate) fn repeats_nothing(self) -> bool {
        let loses_no_connection = matches!(
            self,
            RelayRestarted
                | RelayLogFull
                | QueueFull
                | QueueDeleted
                | SubscriptionDeleted
                | SoleSubscriptionDeleted
        );
        loses_no_connection || self.is_clock()
    }

    /// Words that the reason in `/status` must have while the fault lasts.
    pub(crate) fn reason(self) -> Option<&'static str> {
        match self {
            PostgresPassword => Some("password authentication failed"),
            BrokerPassword => Some("refuses the login"),
            RowRefused => Some("topic"),
            QueueFull => Some("nack"),
            _ => None,
        }
    }

    /// Tells whether PostgreSQL starts with the slot as last saved. Before version 17, a clean shutdown does not save a slot with
    /// only a new confirmed position either.
    pub(crate) fn forgets_slot_position(self) -> bool {
        matches!(self, PostgresKilled | PostgresStoppedImmediate | PostgresStoppedFast)
    }
}
