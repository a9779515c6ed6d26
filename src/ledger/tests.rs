#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{collections::HashSet, time::Duration};

use amqp_publisher::publisher::message as amqp;
use proptest::prelude::*;

use super::*;
use crate::message::Timestamp;

fn message(commit_lsn: u64, index: u32, aggregate: u64) -> Message {
    Message::empty(Position { commit_lsn: Lsn(commit_lsn), index }, AggregateKey(aggregate))
}

const ROOMY: Limits = Limits { messages: 1000, bytes: 1 << 20 };

fn ledger(ordering: Ordering) -> Ledger {
    Ledger::new(ordering, ROOMY, Settled::default())
}

fn confirmed(ledger: &Ledger) -> Option<u64> {
    ledger.progress().confirmed.map(|confirmed| confirmed.lsn().0)
}

fn publish_all(ledger: &mut Ledger, now: Instant) -> Vec<u64> {
    std::iter::from_fn(|| ledger.next_due(now)).map(|(tag, _)| tag.0).collect()
}

#[test]
fn a_confirm_that_overtakes_moves_nothing_until_the_gap_is_closed() {
    let now = Instant::now();
    let mut ledger = ledger(Ordering::Pipelined);
    for lsn in [10, 20, 30] {
        ledger.push(message(lsn, 0, lsn));
        ledger.advance_watermark(Lsn(lsn + 5));
    }
    assert_eq!(publish_all(&mut ledger, now), [0, 1, 2]);
    ledger.settle(PublishTag(2));
    ledger.settle(PublishTag(1));
    assert_eq!(confirmed(&ledger), None);
    ledger.settle(PublishTag(0));
    assert_eq!(confirmed(&ledger), Some(35));
    assert!(ledger.is_empty());
}

#[test]
fn a_transaction_settled_in_part_moves_the_position_but_not_the_lsn() {
    let now = Instant::now();
    let mut ledger = ledger(Ordering::Pipelined);
    ledger.advance_watermark(Lsn(5));
    ledger.push(message(10, 0, 1));
    ledger.push(message(10, 1, 2));
    publish_all(&mut ledger, now);
    ledger.settle(PublishTag(0));
    assert_eq!(confirmed(&ledger), Some(5));
    let progress = ledger.progress();
    assert_eq!(progress.position, Some(Position { commit_lsn: Lsn(10), index: 0 }));

    let mut resumed = Ledger::new(Ordering::Pipelined, ROOMY, ledger.settled());
    for (commit_lsn, index, settled) in [(10, 0, true), (10, 1, false), (11, 0, false)] {
        let position = Position { commit_lsn: Lsn(commit_lsn), index };
        assert_eq!(resumed.push_settled(position, Timestamp(0)), settled, "{position}");
    }
}

#[test]
fn progress_tells_the_middle_of_a_transaction_from_the_place_between_two() {
    let now = Instant::now();
    let mut ledger = ledger(Ordering::Pipelined);
    assert!(!ledger.progress().is_mid_transaction());
    // One commit record may begin where another ends.
    for (commit_lsn, end_lsn) in [(10, 20), (20, 30)] {
        ledger.push(message(commit_lsn, 0, 1));
        ledger.push(message(commit_lsn, 1, 2));
        ledger.advance_watermark(Lsn(end_lsn));
    }
    for (tag, mid_transaction) in [(0, true), (1, false), (2, true), (3, false)] {
        publish_all(&mut ledger, now);
        ledger.settle(PublishTag(tag));
        assert_eq!(ledger.progress().is_mid_transaction(), mid_transaction, "{tag}");
    }
}

#[test]
fn an_idle_ledger_follows_the_keepalives_and_never_goes_back() {
    let mut ledger = ledger(Ordering::PerAggregate);
    ledger.advance_watermark(Lsn(100));
    assert_eq!(confirmed(&ledger), Some(100));
    ledger.advance_watermark(Lsn(90));
    assert_eq!(confirmed(&ledger), Some(100));
}

#[test]
fn the_age_of_the_oldest_counts_from_its_first_publish_also_after_a_nack() {
    let now = Instant::now();
    let later = now + Duration::from_secs(1);
    let mut ledger = ledger(Ordering::PerAggregate);
    ledger.push(message(10, 0, 7));
    assert!(ledger.oldest_unconfirmed().is_none());
    publish_all(&mut ledger, now);
    ledger.refuse(PublishTag(0), Refusal::Nacked, |_| later);
    publish_all(&mut ledger, later);
    assert_eq!(ledger.oldest_unconfirmed().map(|(_, published)| published), Some(now));
    ledger.settle(PublishTag(0));
    assert!(ledger.oldest_unconfirmed().is_none());
}

#[test]
fn a_settled_message_does_not_take_the_position_back() {
    let mut ledger = ledger(Ordering::PerAggregate);
    ledger.advance_watermark(Lsn(100));
    ledger.push(message(10, 0, 1));
    ledger.advance_watermark(Lsn(15));
    publish_all(&mut ledger, Instant::now());
    ledger.settle(PublishTag(0));
    assert_eq!(confirmed(&ledger), Some(100));
}

#[test]
fn a_keepalive_behind_a_message_counts_when_that_message_is_settled() {
    let mut ledger = ledger(Ordering::PerAggregate);
    ledger.push(message(10, 0, 1));
    ledger.advance_watermark(Lsn(15));
    ledger.advance_watermark(Lsn(400));
    ledger.advance_watermark(Lsn(300));
    assert_eq!(confirmed(&ledger), None);
    publish_all(&mut ledger, Instant::now());
    ledger.settle(PublishTag(0));
    assert_eq!(confirmed(&ledger), Some(400));
}

#[test]
fn the_gate_holds_an_aggregate_while_its_last_one_is_out_and_no_other() {
    let now = Instant::now();
    let mut ledger = ledger(Ordering::PerAggregate);
    for (lsn, aggregate) in [(10, 7), (20, 8), (30, 7), (40, 9), (50, 7)] {
        ledger.push(message(lsn, 0, aggregate));
    }
    assert_eq!(publish_all(&mut ledger, now), [0, 1, 3]);
    ledger.settle(PublishTag(1));
    assert_eq!(publish_all(&mut ledger, now), [0; 0]);
    ledger.settle(PublishTag(0));
    ledger.push(message(60, 0, 7));
    assert_eq!(publish_all(&mut ledger, now), [2]);
    ledger.push(message(70, 0, 8));
    assert_eq!(publish_all(&mut ledger, now), [6], "8 is free again");
    ledger.settle(PublishTag(2));
    assert_eq!(publish_all(&mut ledger, now), [4]);
}

#[test]
fn a_transaction_goes_out_in_insert_order_and_its_next_row_waits_with_the_one_before() {
    let now = Instant::now();
    let mut ledger = ledger(Ordering::PerAggregate);
    for (lsn, index, aggregate) in [(10, 0, 7), (20, 0, 7), (20, 1, 8), (20, 2, 7), (30, 0, 9), (30, 1, 8)] {
        ledger.push(message(lsn, index, aggregate));
    }
    assert_eq!(
        publish_all(&mut ledger, now),
        [0, 4],
        "8 stands behind 7 in its transaction, and again in the next one"
    );
    ledger.settle(PublishTag(0));
    assert_eq!(publish_all(&mut ledger, now), [1, 2]);
    ledger.settle(PublishTag(2));
    assert_eq!(publish_all(&mut ledger, now), [5]);
    ledger.settle(PublishTag(1));
    assert_eq!(publish_all(&mut ledger, now), [3]);
}

#[test]
fn what_was_settled_ahead_of_others_is_not_taken_in_again_after_a_reconnect() {
    let now = Instant::now();
    let at = |lsn| Position { commit_lsn: Lsn(lsn), index: 0 };
    let mut first = ledger(Ordering::PerAggregate);
    for (lsn, aggregate) in [(10, 7), (20, 8), (30, 7)] {
        first.push(message(lsn, 0, aggregate));
        first.advance_watermark(Lsn(lsn + 5));
    }
    assert_eq!(publish_all(&mut first, now), [0, 1]);
    first.settle(PublishTag(1));
    let settled = first.settled();
    assert_eq!((settled.progress, settled.reaches()), (Progress::default(), Some(Lsn(21))));

    let mut second = Ledger::new(Ordering::PerAggregate, ROOMY, settled);
    assert!(!second.push_settled(at(10), Timestamp(0)));
    second.push(message(10, 0, 7));
    second.advance_watermark(Lsn(15));
    assert!(second.expects_settled(), "an end here would repeat it");
    assert!(second.push_settled(at(20), Timestamp(0)));
    second.advance_watermark(Lsn(25));
    assert!(!second.expects_settled());
    assert_eq!(second.settled(), Settled { ahead: [at(20)].into(), ..Settled::default() }, "still ahead");
    assert_eq!(publish_all(&mut second, now), [0]);
    second.settle(PublishTag(0));
    assert_eq!((confirmed(&second), second.progress().position), (Some(25), Some(at(20))));
    assert!(second.is_empty() && second.settled().ahead.is_empty());
}

#[test]
fn what_a_server_sends_from_before_the_confirmed_lsn_is_not_taken_in() {
    let mut ledger = ledger(Ordering::PerAggregate);
    ledger.advance_watermark(Lsn(30));
    for (commit_lsn, settled) in [(20, true), (30, false)] {
        let position = Position { commit_lsn: Lsn(commit_lsn), index: 0 };
        assert_eq!(ledger.push_settled(position, Timestamp(0)), settled, "{position}");
    }
}

#[test]
fn what_another_instance_went_past_is_not_waited_for() {
    let ahead = [20, 30].map(|lsn| Position { commit_lsn: Lsn(lsn), index: 0 }).into();
    let mut ledger = Ledger::new(Ordering::PerAggregate, ROOMY, Settled { ahead, ..Settled::default() });
    ledger.advance_watermark(Lsn(30));
    assert!(ledger.expects_settled(), "its commit record may begin where the confirmed one ended");
    ledger.advance_watermark(Lsn(31));
    assert!(!ledger.expects_settled());
}

#[test]
fn the_confirm_deadline_counts_from_whatever_went_out_first_and_is_unanswered() {
    let start = Instant::now();
    let at = |second| start + Duration::from_secs(second);
    let mut ledger = ledger(Ordering::PerAggregate);
    for (lsn, aggregate) in [(10, 7), (20, 7), (30, 8)] {
        ledger.push(message(lsn, 0, aggregate));
    }
    assert_eq!(publish_all(&mut ledger, at(0)), [0, 2]);
    ledger.settle(PublishTag(0));
    assert_eq!(publish_all(&mut ledger, at(1)), [1]);
    assert_eq!(ledger.oldest_outstanding(), Some(at(0)), "the one behind it went out before");
    ledger.refuse(PublishTag(2), Refusal::Nacked, |_| at(2));
    assert_eq!(ledger.oldest_outstanding(), Some(at(1)));
    assert_eq!(publish_all(&mut ledger, at(2)), [2]);
    ledger.settle(PublishTag(1));
    assert_eq!(ledger.oldest_outstanding(), Some(at(2)));
    ledger.settle(PublishTag(2));
    assert_eq!(ledger.oldest_outstanding(), None);
}

#[test]
fn a_nacked_message_keeps_its_aggregate_occupied_and_goes_out_again_when_due() {
    let now = Instant::now();
    let later = now + Duration::from_secs(1);
    let mut ledger = ledger(Ordering::PerAggregate);
    ledger.push(message(10, 0, 7));
    ledger.push(message(10, 1, 7));
    publish_all(&mut ledger, now);
    ledger.refuse(PublishTag(0), Refusal::Nacked, |refusals| {
        assert_eq!(refusals, 1);
        later
    });
    assert_eq!(publish_all(&mut ledger, now), [0; 0]);
    assert_eq!(ledger.next_again(now), Some(later));
    assert_eq!(ledger.oldest_outstanding(), None);
    assert_eq!(publish_all(&mut ledger, later), [0]);
    assert_eq!(ledger.oldest_outstanding(), Some(later));
    ledger.refuse(PublishTag(0), Refusal::Nacked, |refusals| {
        assert_eq!(refusals, 2);
        later
    });
    assert_eq!(publish_all(&mut ledger, later), [0]);
    ledger.settle(PublishTag(0));
    assert_eq!(publish_all(&mut ledger, later), [1]);
}

#[test]
fn nothing_else_goes_out_while_a_message_is_unroutable_not_even_while_it_is_tried_again() {
    let now = Instant::now();
    let mut ledger = ledger(Ordering::PerAggregate);
    for aggregate in 0..2 {
        ledger.push(message(10, aggregate, aggregate.into()));
    }
    publish_all(&mut ledger, now);
    ledger.push(message(20, 0, 3));
    ledger.refuse(PublishTag(0), Refusal::Unroutable, |_| now);
    assert_eq!(ledger.halted_by().map(|message| message.position.index), Some(0));
    assert_eq!(publish_all(&mut ledger, now), [0]);
    assert!(ledger.halted_by().is_some(), "still unproven");
    ledger.settle(PublishTag(0));
    assert!(ledger.halted_by().is_none());
    assert_eq!(publish_all(&mut ledger, now), [2]);
}

/// Simulates a broker that closes the channel for some messages and confirms nothing published together with them. Returns those
/// messages, and how often each other message was sent.
fn find(guilty: &[u64], messages: u64) -> (Vec<u64>, HashMap<u64, u32>) {
    let now = Instant::now();
    let mut ledger = ledger(Ordering::PerAggregate);
    for number in 0..messages {
        ledger.push(message(10, number as u32, number));
    }
    let (mut found, mut copies) = (Vec::new(), HashMap::new());
    while !ledger.is_empty() {
        let sent = publish_all(&mut ledger, now);
        assert!(!sent.is_empty(), "stuck after {found:?}");
        let stands = sent.iter().position(|tag| guilty.contains(tag));
        for tag in sent.iter().filter(|tag| !guilty.contains(tag)) {
            *copies.entry(*tag).or_default() += 1;
        }
        let sent: Vec<PublishTag> = sent.into_iter().map(PublishTag).collect();
        match stands {
            None => sent.into_iter().for_each(|tag| drop(ledger.settle(tag))),
            Some(_) => {
                if let Some(PublishTag(tag)) = ledger.channel_closed(&sent, &[]) {
                    found.push(tag);
                    ledger.settle(PublishTag(tag));
                }
            }
        }
    }
    (found, copies)
}

#[test]
fn whoever_costs_the_channel_is_found_and_nobody_is_sent_more_than_three_times() {
    for guilty in [vec![0], vec![1], vec![15], vec![16], vec![500], vec![3, 4, 499], vec![7, 30, 31, 32, 400]]
    {
        let (found, copies) = find(&guilty, 501);
        assert_eq!(found, guilty);
        assert_eq!(copies.len(), 501 - guilty.len(), "{guilty:?}");
        assert!(copies.values().all(|copies| *copies <= 3), "{guilty:?}: {copies:?}");
    }
    let (found, copies) = find(&[0], 1);
    assert_eq!((found, copies.len()), (vec![0], 0));
}

#[test]
fn a_refused_message_is_tried_again_alone_and_what_stands_before_it_goes_out() {
    let now = Instant::now();
    let later = now + Duration::from_secs(1);
    let mut ledger = ledger(Ordering::PerAggregate);
    for (index, aggregate) in [7, 8, 7, 9].into_iter().enumerate() {
        ledger.push(message(10 + index as u64, 0, aggregate));
    }
    assert_eq!(publish_all(&mut ledger, now), [0, 1, 3]);
    ledger.settle(PublishTag(1));
    ledger.give_back(&[PublishTag(3)]);
    ledger.refuse(PublishTag(0), Refusal::Nacked, |_| later);
    assert_eq!(publish_all(&mut ledger, now), [3]);
    assert_eq!(ledger.channel_closed(&[PublishTag(3)], &[]), Some(PublishTag(3)));
    ledger.refuse(PublishTag(3), Refusal::Forbidden, |_| later);
    ledger.push(message(20, 0, 10));
    assert_eq!((ledger.forbidden(), ledger.in_flight()), (Some(PublishTag(3)), 2));
    assert_eq!(publish_all(&mut ledger, now), [0; 0]);
    assert_eq!(publish_all(&mut ledger, later), [3], "alone");
    assert_eq!(ledger.next_again(later), None);
    assert_eq!(ledger.channel_closed(&[PublishTag(3)], &[]), Some(PublishTag(3)));
    ledger.refuse(PublishTag(3), Refusal::Forbidden, |refusals| later + Duration::from_secs(refusals.into()));
    assert_eq!(publish_all(&mut ledger, later), [0]);
    ledger.settle(PublishTag(0));
    assert_eq!(publish_all(&mut ledger, later), [2], "what stands before it, and not what stands behind");
    assert_eq!(publish_all(&mut ledger, later + Duration::from_secs(9)), [0; 0]);
    ledger.settle(PublishTag(2));
    assert_eq!(publish_all(&mut ledger, later + Duration::from_secs(9)), [3]);
    ledger.settle(PublishTag(3));
    assert_eq!(publish_all(&mut ledger, later), [4]);
}

#[test]
fn a_message_alone_whose_exchange_is_gone_goes_out_once_more_before_it_is_guilty() {
    let (now, alone) = (Instant::now(), [PublishTag(0)]);
    let later = now + Duration::from_secs(1);
    let mut ledger = ledger(Ordering::PerAggregate);
    ledger.push(message(10, 0, 7));
    ledger.push(message(11, 0, 7));
    assert_eq!(publish_all(&mut ledger, now), [0]);
    assert_eq!(ledger.exchange_missed(&alone, &[]), None);
    assert!(!ledger.may_repeat(), "it is not with the broker");
    // The exchange exists again. No queue is bound to it.
    assert_eq!(publish_all(&mut ledger, now), [0]);
    ledger.refuse(PublishTag(0), Refusal::Unroutable, |_| now);
    // The exchange may be deleted once more.
    assert_eq!(publish_all(&mut ledger, now), [0]);
    assert_eq!(ledger.exchange_missed(&alone, &[]), None);
    assert_eq!(publish_all(&mut ledger, now), [0]);
    assert_eq!(ledger.exchange_missed(&alone, &[]), Some(PublishTag(0)));
    ledger.refuse(PublishTag(0), Refusal::Forbidden, |_| later);
    assert_eq!(publish_all(&mut ledger, now), [0; 0]);
    assert_eq!(publish_all(&mut ledger, later), [0]);
    ledger.settle(PublishTag(0));
    assert_eq!(publish_all(&mut ledger, later), [1]);
    ledger.settle(PublishTag(1));
    assert!(ledger.is_empty());
}

/// The channel was closed for a batch behind the refused message, and for more than a batch before it. Neither waits for the other.
#[test]
fn what_stands_before_a_refused_message_goes_out_although_suspects_wait_behind_it() {
    let now = Instant::now();
    let later = now + Duration::from_secs(1);
    let mut ledger = ledger(Ordering::PerAggregate);
    // Twenty messages that wait for the one before them, the refused one, and one behind it.
    for number in 0..40 {
        ledger.push(message(10 + number, 0, number % 20));
    }
    ledger.push(message(100, 0, 100));
    ledger.push(message(101, 0, 101));
    let sent = publish_all(&mut ledger, now);
    assert_eq!(sent.len(), 22);
    for tag in 0..20 {
        ledger.settle(PublishTag(tag));
    }
    assert_eq!(ledger.channel_closed(&[40, 41].map(PublishTag), &[]), None);
    assert_eq!(publish_all(&mut ledger, now), [40]);
    assert_eq!(ledger.channel_closed(&[PublishTag(40)], &[]), Some(PublishTag(40)));
    ledger.refuse(PublishTag(40), Refusal::Forbidden, |_| later);
    let sent = publish_all(&mut ledger, now);
    assert_eq!(sent, (20..40).collect::<Vec<_>>());
    let sent: Vec<_> = sent.into_iter().map(PublishTag).collect();
    assert_eq!(ledger.channel_closed(&sent, &[]), None);
    for _ in 0..2 {
        let sent = publish_all(&mut ledger, now);
        assert!(!sent.is_empty(), "{ledger:?}");
        sent.into_iter().for_each(|tag| drop(ledger.settle(PublishTag(tag))));
    }
    assert!(ledger.may_repeat(), "one may be with the broker");
    assert_eq!(publish_all(&mut ledger, now), [0; 0]);
    assert_eq!(publish_all(&mut ledger, later), [40]);
    ledger.settle(PublishTag(40));
    assert_eq!(publish_all(&mut ledger, later), [41]);
    ledger.settle(PublishTag(41));
    assert!(ledger.is_empty() && !ledger.may_repeat());
}

#[test]
fn what_is_tried_again_behind_an_unanswered_message_is_not_remembered_for_ever() {
    let mut now = Instant::now();
    let mut ledger = ledger(Ordering::PerAggregate);
    ledger.push(message(10, 0, 1));
    ledger.push(message(20, 0, 2));
    publish_all(&mut ledger, now);
    let first = ledger.oldest_outstanding();
    for _ in 0..1000 {
        ledger.refuse(PublishTag(1), Refusal::Nacked, |_| now);
        now += Duration::from_secs(1);
        assert_eq!(publish_all(&mut ledger, now), [1]);
    }
    assert!(ledger.outstanding_since.len() < 10, "{}", ledger.outstanding_since.len());
    assert_eq!(ledger.oldest_outstanding(), first);
    ledger.settle(PublishTag(0));
    assert_eq!(ledger.oldest_outstanding(), Some(now));
}

/// One nack costs the other queues of the exchange one copy.
#[test]
fn nacked_messages_of_one_key_take_turns_and_get_through_ever_more_at_a_time() {
    let mut now = Instant::now();
    let mut ledger = ledger(Ordering::PerAggregate);
    for number in 0..100 {
        ledger.push(message(10, number, number.into()));
    }
    let wait = |failures: u32| Duration::from_millis(100 << failures.min(6));
    let mut failures = 0;
    for tag in publish_all(&mut ledger, now) {
        ledger.refuse(PublishTag(tag), Refusal::Nacked, |failed| now + wait(failed));
    }
    let mut tried: Vec<u64> = Vec::new();
    for _ in 0..150 {
        now += wait(6);
        let sent = publish_all(&mut ledger, now);
        assert_eq!(sent.len(), 1, "one at a time");
        tried.extend(&sent);
        ledger.refuse(PublishTag(sent[0]), Refusal::Nacked, |failed| {
            failures = failed;
            now + wait(failed)
        });
    }
    assert_eq!(failures, 151);
    assert_eq!(tried[..100].iter().collect::<HashSet<_>>().len(), 100, "in turns");
    assert_eq!(ledger.nacked().map(|nacked| nacked.messages), Some(100));
    now += wait(6);
    let mut lots = Vec::new();
    while !ledger.is_empty() {
        let sent = publish_all(&mut ledger, now);
        lots.push(sent.len());
        for tag in sent {
            ledger.settle(PublishTag(tag));
        }
    }
    assert_eq!(lots, [1, 2, 4, 8, 16, 32, 37]);
    assert_eq!(ledger.nacked(), None);
}

#[test]
fn a_key_whose_turns_are_all_in_vain_is_given_up_and_no_other() {
    let now = Instant::now();
    let mut ledger = ledger(Ordering::PerAggregate);
    for (number, key) in ["full", "full", "other"].into_iter().enumerate() {
        let kept = parked_row(10, number as u32, None).kept;
        let message =
            message(10, number as u32, number as u64).with(|amqp| amqp.routing_key = key.to_owned());
        ledger.push_kept(message, Arc::unwrap_or_clone(kept));
    }
    publish_all(&mut ledger, now);
    assert_eq!(ledger.nack(PublishTag(2), 3, |_| now), []);
    assert_eq!(ledger.nack(PublishTag(0), 3, |_| now), []);
    assert_eq!(ledger.nack(PublishTag(1), 3, |_| now), []);
    assert_eq!(publish_all(&mut ledger, now), [0, 2]);
    assert_eq!(ledger.nack(PublishTag(0), 3, |_| now), []);
    assert_eq!(publish_all(&mut ledger, now), [1]);
    assert_eq!(ledger.nack(PublishTag(1), 3, |_| now), [0, 1].map(PublishTag));
    for tag in [0, 1] {
        ledger.park_nacked(PublishTag(tag));
        ledger.parked(PublishTag(tag), Lsn(50));
    }
    ledger.settle(PublishTag(2));
    assert!(ledger.is_empty() && ledger.nacked().is_none());
}

#[test]
fn room_ends_by_count_or_by_bytes_and_one_large_message_always_fits() {
    let limits = Limits { messages: 2, bytes: 1000 };
    let mut ledger = Ledger::new(Ordering::Pipelined, limits, Settled::default());
    assert!(ledger.has_room());
    ledger.push(message(10, 0, 1).with(|amqp| amqp.body = vec![0; 5000].into()));
    assert!(!ledger.has_room());
    publish_all(&mut ledger, Instant::now());
    ledger.settle(PublishTag(0));
    assert!(ledger.has_room());
    ledger.push(message(10, 1, 1));
    ledger.push(message(10, 2, 1));
    assert!(!ledger.has_room());
}

fn parked_row(commit_lsn: u64, index: u32, aggregate: Option<&str>) -> ParkedRow {
    use crate::message::{Column, ColumnNames, InvalidReason, InvalidRow, Mapping, OutboxRow, ParkReason};
    let names = ["id", "aggregatetype", "aggregateid", "type", "payload"];
    let columns = names.map(|name| Column { name: name.into(), type_oid: 25 });
    let mapping = Mapping {
        source: "orders".into(),
        columns: ColumnNames::default(),
        id: "{id}".parse().unwrap(),
        exchange: "x".parse().unwrap(),
        routing_key: "x".parse().unwrap(),
        headers: Vec::new(),
        properties: Vec::new(),
        properties_from_headers: false,
        content_type: None,
        message_bytes_max: 1,
    };
    let position = Position { commit_lsn: Lsn(commit_lsn), index };
    let values = [Some("1"), Some("Order"), aggregate, None, None];
    let values = values.map(|value| value.map(|value| value.to_owned().into())).to_vec();
    let row = OutboxRow { position, committed_at: Timestamp(0), values };
    let kept = Arc::new(mapping.resolve(&columns).unwrap().keep(row));
    let invalid = InvalidRow { position, id: None, reason: InvalidReason::HeadersTooLarge };
    ParkedRow { kept, reason: ParkReason::invalid(&invalid) }
}

#[test]
fn a_parked_message_holds_its_aggregate_and_the_position_until_it_is_stored() {
    let now = Instant::now();
    let mut ledger = ledger(Ordering::PerAggregate);
    let kept = || Arc::unwrap_or_clone(parked_row(10, 0, Some("7")).kept);
    ledger.push_kept(message(10, 0, 7), kept());
    ledger.push(message(10, 1, 8));
    ledger.push(message(10, 2, 7));
    ledger.advance_watermark(Lsn(15));
    assert_eq!(publish_all(&mut ledger, now), [0, 1]);
    let at = Position { commit_lsn: Lsn(10), index: 0 };
    ledger.park(PublishTag(0));
    assert_eq!((ledger.outstanding(), ledger.parking()), (1, 1));
    ledger.settle(PublishTag(1));
    assert_eq!(publish_all(&mut ledger, now), [0; 0], "its aggregate's next one waits");
    assert_eq!((ledger.progress(), ledger.is_empty()), (Progress::default(), false));
    ledger.parked(PublishTag(0), Lsn(400));
    assert_eq!(ledger.progress().position, Some(Position { index: 1, ..at }));
    assert_eq!(publish_all(&mut ledger, now), [2]);
    ledger.settle(PublishTag(2));
    assert_eq!((confirmed(&ledger), ledger.is_empty()), (Some(15), true));
    assert_eq!(ledger.settled().reaches(), Some(Lsn(400)), "a server whose WAL ends before does not have it");
}

#[test]
fn an_invalid_row_takes_its_turn_and_is_parked() {
    let now = Instant::now();
    let mut ledger = ledger(Ordering::PerAggregate);
    ledger.push(message(10, 0, AggregateKey::new("Order", "7").0));
    ledger.push_invalid(parked_row(10, 1, None));
    ledger.push_invalid(parked_row(10, 2, Some("7")));
    ledger.push(message(10, 3, 8));
    ledger.advance_watermark(Lsn(15));
    assert!(matches!(ledger.next_due(now), Some((PublishTag(0), Due::Publish(_)))));
    assert!(
        matches!(ledger.next_due(now), Some((PublishTag(1), Due::Park(_)))),
        "it has no aggregate to wait for"
    );
    ledger.settle(PublishTag(0));
    assert!(matches!(ledger.next_due(now), Some((PublishTag(2), Due::Park(_)))));
    assert_eq!(publish_all(&mut ledger, now), [3]);
    for (tag, lsn) in [(3, None), (2, None), (1, Some(15))] {
        match tag {
            3 => drop(ledger.settle(PublishTag(3))),
            _ => ledger.parked(PublishTag(tag), Lsn(1)),
        }
        assert_eq!(confirmed(&ledger), lsn, "{tag}");
    }
}

#[test]
#[should_panic(expected = "was not parking")]
fn a_row_that_is_parked_twice_is_our_bug() {
    let mut ledger = ledger(Ordering::Pipelined);
    ledger.push_invalid(parked_row(10, 0, None));
    ledger.parked(PublishTag(0), Lsn(1));
}

#[test]
#[should_panic(expected = "not outstanding")]
fn an_outcome_for_a_message_that_is_not_outstanding_is_our_bug() {
    let mut ledger = ledger(Ordering::Pipelined);
    ledger.push(message(10, 0, 1));
    ledger.settle(PublishTag(0));
}

/// Next step of a generated history. Indexes choose among the possible ones.
#[derive(Clone, Debug)]
enum Step {
    Row {
        aggregate: u64,
    },
    Commit,
    Publish,
    Settle(prop::sample::Index),
    Refuse(prop::sample::Index, bool),
    /// The broker closes the channel.
    Close {
        missed: bool,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..5u64).prop_map(|aggregate| Step::Row { aggregate }),
        2 => Just(Step::Commit),
        4 => Just(Step::Publish),
        4 => any::<prop::sample::Index>().prop_map(Step::Settle),
        1 => (any::<prop::sample::Index>(), any::<bool>()).prop_map(|(i, nack)| Step::Refuse(i, nack)),
        1 => any::<bool>().prop_map(|missed| Step::Close { missed }),
    ];
    prop::collection::vec(step, 1..300)
}

proptest! {
    /// For any answers in any order: the confirmed LSN never covers an unsettled row and never goes back. One aggregate never has
    /// two messages outstanding.
    #[test]
    fn the_confirmed_lsn_never_covers_an_unsettled_row(steps in steps(), pipelined: bool) {
        let ordering = if pipelined { Ordering::Pipelined } else { Ordering::PerAggregate };
        let now = Instant::now();
        let mut ledger = ledger(ordering);
        let (mut lsn, mut index) = (10, 0);
        let mut rows: Vec<(u64, u64)> = Vec::new(); // of each tag: commit LSN, aggregate
        let mut out: Vec<u64> = Vec::new();
        let mut settled = HashSet::new();
        let mut first_published: Vec<u64> = Vec::new();
        let mut last_confirmed = 0;
        // After a closed channel, suspects and refused messages hold others back.
        let mut closed = false;
        for step in steps {
            let published = matches!(step, Step::Publish);
            match step {
                Step::Row { aggregate } => {
                    let routed = |amqp: &mut amqp::Message| amqp.routing_key = aggregate.to_string();
                    ledger.push(message(lsn, index, aggregate).with(routed));
                    rows.push((lsn, aggregate));
                    index += 1;
                }
                Step::Close { missed } => {
                    closed = true;
                    let sent: Vec<PublishTag> = out.drain(..).map(PublishTag).collect();
                    let closed = if missed { Ledger::exchange_missed } else { Ledger::channel_closed };
                    if let Some(guilty) = closed(&mut ledger, &sent, &[]) {
                        prop_assert_eq!(&sent, &[guilty]);
                        ledger.refuse(guilty, Refusal::Forbidden, |_| now);
                    }
                }
                Step::Commit => {
                    ledger.advance_watermark(Lsn(lsn + 5));
                    (lsn, index) = (lsn + 10, 0);
                }
                Step::Publish => {
                    let tags = publish_all(&mut ledger, now);
                    for &tag in &tags {
                        if !first_published.contains(&tag) {
                            first_published.push(tag);
                        }
                    }
                    out.extend(tags);
                }
                Step::Settle(choice) if !out.is_empty() => {
                    let tag = out.swap_remove(choice.index(out.len()));
                    ledger.settle(PublishTag(tag));
                    settled.insert(tag);
                }
                Step::Refuse(choice, nack) if !out.is_empty() => {
                    let tag = out.swap_remove(choice.index(out.len()));
                    let why = if nack { Refusal::Nacked } else { Refusal::Unroutable };
                    ledger.refuse(PublishTag(tag), why, |_| now);
                }
                Step::Settle(_) | Step::Refuse(..) => {}
            }
            prop_assert_eq!(ledger.outstanding(), out.len());
            let mut last = HashMap::new();
            for &tag in &first_published {
                let (lsn, aggregate) = rows[tag as usize];
                for what in [("transaction", lsn), ("aggregate", aggregate), ("all", 0)] {
                    let before = last.insert(what, tag);
                    prop_assert!(before < Some(tag) || what.0 == "all" && !pipelined, "order of {what:?}");
                }
            }
            if !pipelined {
                let aggregates: HashSet<_> = out.iter().map(|&tag| rows[tag as usize].1).collect();
                prop_assert_eq!(aggregates.len(), out.len(), "one message out per aggregate");
                let unsettled = (0..rows.len()).filter(|&tag| !settled.contains(&(tag as u64)));
                let unsettled: HashSet<_> = unsettled.map(|tag| rows[tag].1).collect();
                // Only its own aggregate and transaction may hold it back.
                let alone = unsettled.iter().find(|aggregate| {
                    let first = (0..rows.len()).find(|&tag| rows[tag].1 == **aggregate && !settled.contains(&(tag as u64)));
                    first.is_some_and(|tag| tag == 0 || rows[tag - 1].0 != rows[tag].0) && !aggregates.contains(aggregate)
                });
                prop_assert!(!published || closed || ledger.halted_by().is_some() || alone.is_none(), "{alone:?} is held up");
            }
            let confirmed = confirmed(&ledger).unwrap_or(0);
            prop_assert!(confirmed >= last_confirmed);
            last_confirmed = confirmed;
            for (tag, (commit_lsn, _)) in rows.iter().enumerate() {
                prop_assert!(*commit_lsn >= confirmed || settled.contains(&(tag as u64)));
            }
        }
        // A new connection: unconfirmed rows come again, and settled ones are skipped.
        let mut next = Ledger::new(ordering, ROOMY, ledger.settled());
        let mut taken = Vec::new();
        let mut index = 0;
        for (tag, (commit_lsn, aggregate)) in rows.iter().enumerate() {
            index = if tag > 0 && rows[tag - 1].0 == *commit_lsn { index + 1 } else { 0 };
            let position = Position { commit_lsn: Lsn(*commit_lsn), index };
            if *commit_lsn >= last_confirmed && !next.push_settled(position, Timestamp(0)) {
                next.push(message(*commit_lsn, index, *aggregate));
                taken.push(tag as u64);
            }
        }
        prop_assert!(!next.expects_settled());
        // Nothing is stuck: when the broker confirms everything, everything is settled.
        loop {
            out.extend(publish_all(&mut ledger, now));
            let Some(tag) = out.pop() else { break };
            ledger.settle(PublishTag(tag));
        }
        prop_assert!(ledger.is_empty() && ledger.in_flight() == 0, "{ledger:?}");
        let unsettled = (0..rows.len() as u64).filter(|tag| !settled.contains(tag));
        prop_assert_eq!(taken, unsettled.collect::<Vec<_>>());
        // The broker answers everything that is left. All of it must be settled.
        let mut ledger = next;
        let mut out = Vec::new();
        loop {
            out.extend(publish_all(&mut ledger, now));
            let Some(tag) = out.pop() else { break };
            ledger.settle(PublishTag(tag));
        }
        prop_assert!(ledger.is_empty() && ledger.settled().ahead.is_empty());
        prop_assert_eq!(ledger.progress().position.map(|position| position.index as usize + 1),
            (!rows.is_empty()).then(|| rows.iter().filter(|row| row.0 == rows[rows.len() - 1].0).count()));
    }
}

/// Next answer of the broker, and the wait after a refusal.
#[derive(Clone, Debug)]
enum Said {
    Confirmed,
    Nacked,
    Unroutable,
    LookedInto,
    Forbidden,
    /// The channel is closed. The last ones had not been sent.
    Closed {
        unsent: prop::sample::Index,
        missed: bool,
    },
    /// The last ones had not been sent, and the exchange of the first of them is refused.
    ExchangeRefused {
        unsent: prop::sample::Index,
    },
    /// More rows arrive.
    Rows,
    /// Time passes.
    Nothing,
}

fn said() -> impl Strategy<Value = Said> {
    prop_oneof![
        4 => Just(Said::Confirmed),
        4 => Just(Said::Nacked),
        1 => Just(Said::Unroutable),
        1 => Just(Said::LookedInto),
        1 => Just(Said::Forbidden),
        2 => any::<(prop::sample::Index, bool)>().prop_map(|(unsent, missed)| Said::Closed { unsent, missed }),
        1 => any::<prop::sample::Index>().prop_map(|unsent| Said::ExchangeRefused { unsent }),
        2 => Just(Said::Rows),
        2 => Just(Said::Nothing),
    ]
}

proptest! {
    /// For any refusals in any order: a message that could go out does not wait, and no wake-up is in vain. When the broker takes
    /// everything, everything is settled.
    #[test]
    fn nothing_that_was_refused_waits_for_ever_or_is_woken_in_vain(
        said in prop::collection::vec((said(), any::<prop::sample::Index>(), 0..3_u64), 1..200),
        parks: bool,
    ) {
        let mut now = Instant::now();
        let mut ledger = ledger(Ordering::PerAggregate);
        let (mut rows, mut out) = (0, Vec::new());
        let failures_max = if parks { 3 } else { u32::MAX };
        for (said, choice, wait) in said {
            let again_at = |_: u32| now + Duration::from_secs(wait);
            match said {
                Said::Rows => for _ in 0..20 {
                    let kept = Arc::unwrap_or_clone(parked_row(10 + rows, 0, None).kept);
                    let key = (rows % 3).to_string();
                    let message = message(10 + rows, 0, rows % 25).with(|amqp| amqp.routing_key = key);
                    ledger.push_kept(message, kept);
                    rows += 1;
                },
                Said::Nothing => now += Duration::from_secs(1),
                _ if out.is_empty() => {}
                Said::Closed { unsent, missed } => {
                    // At least one was sent.
                    let unsent = out.split_off(1 + unsent.index(out.len()));
                    let sent: Vec<_> = std::mem::take(&mut out);
                    let closed = if missed { Ledger::exchange_missed } else { Ledger::channel_closed };
                    if let Some(guilty) = closed(&mut ledger, &sent, &unsent) {
                        ledger.refuse(guilty, Refusal::Forbidden, again_at);
                    }
                }
                Said::ExchangeRefused { unsent } => {
                    let unsent = out.split_off(unsent.index(out.len()));
                    ledger.give_back(&unsent[1..]);
                    ledger.refuse(unsent[0], Refusal::Forbidden, again_at);
                }
                said => {
                    let tag = out.remove(choice.index(out.len()));
                    match said {
                        Said::Nacked => for tag in ledger.nack(tag, failures_max, again_at) {
                            ledger.park_nacked(tag);
                            ledger.parked(tag, Lsn(1));
                        },
                        Said::Unroutable => ledger.refuse(tag, Refusal::Unroutable, again_at),
                        Said::LookedInto => ledger.refuse(tag, Refusal::LookedInto, again_at),
                        Said::Forbidden => ledger.refuse(tag, Refusal::Forbidden, again_at),
                        _ => drop(ledger.settle(tag)),
                    }
                }
            }
            out.extend(publish_all(&mut ledger, now).into_iter().map(PublishTag));
            prop_assert_eq!(ledger.outstanding(), out.len());
            let again = ledger.next_again(now);
            prop_assert!(again.is_none_or(|again| again > now), "woken in vain: {ledger:?}");
            prop_assert!(!out.is_empty() || again.is_some() || ledger.is_empty(), "nobody wakes: {ledger:?}");
            prop_assert!(ledger.in_flight() >= out.len() && ledger.outstanding_since.len() <= 2 * ledger.len() + 2);
        }
        while !ledger.is_empty() {
            match out.pop() {
                Some(tag) => drop(ledger.settle(tag)),
                None => now = ledger.next_again(now).expect("a time that wakes"),
            }
            out.extend(publish_all(&mut ledger, now).into_iter().map(PublishTag));
        }
        prop_assert!(ledger.in_flight() == 0 && !ledger.may_repeat() && ledger.halted_by().is_none());
        prop_assert!(ledger.forbidden().is_none() && ledger.last_of.is_empty() && ledger.bytes == 0);
    }
}
