//! Meaning of a seed: the relay's options, the servers' speed, and the faults.

mod fault;
mod sabotage;

use std::time::Duration;

use outboxd::relay::{BacklogPolicy, OnInvalid, OnNack, OnUnroutable, Ordering, RelayOptions, SharedWindow};

pub(crate) use self::{fault::Fault, sabotage::Sabotage};

pub(crate) struct Scenario {
    pub(crate) seed: u64,
    pub(crate) relay: RelayOptions,
    /// Clean-up removes confirmed rows.
    pub(crate) cleanup: bool,
    pub(crate) sabotage: Option<Sabotage>,

    // The service that writes.
    pub(crate) backlog: u32,
    pub(crate) transactions: u32,
    pub(crate) rows_max: u32,
    pub(crate) aggregates: u8,
    pub(crate) payload_max: u16,
    pub(crate) between_writes_ms: u64,
    /// One row cannot become a message and halts its source.
    pub(crate) invalid: bool,

    // PostgreSQL.
    pub(crate) wal_sender_timeout: Duration,
    pub(crate) status_latency_ms: u64,
    pub(crate) connect_ms: u64,
    pub(crate) stall_one_in: u32,
    pub(crate) stall_ms: u64,
    /// The server sends transactions without a row of the publication, as before PostgreSQL 15.
    pub(crate) empty_transactions: bool,
    /// One in so many status updates makes the server save the slot. 0: none, as while a transaction stays open for long.
    pub(crate) slot_saved_one_in: u32,
    /// Not even a clean shutdown saves the slot, as before PostgreSQL 17.
    pub(crate) slot_unsaved_at_stop: bool,

    // RabbitMQ.
    pub(crate) publish_ms: u64,
    pub(crate) confirm_ms: u64,
    pub(crate) confirm_quantum_ms: u64,
    pub(crate) nack_one_in: u32,
    /// One in so many confirms never comes.
    pub(crate) mute_one_in: u32,
    pub(crate) heartbeat: Duration,
    /// The user has no right to the fence, so instances may publish at the same time.
    pub(crate) unfenced: bool,

    // Faults.
    pub(crate) instances: u32,
    pub(crate) faults: Vec<Fault>,
    pub(crate) between_faults_ms: u64,

    // Commands beside the relay.
    /// Runs `outboxd replay` now and then.
    pub(crate) replays: bool,
    /// Runs `outboxd parked requeue` now and then.
    pub(crate) requeues: bool,
}

impl Scenario {
    pub(crate) fn new(seed: u64, sabotage: Option<Sabotage>) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut one_in = |n: u32| rng.u32(0..n) == 0;
        let (pipelined, drop, skip, calm, slow) = (one_in(3), one_in(3), one_in(8), one_in(10), one_in(6));
        let (invalid, stalls, nacks, mutes) = (one_in(30), one_in(4), one_in(3), one_in(4));
        let (few_bytes, two_instances, empty_transactions) = (one_in(4), one_in(4), one_in(4));
        let (backlog, large, unfenced) = (one_in(2), one_in(4), one_in(10));
        let (park_unroutable, park_invalid) = (one_in(2), one_in(4));
        let pick = |rng: &mut fastrand::Rng, values: &[u64]| values[rng.usize(0..values.len())];
        let in_flight_max = pick(&mut rng, &[1, 2, 3, 5, 8, 13, 40, 1000]) as usize;
        let wal_sender_timeout = Duration::from_millis(pick(&mut rng, &[1_000, 2_000, 6_000]));
        let kinds: Vec<Fault> = Fault::ALL.into_iter().filter(|_| rng.u32(0..3) == 0).collect();
        let mut scenario = Self {
            seed,
            relay: RelayOptions {
                ordering: if pipelined { Ordering::Pipelined } else { Ordering::PerAggregate },
                in_flight_max,
                in_flight_bytes_max: if few_bytes {
                    pick(&mut rng, &[1, 1_000, 4_000]) as usize
                } else {
                    1 << 24
                },
                window: SharedWindow::default(),
                on_unroutable: match (drop, park_unroutable) {
                    (true, _) => OnUnroutable::Drop,
                    (false, true) => OnUnroutable::Park,
                    (false, false) => OnUnroutable::Halt,
                },
                on_invalid: if park_invalid { OnInvalid::Park } else { OnInvalid::Halt },
                on_nack: OnNack::Wait,
                backlog: if skip { BacklogPolicy::Skip } else { BacklogPolicy::Publish },
                confirm_timeout: Duration::from_millis(pick(&mut rng, &[500, 2_000, 10_000])),
                backoff_min: Duration::from_millis(pick(&mut rng, &[10, 100])),
                backoff_max: Duration::from_millis(pick(&mut rng, &[200, 1_000])),
                status_interval: Duration::from_millis(100),
                keepalive_interval: wal_sender_timeout / 3,
                server_silence_max: wal_sender_timeout * 2,
            },
            sabotage,
            backlog: if backlog { rng.u32(0..20) } else { 0 },
            transactions: rng.u32(5..60),
            rows_max: if large { 12 } else { 3 },
            aggregates: pick(&mut rng, &[1, 2, 4, 10]) as u8,
            payload_max: if few_bytes { 800 } else { 20 },
            between_writes_ms: pick(&mut rng, &[1, 20, 150]),
            invalid: invalid && !park_invalid,
            wal_sender_timeout,
            status_latency_ms: pick(&mut rng, &[0, 5, 20]),
            connect_ms: pick(&mut rng, &[0, 5, 50, 500]),
            stall_one_in: if stalls { pick(&mut rng, &[5, 50]) as u32 } else { 0 },
            stall_ms: pick(&mut rng, &[5, 50, 800]),
            empty_transactions,
            slot_saved_one_in: 0,
            slot_unsaved_at_stop: false,
            publish_ms: pick(&mut rng, &[0, 2, 20]),
            confirm_ms: if slow { 200 } else { pick(&mut rng, &[0, 3, 30]) },
            confirm_quantum_ms: pick(&mut rng, &[1, 1, 10, 40]),
            nack_one_in: if nacks { pick(&mut rng, &[4, 20]) as u32 } else { 0 },
            mute_one_in: if mutes { 100 } else { 0 },
            heartbeat: Duration::from_millis(pick(&mut rng, &[1_000, 5_000])),
            unfenced: unfenced && sabotage.is_none(),
            instances: if two_instances { 2 } else { 1 },
            faults: if calm { Vec::new() } else { kinds },
            between_faults_ms: pick(&mut rng, &[30, 200, 1_000]),
            // The configuration refuses clean-up together with `skip`.
            cleanup: rng.u32(0..2) == 0 && !skip,
            replays: false,
            requeues: false,
        };
        // Drawn last, so that older seeds keep their meaning.
        if scenario.relay.parks() && !scenario.faults.is_empty() && rng.u32(0..3) == 0 {
            scenario.faults.push(Fault::ParkingFails);
        }
        if !scenario.faults.is_empty() && rng.u32(0..3) == 0 {
            scenario.faults.push(Fault::PublicationMadeAnewWhileStopped);
        }
        if !scenario.faults.is_empty() && rng.u32(0..4) == 0 {
            scenario.faults.push(Fault::RestoredWithNewerRecord);
        }
        scenario.slot_saved_one_in = pick(&mut rng, &[4, 50, 0]) as u32;
        scenario.slot_unsaved_at_stop = rng.bool();
        if !scenario.faults.is_empty() && rng.u32(0..3) == 0 {
            let lasting: Vec<_> = Fault::LASTING.into_iter().filter(|_| rng.bool()).collect();
            scenario.faults.extend(lasting);
            if rng.u32(0..3) == 0 {
                scenario.relay.on_nack = OnNack::Park;
            }
        }
        if scenario.states_last() && rng.u32(0..2) == 0 {
            scenario.faults.push(Fault::ExchangeDeleted);
        }
        if !scenario.unfenced && !scenario.faults.is_empty() && rng.u32(0..8) == 0 {
            scenario.faults.push(Fault::FenceTaken);
        }
        scenario.replays = rng.u32(0..5) == 0;
        scenario.requeues = scenario.relay.parks() && rng.u32(0..3) == 0;
        scenario
    }

    /// The scenario without commands.
    pub(crate) fn without_commands(self) -> Self {
        Self { replays: false, requeues: false, ..self }
    }

    /// Returns whether rows that cannot become messages are written all the time.
    pub(crate) fn parks_invalid(&self) -> bool {
        self.relay.on_invalid == OnInvalid::Park
    }

    /// Returns whether the broker refuses some messages for a while.
    pub(crate) fn states_last(&self) -> bool {
        self.faults.iter().any(|fault| Fault::LASTING.contains(fault) || *fault == Fault::ExchangeDeleted)
    }

    pub(crate) fn drops_unroutable(&self) -> bool {
        self.relay.on_unroutable == OnUnroutable::Drop
    }
}
