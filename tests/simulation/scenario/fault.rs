//! Faults: what can go wrong in a scenario. [`strike`](crate::run) makes them happen.

/// A fault of a server, a connection or a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Connections to PostgreSQL break.
    PostgresCut,
    /// Connections to PostgreSQL fall silent.
    PostgresHangs,
    /// The server crashes and comes back; the slot forgets what was confirmed since it was last saved.
    PostgresCrashes,
    /// A fast shutdown, which waits for walsenders; then the server comes back.
    PostgresStops,
    /// A replica that lacks the last transactions is promoted, on the next timeline.
    Failover,
    /// The same, and the replica has no slot.
    FailoverWithoutSlot,
    /// A copy of the data directory is restored.
    SetBack,
    /// The same while outboxd is stopped. The slot's record is then loaded from a dump that is newer than the copy.
    RestoredWithNewerRecord,
    /// A backup without slots is restored.
    SetBackWithoutSlot,
    /// Another cluster with the same data and another system identifier.
    OtherSystem,
    /// The same, from a dump.
    OtherSystemWithoutSlot,
    /// The slot is dropped while it is in use.
    SlotDropped,
    /// The slot is dropped while outboxd is stopped.
    SlotDroppedWhileStopped,
    /// The slot is dropped while it is in use, and created again.
    SlotMadeAnew,
    /// The same while outboxd is stopped.
    SlotMadeAnewWhileStopped,
    /// The server removes WAL that the slot needs: `wal_status = lost`.
    SlotLost,
    /// The publication is dropped and created again while outboxd is stopped.
    PublicationMadeAnewWhileStopped,
    /// `outboxd teardown` while outboxd runs.
    TornDown,
    /// The table of parked rows accepts nothing for a while.
    ParkingFails,
    /// Connections to the broker break.
    BrokerCut,
    /// Connections to the broker fall silent.
    BrokerHangs,
    /// The broker is away for a while.
    BrokerDown,
    /// The broker accepts nothing for a while.
    BrokerBlocked,
    /// An empty broker replaces the broker.
    BrokerReplaced,
    /// The queue is unbound for a while.
    QueueGone,
    /// The broker nacks and is slow for a while.
    BrokerTrouble,
    /// The broker closes the channel for messages of one routing key for a while, perhaps a long one.
    MessagesRefused,
    /// An exchange cannot be declared for a while.
    ExchangeRefused,
    /// An exchange is deleted. Its bindings come back after a while.
    ExchangeDeleted,
    /// A foreign connection owns the fence queue for a while.
    FenceTaken,
    /// A queue is full and rejects for a while.
    QueueFull,
    /// A queue has no leader and confirms nothing for a while.
    QueueWithoutLeader,
    /// kill -9, and a new start.
    ProcessCrashes,
    /// SIGTERM with time to drain, and a new start.
    ProcessEnds,
    /// SIGTERM with little time to drain, and a new start.
    ProcessEndsInHaste,
    /// SIGSTOP, and SIGCONT a while later.
    ProcessFreezes,
}

impl Fault {
    /// The older faults. The others are drawn separately, so that a seed keeps its meaning.
    pub(crate) const ALL: [Fault; 27] = [
        Fault::PostgresCut,
        Fault::PostgresHangs,
        Fault::PostgresCrashes,
        Fault::PostgresStops,
        Fault::Failover,
        Fault::FailoverWithoutSlot,
        Fault::SetBack,
        Fault::SetBackWithoutSlot,
        Fault::OtherSystem,
        Fault::OtherSystemWithoutSlot,
        Fault::SlotDropped,
        Fault::SlotDroppedWhileStopped,
        Fault::SlotMadeAnew,
        Fault::SlotMadeAnewWhileStopped,
        Fault::SlotLost,
        Fault::TornDown,
        Fault::BrokerCut,
        Fault::BrokerHangs,
        Fault::BrokerDown,
        Fault::BrokerBlocked,
        Fault::BrokerReplaced,
        Fault::QueueGone,
        Fault::BrokerTrouble,
        Fault::ProcessCrashes,
        Fault::ProcessEnds,
        Fault::ProcessEndsInHaste,
        Fault::ProcessFreezes,
    ];

    /// Lasting states of the broker.
    pub(crate) const LASTING: [Fault; 4] =
        [Fault::MessagesRefused, Fault::ExchangeRefused, Fault::QueueFull, Fault::QueueWithoutLeader];
}
