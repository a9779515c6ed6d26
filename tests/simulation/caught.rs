//! Tests that the oracle catches each sabotage within a limited number of seeds.

use crate::{
    commands::{parks_and_requeues, replays},
    run::simulate,
    scenario::{Fault, Sabotage, Scenario},
};

/// Expects that some seed breaks a promise under the sabotage.
fn is_caught(sabotage: Sabotage) {
    is_caught_in(sabotage, |_| ());
}

/// The same, in scenarios changed to reach the point sooner.
fn is_caught_in(sabotage: Sabotage, change: impl Fn(&mut Scenario)) {
    const WITHIN: u64 = 500;
    for seed in 0..WITHIN {
        let mut scenario = Scenario::new(seed, Some(sabotage));
        change(&mut scenario);
        if let Some(violation) = simulate(scenario, false).violation {
            println!("{sabotage:?} is caught by seed {seed}: {violation}");
            return;
        }
    }
    panic!("{sabotage:?} is not caught by {WITHIN} seeds");
}

#[test]
fn a_relay_that_acknowledges_early_is_caught() {
    is_caught(Sabotage::AcknowledgeReceived);
}

#[test]
fn a_relay_that_takes_confirms_out_of_order_is_caught() {
    is_caught(Sabotage::ConfirmTakesThoseBefore);
}

/// What the watchdog looks at, so that systemd restarts the process.
#[test]
fn a_relay_that_hangs_is_caught() {
    is_caught(Sabotage::StuckInTheLoop);
}

#[test]
fn a_relay_that_drops_the_gate_is_caught() {
    is_caught(Sabotage::NoGate);
}

#[test]
fn a_relay_that_skips_a_row_on_resume_is_caught() {
    is_caught(Sabotage::SkipOnResume);
}

#[test]
fn a_relay_that_forgets_the_topology_is_caught() {
    is_caught(Sabotage::DeclareOnlyAtFirst);
}

#[test]
fn a_relay_that_exceeds_its_memory_is_caught() {
    is_caught(Sabotage::HoldTwice);
}

#[test]
fn a_relay_that_makes_a_slot_silently_is_caught() {
    is_caught(Sabotage::ForgetRecord);
}

#[test]
fn a_relay_that_publishes_without_the_fence_is_caught() {
    // Rare among all faults. The leader must not read, so that it does not notice the loss of the slot. The leader must not be
    // answered, so that something is left to be sent. Then the broker must hear it again.
    is_caught_in(Sabotage::NoFence, |scenario| {
        scenario.instances = 2;
        scenario.faults =
            vec![Fault::PostgresCut, Fault::PostgresHangs, Fault::BrokerBlocked, Fault::ProcessFreezes];
        scenario.relay.in_flight_max = 8;
        scenario.aggregates = 2;
        scenario.confirm_ms = 200;
        scenario.publish_ms = 2;
    });
}

#[test]
fn a_relay_that_removes_rows_before_they_are_confirmed_is_caught() {
    is_caught(Sabotage::RemoveAtOnce);
}

#[test]
fn a_relay_that_forgets_what_it_parks_is_caught() {
    is_caught(Sabotage::ForgetParked);
}

#[test]
fn a_relay_that_sends_its_window_again_for_one_message_is_caught() {
    is_caught_in(Sabotage::WindowAgain, |scenario| scenario.faults = vec![Fault::MessagesRefused]);
}

#[test]
fn a_relay_that_forgets_what_was_not_sent_is_caught() {
    is_caught_in(Sabotage::UnsentCounts, |scenario| scenario.faults = vec![Fault::MessagesRefused]);
}

#[test]
fn a_relay_that_sends_nacked_messages_again_at_once_is_caught() {
    is_caught(Sabotage::NackedAtOnce);
}

#[test]
fn a_relay_whose_waits_after_nacks_do_not_grow_is_caught() {
    is_caught_in(Sabotage::NackedWithoutGrowingWaits, |scenario| scenario.faults = vec![Fault::QueueFull]);
}

/// A scenario in which the server crashes, never saves its slot, and is written to for some seconds.
fn forgetful(scenario: &mut Scenario) {
    scenario.faults = vec![Fault::PostgresCrashes, Fault::ProcessCrashes];
    scenario.instances = 2;
    scenario.slot_saved_one_in = 0;
    scenario.transactions = 60;
    scenario.between_writes_ms = 150;
    scenario.between_faults_ms = 1_000;
}

#[test]
fn a_relay_that_writes_its_record_seldom_is_caught() {
    is_caught_in(Sabotage::RecordSeldom, forgetful);
}

#[test]
fn a_relay_that_ignores_the_record_is_caught() {
    is_caught_in(Sabotage::DistrustRecord, forgetful);
}

#[test]
fn a_relay_that_trusts_a_record_from_elsewhere_is_caught() {
    is_caught_in(Sabotage::TrustAnyRecord, |scenario| {
        scenario.faults = vec![Fault::RestoredWithNewerRecord];
    });
}

#[test]
fn a_replay_without_its_mark_is_caught() {
    is_caught_in(Sabotage::ReplayUnmarked, replays);
}

#[test]
fn a_replay_that_loses_a_row_is_caught() {
    is_caught_in(Sabotage::SnapshotLosesRow, replays);
}

#[test]
fn a_replay_that_counts_a_returned_message_is_caught() {
    is_caught_in(Sabotage::ReturnedIsRequeued, |scenario| {
        replays(scenario);
        scenario.between_faults_ms = 30;
    });
}

#[test]
fn a_requeue_that_counts_a_returned_message_is_caught() {
    is_caught_in(Sabotage::ReturnedIsRequeued, parks_and_requeues);
}

#[test]
fn a_requeue_that_lets_a_row_come_late_is_caught() {
    is_caught_in(Sabotage::OverlookOvertaking, parks_and_requeues);
}

#[test]
fn a_requeue_that_does_not_lock_the_parked_rows_is_caught() {
    is_caught_in(Sabotage::ForgetParkedLock, parks_and_requeues);
}

#[test]
fn a_requeue_that_goes_from_the_last_row_to_the_first_is_caught() {
    is_caught_in(Sabotage::ParkedListReversed, |scenario| {
        parks_and_requeues(scenario);
        scenario.aggregates = 1;
    });
}
