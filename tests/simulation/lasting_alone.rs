//! Tests with lasting refusals of the broker and no other fault.

use std::time::Duration;

use outboxd::{
    admin::SourceState,
    relay::{OnNack, Ordering, RelayOptions},
};

use crate::{
    run::{Report, simulate},
    scenario::{Fault, Scenario},
};

const SEEDS: u64 = 100;
/// Longest duration of a state.
const LONGEST: Duration = Duration::from_secs(60);

fn alone(seed: u64, state: Fault) -> Scenario {
    let scenario = Scenario::new(seed, None).without_commands();
    Scenario {
        // A state then lasts beyond the last write.
        relay: RelayOptions { on_nack: OnNack::Wait, ..scenario.relay.clone() },
        invalid: false,
        nack_one_in: 0,
        mute_one_in: 0,
        instances: 1,
        faults: vec![state],
        between_faults_ms: 200,
        ..scenario
    }
}

fn hold(scenario: Scenario) -> Report {
    let seed = scenario.seed;
    let report = simulate(scenario, false);
    assert_eq!(report.violation, None, "seed {seed}");
    report
}

#[test]
fn a_refused_message_costs_no_other_more_than_two_copies_and_is_told() {
    let (mut halted, mut searched) = (0, 0);
    for seed in 0..SEEDS {
        let mut scenario = alone(seed, Fault::MessagesRefused);
        if seed % 2 == 0 {
            // A window of more than one batch.
            scenario.relay.ordering = Ordering::Pipelined;
            scenario.relay.in_flight_max = 40;
            scenario.relay.in_flight_bytes_max = 1 << 24;
            (scenario.rows_max, scenario.between_writes_ms, scenario.between_faults_ms) = (12, 20, 10);
            (scenario.publish_ms, scenario.confirm_ms) = (20, 200);
        }
        let report = hold(scenario);
        assert!(report.innocent_sent_max <= 3, "seed {seed}: {}", report.innocent_sent_max);
        searched += u32::from(report.innocent_sent_max == 3);
        let is_halted = report.states.contains(&SourceState::Halted);
        halted += u32::from(is_halted);
    }
    println!("{halted} halted, {searched} searched in lots");
    assert!(halted > 10 && searched > 0, "{halted}, {searched}");
}

#[test]
fn a_refused_exchange_costs_no_other_message_a_copy_and_is_told() {
    let mut halted = 0;
    for seed in 0..SEEDS {
        let report = hold(alone(seed, Fault::ExchangeRefused));
        halted += u32::from(report.states.contains(&SourceState::Halted));
    }
    println!("{halted} halted");
    assert!(halted > 5, "{halted}");
}

#[test]
fn a_full_queue_is_told_and_its_messages_are_parked_if_policy_says_so() {
    let (mut blocked, mut parked) = (0, 0);
    for seed in 0..SEEDS {
        for on_nack in [OnNack::Wait, OnNack::Park] {
            let mut scenario = alone(seed, Fault::QueueFull);
            scenario.relay.on_nack = on_nack;
            let report = hold(scenario);
            if on_nack == OnNack::Wait {
                blocked += u32::from(report.states.contains(&SourceState::Blocked));
            } else {
                parked += u32::from(report.parked_after_nacks > 0);
            }
        }
    }
    println!("{blocked} blocked, {parked} parked");
    assert!(blocked > 3 && parked > 3, "{blocked}, {parked}");
}

#[test]
fn a_queue_without_a_leader_costs_ever_fewer_copies_and_is_told() {
    let mut blocked = 0;
    for seed in 0..SEEDS {
        let scenario = alone(seed, Fault::QueueWithoutLeader);
        let timeout = scenario.relay.confirm_timeout;
        let report = hold(scenario);
        // The first copy follows after the timeout, the next after twice that time, and so on.
        let mut copies = 1;
        while timeout * ((1 << copies) - 1) <= LONGEST {
            copies += 1;
        }
        assert!(report.sent_max <= 1 + copies, "seed {seed}: {} of {copies}", report.sent_max);
        blocked += u32::from(report.states.contains(&SourceState::Blocked));
    }
    println!("{blocked} blocked");
    assert!(blocked > 5, "{blocked}");
}

#[test]
fn an_exchange_that_is_deleted_is_declared_again_and_its_messages_get_through() {
    for seed in 0..SEEDS {
        hold(alone(seed, Fault::ExchangeDeleted));
    }
}

#[test]
fn a_fence_that_somebody_else_has_is_told_and_nothing_is_published_meanwhile() {
    let mut blocked = 0;
    for seed in 0..SEEDS {
        let scenario = Scenario { unfenced: false, ..alone(seed, Fault::FenceTaken) };
        let report = hold(scenario);
        blocked += u32::from(report.states.contains(&SourceState::Blocked));
    }
    println!("{blocked} blocked");
    assert!(blocked > 5, "{blocked}");
}
