//! Tests with a table of parked rows that accepts nothing, and no other fault.

use outboxd::relay::{OnInvalid, OnUnroutable, RelayOptions};

use crate::{
    run::simulate,
    scenario::{Fault, Scenario},
};

/// A policy that parks, a queue that comes and goes, and a table that accepts nothing for up to a minute.
fn parking_fails(seed: u64) -> Scenario {
    let scenario = Scenario::new(seed, None).without_commands();
    Scenario {
        relay: RelayOptions {
            on_unroutable: OnUnroutable::Park,
            on_invalid: OnInvalid::Park,
            ..scenario.relay.clone()
        },
        invalid: false,
        nack_one_in: 0,
        mute_one_in: 0,
        instances: 1,
        faults: vec![Fault::ParkingFails, Fault::QueueGone],
        ..scenario
    }
}

/// Neither the stream nor the broker's connection ends for a failed park. Messages confirmed after the rows would be published
/// again.
#[test]
fn a_park_that_fails_repeats_nothing_and_is_done_in_the_end() {
    let mut refused = 0;
    for seed in 0..200 {
        let report = simulate(parking_fails(seed), false);
        assert_eq!(report.violation, None, "seed {seed}");
        assert_eq!(report.duplicates, 0, "seed {seed}");
        refused += report.parks_refused;
    }
    println!("{refused} refused");
    assert!(refused > 1_000, "{refused}");
}

/// The end of WAL identifies such a server. Parking a row there would move it.
#[test]
fn nothing_is_parked_on_a_server_set_back_before_somebody_has_looked_at_it() {
    for seed in 0..400 {
        let scenario = Scenario {
            faults: vec![Fault::SetBack, Fault::QueueGone],
            between_faults_ms: 200,
            connect_ms: 5,
            ..parking_fails(seed)
        };
        assert_eq!(simulate(scenario, false).violation, None, "seed {seed}");
    }
}
