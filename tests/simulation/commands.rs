//! Scenarios for the commands that publish beside the relay.

use std::time::Duration;

use outboxd::relay::{OnUnroutable, RelayOptions};

use crate::{
    run::simulate,
    scenario::{Fault, Scenario},
};

/// Changes a scenario: a queue that comes and goes, broken connections, and killed instances.
pub(crate) fn parks_and_requeues(scenario: &mut Scenario) {
    scenario.relay = RelayOptions { on_unroutable: OnUnroutable::Park, ..scenario.relay.clone() };
    scenario.faults =
        vec![Fault::QueueGone, Fault::QueueGone, Fault::BrokerCut, Fault::PostgresCut, Fault::ProcessCrashes];
    scenario.cleanup = false;
    (scenario.replays, scenario.requeues) = (false, true);
    scenario.between_faults_ms = 200;
    scenario.invalid = false;
    scenario.aggregates = 10;
    scenario.relay.backoff_max = Duration::from_millis(200);
}

/// The same, with replays in place of requeues.
pub(crate) fn replays(scenario: &mut Scenario) {
    parks_and_requeues(scenario);
    (scenario.replays, scenario.requeues) = (true, false);
}

#[test]
fn parked_rows_are_requeued_once_and_in_order_whatever_goes_wrong() {
    let mut requeued = 0;
    for seed in 0..200 {
        let mut scenario = Scenario::new(seed, None);
        parks_and_requeues(&mut scenario);
        let report = simulate(scenario, false);
        assert_eq!(report.violation, None, "seed {seed}");
        requeued += report.requeued;
    }
    println!("{requeued} rows requeued");
    assert!(requeued > 100, "{requeued}");
}

#[test]
fn a_replay_tells_how_much_it_has_published_again_whatever_goes_wrong() {
    let mut replayed = 0;
    for seed in 0..200 {
        let mut scenario = Scenario::new(seed, None);
        replays(&mut scenario);
        let report = simulate(scenario, false);
        assert_eq!(report.violation, None, "seed {seed}");
        replayed += report.replayed;
    }
    println!("{replayed} replays came to their end");
    assert!(replayed > 100, "{replayed}");
}
