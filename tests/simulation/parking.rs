//! While rows cannot be parked, and nothing else is wrong.

use outboxd::relay::{OnInvalid, OnUnroutable, RelayOptions};

use crate::{faults::Fault, run::simulate, scenario::Scenario};

/// A policy that parks, a queue that comes and goes, and a table that takes nothing for up to a minute.
fn parking_fails(seed: u64) -> Scenario {
    let scenario = Scenario::new(seed, None);
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

/// Neither the stream nor the connection to the broker ends for it: what is confirmed behind the rows would be published again.
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
