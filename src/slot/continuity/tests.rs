#![allow(clippy::unwrap_used)]

use super::*;
use crate::{
    message::Timestamp,
    slot::{invalidation::Invalidation, publication::Unpublished},
};

fn server(system_id: &str, timeline: u32, xlogpos: u64) -> SystemIdentity {
    SystemIdentity { system_id: system_id.to_owned(), timeline, xlogpos: Lsn(xlogpos), database: None }
}

fn slot(confirmed_flush: u64) -> Option<SlotFacts> {
    Some(SlotFacts::sample(Lsn(confirmed_flush)))
}

fn lost(confirmed_flush: u64) -> Option<SlotFacts> {
    slot(confirmed_flush).map(|slot| SlotFacts { lost: Some(Invalidation::WalRemoved), ..slot })
}

/// A record of timeline 1 of system A, at 100.
fn record(holder: Option<&str>) -> Option<SlotRecord> {
    Some(SlotRecord {
        system_id: "A".into(),
        timeline: 1,
        confirmed_flush: Lsn(100),
        confirmed_until: Some(Timestamp(0)),
        holder: holder.map(str::to_owned),
        gap: None,
        published_by: Some(PUBLISHED_BY),
        unproven: None,
        version: 7,
        as_written: true,
    })
}

const PUBLISHED_BY: PublishedBy = PublishedBy { entry: 16_400, altered_by: 700 };

/// Memory of the process "me", which has confirmed up to 300 on timeline 1 of system A.
fn last_seen() -> LastSeen {
    LastSeen {
        holder: "me".into(),
        system_id: "A".into(),
        timeline: 1,
        confirmed: Some(Lsn(300)),
        published_by: Some(PUBLISHED_BY),
        version: 7,
    }
}

fn history(record: Option<SlotRecord>, server: SystemIdentity, slot: Option<SlotFacts>) -> SlotHistory {
    let publishing = Publishing::By(PUBLISHED_BY);
    SlotHistory { server, timelines: vec![(1, Lsn(500))], record, slot, publishing, published_before: None }
}

fn cause(history: &SlotHistory, last_seen: Option<&LastSeen>) -> Cause {
    history.judge(last_seen).unwrap_err().cause
}

#[test]
fn nothing_known_is_a_beginning() {
    let here = || server("A", 1, 1000);
    assert_eq!(history(None, here(), None).judge(None), Ok(Continuity::First));
    assert_eq!(history(None, here(), slot(700)).judge(None), Ok(Continuity::Adopted));
    let gap = history(None, here(), lost(70)).judge(None).unwrap_err();
    assert!(matches!(gap.cause, Cause::Lost { .. }));
    assert_eq!(gap.confirmed, Some(Lsn(70)));
}

/// The slot may stand as far as a holder may have confirmed beyond the record.
#[test]
fn a_slot_is_the_same_as_long_as_it_stands_where_it_can_have_come_to() {
    let at = |flush, holder| history(record(holder), server("A", 1, 1000), slot(flush));
    let me = last_seen();
    for (found, last_seen, same) in [
        // Released at 100: exactly there, or further back after a crash of the server.
        (at(100, None), None, true),
        (at(90, None), None, true),
        (at(101, None), None, false),
        // Held by a process that has died: its last position is unknown.
        (at(100, Some("other")), None, true),
        (at(900, Some("other")), None, true),
        // Held by ourselves: up to what we confirmed.
        (at(300, Some("me")), Some(&me), true),
        (at(301, Some("me")), Some(&me), false),
        // Another instance had it since, or created it again by `recover`: the record is newer than our memory.
        (at(900, Some("other")), Some(&me), true),
        (at(100, None), Some(&me), true),
        (at(250, None), Some(&me), false),
    ] {
        let verdict = found.judge(last_seen);
        match same {
            true => assert_eq!(verdict, Ok(Continuity::Same), "{found:?}"),
            false => assert!(matches!(verdict.unwrap_err().cause, Cause::MadeAnew { .. }), "{found:?}"),
        }
    }
}

/// The record is written when a slot is acquired. A fault just after that must not make the slot look like another one.
#[test]
fn what_was_acquired_last_counts_although_nothing_was_confirmed_since() {
    let earlier = LastSeen { confirmed: Some(Lsn(50)), ..last_seen() };
    let found = history(record(Some("me")), server("A", 1, 1000), slot(100));
    assert_eq!(found.judge(Some(&earlier)), Ok(Continuity::Same));
}

#[test]
fn a_slot_that_is_not_there_is_a_gap_from_the_last_known_position() {
    let gone = history(record(Some("me")), server("A", 1, 1000), None);
    let gap = gone.judge(None).unwrap_err();
    assert_eq!(gap, Gap { cause: Cause::Gone, confirmed: Some(Lsn(100)), until: Some(Timestamp(0)) });
    assert_eq!(gone.judge(Some(&last_seen())).unwrap_err().confirmed, Some(Lsn(300)));
    let text = gap.to_string();
    assert!(
        text.contains("after 0/64 (the last confirmed message was committed at 1970-01-01T00:00:00.000Z"),
        "{text}"
    );
    // Seen only, before its first record.
    let seen = LastSeen { confirmed: None, version: 0, ..last_seen() };
    let bare = history(None, server("A", 1, 1000), None);
    let gap = bare.judge(Some(&seen)).unwrap_err();
    assert_eq!(gap.confirmed, None);
    assert!(gap.to_string().contains("after an unknown position"));
}

#[test]
fn a_lost_slot_knows_best_how_far_it_came() {
    let gap = history(record(Some("other")), server("A", 1, 1000), lost(170)).judge(None).unwrap_err();
    assert!(matches!(gap.cause, Cause::Lost { .. }));
    assert_eq!(gap.confirmed, Some(Lsn(170)));
}

#[test]
fn after_a_promotion_the_place_where_the_timeline_was_left_decides() {
    let on = |timeline, flush: Option<u64>| {
        history(record(Some("other")), server("A", timeline, 1000), flush.and_then(slot))
    };
    assert_eq!(on(2, Some(500)).judge(None), Ok(Continuity::Same), "it came along");
    assert_eq!(cause(&on(2, Some(501)), None), Cause::MadeAnew { at: Some(Lsn(501)) });
    assert_eq!(cause(&on(2, None), None), Cause::LeftBehind { had: 1, has: 2 });
    // A replica that was behind: its WAL ends before what was confirmed.
    let late = history(record(Some("me")), server("A", 2, 200), slot(90));
    assert_eq!(late.judge(Some(&last_seen())), Ok(Continuity::Same));
    // Created again before the promotion: copied to the standby, and still another slot.
    let anew = history(record(None), server("A", 2, 1000), slot(400));
    assert_eq!(cause(&anew, None), Cause::MadeAnew { at: Some(Lsn(400)) });
    // The same on a replica that was behind, where this process's later confirms never happened.
    let later = LastSeen { version: 9, confirmed: Some(Lsn(450)), ..last_seen() };
    assert_eq!(cause(&anew, Some(&later)), Cause::MadeAnew { at: Some(Lsn(400)) });
    // A branch that never was on the timeline of the slot.
    let foreign = SlotHistory { timelines: vec![(3, Lsn(900))], ..on(4, Some(50)) };
    assert!(matches!(cause(&foreign, None), Cause::MadeAnew { .. }));
}

#[test]
fn another_system_and_an_older_state_are_gaps_with_and_without_a_slot() {
    for slot in [slot(50), None] {
        let elsewhere = history(record(None), server("B", 1, 1000), slot.clone());
        assert_eq!(cause(&elsewhere, None), Cause::OtherSystem { had: "A".into(), has: "B".into() });
        let older = history(record(Some("me")), server("A", 1, 299), slot.clone());
        assert_eq!(cause(&older, Some(&last_seen())), Cause::SetBack { end: Lsn(299) });
        let promoted = LastSeen { timeline: 2, ..last_seen() };
        let demoted = history(record(Some("me")), server("A", 1, 1000), slot);
        assert_eq!(cause(&demoted, Some(&promoted)), Cause::SetBack { end: Lsn(1000) });
    }
}

/// The older state may say anything, and may have written any amount of WAL since.
#[test]
fn a_record_older_than_the_one_that_was_seen_is_a_server_set_back() {
    let later = LastSeen { version: 8, ..last_seen() };
    for holder in [None, Some("me"), Some("other")] {
        let older = history(record(holder), server("A", 1, 1000), slot(100));
        assert_eq!(cause(&older, Some(&later)), Cause::SetBack { end: Lsn(1000) }, "{holder:?}");
        // A replica that was behind, and was promoted.
        let promoted = history(record(holder), server("A", 2, 1000), slot(100));
        assert_eq!(promoted.judge(Some(&later)), Ok(Continuity::Same), "{holder:?}");
    }
}

/// A gap stays a gap after its proof is gone: the memory of a process, or the end of WAL.
#[test]
fn a_gap_that_was_found_stays_until_it_is_recovered_from() {
    let mut found = history(record(Some("me")), server("A", 1, 1000), slot(400));
    let gap = found.judge(Some(&last_seen())).unwrap_err();
    assert_eq!(found.judge(None), Ok(Continuity::Same), "nobody else can tell");
    let marked = found.to_be_marked(&gap, Some(&last_seen())).unwrap();
    assert_eq!((marked.confirmed_flush, marked.version, &marked.holder), (Lsn(300), 8, &None));
    found.record = Some(marked.clone());
    for slot in [slot(400), slot(250), lost(70), None] {
        found.slot = slot;
        for last_seen in [None, Some(&last_seen())] {
            assert_eq!(found.judge(last_seen).unwrap_err().to_string(), gap.to_string());
        }
    }
    found.slot = slot(400);
    found.record = Some(SlotRecord { gap: None, confirmed_flush: Lsn(400), version: 9, ..marked });
    assert_eq!(found.judge(Some(&last_seen())), Ok(Continuity::Same));
}

/// A copy of the server is restored that is older than the first record. Only this process knows, so it records the gap where there
/// was no record.
#[test]
fn a_record_that_is_gone_is_a_gap_and_is_written_down_although_the_slot_looks_right() {
    for slot in [slot(100), slot(900), None] {
        let bare = history(None, server("A", 1, 1000), slot.clone());
        let gap = bare.judge(Some(&last_seen())).unwrap_err();
        assert_eq!((&gap.cause, gap.confirmed), (&Cause::Unrecorded, Some(Lsn(300))), "{slot:?}");
        let marked = bare.to_be_marked(&gap, Some(&last_seen())).unwrap();
        assert_eq!((marked.system_id.as_str(), marked.timeline, marked.version), ("A", 1, 8));
        let found = SlotHistory { record: Some(marked), ..bare };
        for last_seen in [None, Some(&last_seen())] {
            assert!(found.judge(last_seen).is_err(), "{slot:?}");
        }
        assert_eq!(found.to_be_marked(&gap, None), None, "once is enough");
    }
    let older = history(None, server("A", 1, 299), slot(100));
    assert_eq!(cause(&older, Some(&last_seen())), Cause::SetBack { end: Lsn(299) });
}

#[test]
fn after_a_teardown_everything_begins_afresh_except_in_a_process_that_was_left() {
    let torn_down = |version| {
        record(None).map(|record| SlotRecord {
            confirmed_flush: Lsn::ZERO,
            confirmed_until: None,
            version,
            ..record
        })
    };
    let here = |record, slot| history(record, server("A", 1, 1000), slot);
    assert_eq!(here(torn_down(8), None).judge(None), Ok(Continuity::First));
    assert_eq!(here(torn_down(8), slot(900)).judge(None), Ok(Continuity::Adopted));
    let left = here(torn_down(8), None);
    let gap = left.judge(Some(&last_seen())).unwrap_err();
    assert_eq!(gap.cause, Cause::TornDown);
    assert_eq!(left.to_be_marked(&gap, Some(&last_seen())), None, "nothing is missing to the next slot");
    // The next slot was created, with or without a record: the stream goes on from there.
    assert_eq!(here(torn_down(8), slot(900)).judge(Some(&last_seen())), Ok(Continuity::Adopted));
    let next = record(None).map(|record| SlotRecord { confirmed_flush: Lsn(900), version: 9, ..record });
    assert_eq!(here(next, slot(900)).judge(Some(&last_seen())), Ok(Continuity::Same));
    // An older state, without a slot.
    let older = here(torn_down(6), None);
    let gap = older.judge(Some(&last_seen())).unwrap_err();
    assert_eq!(gap.cause, Cause::SetBack { end: Lsn(1000) });
    assert!(older.to_be_marked(&gap, Some(&last_seen())).is_some());
}

/// A missing publication is a gap only if there is a slot: the publication of a first slot is created before it.
#[test]
fn a_slot_whose_publication_is_missing_has_a_gap_and_no_slot_has_none() {
    let here = || server("A", 1, 1000);
    for why in [Unpublished::Missing, Unpublished::NotHeld, Unpublished::NoInserts, Unpublished::AsPartitions]
    {
        let unpublished =
            |record, slot| SlotHistory { publishing: Publishing::Not(why), ..history(record, here(), slot) };
        assert_eq!(unpublished(None, None).judge(None), Ok(Continuity::First));
        let adopted = unpublished(None, slot(150)).judge(None).unwrap_err();
        assert_eq!((adopted.cause, adopted.confirmed), (Cause::Unpublished(why), Some(Lsn(150))));
        let ours = unpublished(record(None), slot(100)).judge(None).unwrap_err();
        assert_eq!((ours.cause, ours.confirmed), (Cause::Unpublished(why), Some(Lsn(100))));
        let found = unpublished(record(Some("me")), slot(250)).judge(Some(&last_seen())).unwrap_err();
        assert_eq!((found.cause, found.confirmed), (Cause::Unpublished(why), Some(Lsn(300))));
        let torn_down = record(None).map(|record| SlotRecord { confirmed_flush: Lsn::ZERO, ..record });
        let made_since = unpublished(torn_down, slot(150));
        assert_eq!(cause(&made_since, None), Cause::Unpublished(why));
        // The slot's own cause comes first: the same command mends both.
        assert_eq!(cause(&unpublished(record(None), None), None), Cause::Gone);
    }
}

#[test]
fn a_table_taken_out_of_the_publication_and_put_back_is_a_gap_to_who_knows_how_it_was() {
    let anew = PublishedBy { entry: 16_500, ..PUBLISHED_BY };
    let published =
        |publishing, record| SlotHistory { publishing, ..history(record, server("A", 1, 1000), slot(100)) };
    let put_back = published(Publishing::By(anew), record(None));
    assert_eq!(cause(&put_back, None), Cause::PublishedAnew);
    assert!(put_back.judge(None).unwrap_err().to_string().contains("removed from the publication"));
    let remembers = published(Publishing::By(anew), record(Some("me")));
    assert_eq!(cause(&remembers, Some(&last_seen())), Cause::PublishedAnew);
    let nothing_known = record(None).map(|record| SlotRecord { published_by: None, ..record });
    assert_eq!(published(Publishing::By(anew), nothing_known.clone()).judge(None), Ok(Continuity::Same));
    // Between two looks of one attempt.
    let before =
        SlotHistory { published_before: Some(PUBLISHED_BY), ..published(Publishing::By(anew), None) };
    assert_eq!(cause(&before, None), Cause::PublishedAnew);
    let recovered = record(None).map(|record| SlotRecord { published_by: Some(anew), ..record });
    let by_another = SlotHistory { record: recovered, ..before.clone() };
    assert_eq!(by_another.judge(None), Ok(Continuity::Same), "who has waited through a recovery");
    let no_slot = SlotHistory { slot: None, ..before };
    assert_eq!(no_slot.judge(None), Ok(Continuity::First));

    // Most statements that alter the publication itself remove no table from it. Neither does a rename of the table.
    let altered = PublishedBy { altered_by: 900, ..PUBLISHED_BY };
    for harmless in [Publishing::By(altered), Publishing::NoTable] {
        assert_eq!(published(harmless, record(None)).judge(None), Ok(Continuity::Same));
    }
}

/// After a crash PostgreSQL may have lost the slot's confirmed position. The record still has it.
#[test]
fn the_record_counts_only_where_this_server_has_written_it_for_this_slot() {
    let here = || server("A", 1, 1000);
    let changed = |change: fn(&mut SlotRecord)| {
        record(Some("other")).map(|mut record| {
            change(&mut record);
            record
        })
    };
    let there = || changed(|_| ());
    let counts = |record, server, slot| history(record, server, slot).settled();
    assert_eq!(counts(there(), here(), slot(70)), Some(Lsn(100)));
    assert_eq!(
        counts(record(None), here(), slot(70)),
        Some(Lsn(100)),
        "released, and then the server crashed"
    );
    for (what, settled) in [
        ("another timeline", counts(there(), server("A", 2, 1000), slot(70))),
        ("another system", counts(there(), server("B", 1, 1000), slot(70))),
        ("a server that does not reach so far", counts(there(), server("A", 1, 99), slot(70))),
        ("no slot", counts(there(), here(), None)),
        ("from a dump", counts(changed(|record| record.as_written = false), here(), slot(70))),
        ("a gap", counts(changed(|record| record.gap = Some("is gone".into())), here(), slot(70))),
        ("no record", counts(None, here(), slot(70))),
    ] {
        assert_eq!(settled, None, "{what}");
    }
    let torn_down = record(None).map(|record| SlotRecord { confirmed_flush: Lsn::ZERO, ..record });
    assert_eq!(counts(torn_down, here(), slot(70)), None);
}
