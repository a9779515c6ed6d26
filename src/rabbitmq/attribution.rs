//! Which message was returned, and when it is safe to say that one was not. Pure: no lapin, no I/O.
//!
//! RabbitMQ answers an unroutable `mandatory` publish with `basic.return`, later followed by an ordinary confirm of the same
//! message (RabbitMQ manual, "Consumer Acknowledgements and Publisher Confirms", when messages are confirmed). lapin puts
//! each return into a FIFO and hands its front to whichever confirm it completes next (lapin's acknowledgement.rs,
//! `complete_pending`), and one ack with `multiple` completes in no order at all. So the confirm that carries a return says
//! nothing of whose return it is: that is read from the returned message's own `outbox-position`.
//!
//! It remains to know when *no* return is still to come for a confirmed message t. Call R(t) its return, if it has one. The
//! broker sends R(t) before it confirms t, and lapin's I/O thread handles both in that order, so at the time at which t is
//! completed R(t) is either in the FIFO or was carried by a confirm completed before.
//!
//! 1. t's confirm carried nothing: the FIFO was empty, so R(t) was carried by an earlier confirm, or does not exist.
//! 2. t's confirm carried another message's return: R(t) may still be in the FIFO. It is gone from there once every
//!    publish up to t is completed. For returns enter in publish order, each while its own message is pending, and every
//!    completion takes one out; so the returns for messages up to t in the FIFO are never more than the messages up to t
//!    (up to the latest returned of them) that are pending, and being in order, they leave before any later one. No more
//!    pending means no more waiting.
//!
//! In both cases "carried by a confirm completed before" means that its future is ready when t's is. The confirms must
//! therefore be drained until none is ready, and only then may [`Attribution::settle`] be called.

use std::collections::VecDeque;

use super::publisher::Outcome;
use crate::ledger::PublishTag;
use crate::position::Position;

/// A message that the broker handed back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Return {
    pub(super) position: Position,
    pub(super) reply_code: u16,
    pub(super) reply_text: String,
}

/// A return for a position that is not in flight. The reasoning above excludes it; nothing confirmed so far is trusted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NotInFlight(pub(super) Position);

/// Names one publish. Unlike the tag it ascends with every publish: a message that is published again keeps its tag, and
/// then comes behind messages with higher ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Serial(u64);

/// Everything sent whose outcome is not told yet, in publish order.
#[derive(Debug, Default)]
pub(super) struct Attribution {
    /// Without a gap. Settled entries stay until they reach the front.
    sent: VecDeque<Sent>,
    /// Serial of `sent[0]`.
    first: u64,
    /// Confirmed, outcome not told yet.
    confirmed: Vec<Serial>,
}

#[derive(Debug)]
struct Sent {
    tag: PublishTag,
    position: Position,
    confirm: Option<Confirm>,
    returned: Option<Return>,
    settled: bool,
}

#[derive(Clone, Copy, Debug)]
struct Confirm {
    ack: bool,
    /// The confirm carried no return, not even another message's: case 1 above.
    carried_nothing: bool,
}

impl Attribution {
    /// A message was given to lapin.
    pub(super) fn sent(&mut self, tag: PublishTag, position: Position) -> Serial {
        let serial = Serial(self.first + self.sent.len() as u64);
        self.sent.push_back(Sent { tag, position, confirm: None, returned: None, settled: false });
        serial
    }

    /// lapin completed the confirm of a publish, and handed over `carried`, whosever it is.
    pub(super) fn confirmed(
        &mut self,
        serial: Serial,
        ack: bool,
        carried: Option<Return>,
    ) -> Result<(), NotInFlight> {
        let carried_nothing = carried.is_none();
        if let Some(returned) = carried {
            let position = returned.position;
            let owner = self
                .sent
                .iter_mut()
                .find(|sent| !sent.settled && sent.returned.is_none() && sent.position == position)
                .ok_or(NotInFlight(position))?;
            owner.returned = Some(returned);
        }
        if let Some(sent) = self.sent.get_mut((serial.0 - self.first) as usize) {
            sent.confirm = Some(Confirm { ack, carried_nothing });
            self.confirmed.push(serial);
        }
        Ok(())
    }

    /// The outcomes that are certain, in publish order. Only to be called when no further confirm is ready.
    pub(super) fn settle(&mut self) -> Vec<(PublishTag, Outcome)> {
        let mut outcomes = Vec::with_capacity(self.confirmed.len());
        self.confirmed.sort_unstable();
        let first = self.first;
        let oldest_pending = self.sent.iter().position(|sent| sent.confirm.is_none());
        let sent = &mut self.sent;
        self.confirmed.retain(|serial| {
            let index = (serial.0 - first) as usize;
            let entry = &mut sent[index];
            let Some(confirm) = entry.confirm else { return true };
            let all_before_completed = oldest_pending.is_none_or(|oldest| index < oldest);
            let outcome = match entry.returned.take() {
                Some(Return { reply_code, reply_text, .. }) => Outcome::Returned { reply_code, reply_text },
                None if !confirm.carried_nothing && !all_before_completed => return true,
                None if confirm.ack => Outcome::Confirmed,
                None => Outcome::Nacked,
            };
            entry.settled = true;
            outcomes.push((entry.tag, outcome));
            false
        });
        while self.sent.front().is_some_and(|sent| sent.settled) {
            self.sent.pop_front();
            self.first += 1;
        }
        outcomes
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::position::Lsn;

    fn position(tag: u64) -> Position {
        Position { commit_lsn: Lsn(1000 + tag), index: 0 }
    }

    fn returned(tag: u64) -> Return {
        Return { position: position(tag), reply_code: 312, reply_text: "NO_ROUTE".into() }
    }

    fn is_returned(outcome: &Outcome) -> bool {
        matches!(outcome, Outcome::Returned { .. })
    }

    fn sent(count: u64) -> Attribution {
        let mut attribution = Attribution::default();
        for tag in 1..=count {
            attribution.sent(PublishTag(tag), position(tag));
        }
        attribution
    }

    #[test]
    fn a_return_carried_by_another_confirm_is_not_that_confirms() {
        let mut attribution = sent(3);
        attribution.confirmed(Serial(0), true, None).unwrap();
        attribution.confirmed(Serial(2), true, Some(returned(2))).unwrap();
        // 3 may itself still be in lapin's FIFO behind 2.
        assert_eq!(attribution.settle(), [(PublishTag(1), Outcome::Confirmed)]);
        attribution.confirmed(Serial(1), true, None).unwrap();
        let outcomes = attribution.settle();
        assert_eq!(outcomes.len(), 2);
        assert!(is_returned(&outcomes[0].1), "{outcomes:?}");
        assert_eq!(outcomes[1], (PublishTag(3), Outcome::Confirmed));
        assert!(attribution.sent.is_empty() && attribution.confirmed.is_empty());
    }

    #[test]
    fn a_confirm_out_of_order_that_carried_nothing_is_told_at_once() {
        let mut attribution = sent(3);
        attribution.confirmed(Serial(2), true, None).unwrap();
        attribution.confirmed(Serial(1), false, None).unwrap();
        assert_eq!(
            attribution.settle(),
            [(PublishTag(2), Outcome::Nacked), (PublishTag(3), Outcome::Confirmed)]
        );
        assert_eq!(attribution.settle(), []);
    }

    #[test]
    fn a_return_that_a_nack_carries_counts_too() {
        let mut attribution = sent(2);
        attribution.confirmed(Serial(0), false, Some(returned(2))).unwrap();
        attribution.confirmed(Serial(1), true, None).unwrap();
        let outcomes = attribution.settle();
        assert_eq!(outcomes[0], (PublishTag(1), Outcome::Nacked));
        assert!(is_returned(&outcomes[1].1));
    }

    #[test]
    fn a_message_published_again_behind_later_ones_still_gets_its_outcome() {
        let mut attribution = sent(3);
        attribution.confirmed(Serial(0), false, None).unwrap();
        assert_eq!(attribution.settle(), [(PublishTag(1), Outcome::Nacked)]);
        // 2 and 3 are still unanswered.
        let again = attribution.sent(PublishTag(1), position(1));
        attribution.confirmed(Serial(2), true, None).unwrap();
        attribution.confirmed(again, true, None).unwrap();
        attribution.confirmed(Serial(1), true, None).unwrap();
        assert_eq!(attribution.settle(), [2, 3, 1].map(|tag| (PublishTag(tag), Outcome::Confirmed)));
        assert!(attribution.sent.is_empty() && attribution.confirmed.is_empty());
    }

    #[test]
    fn a_return_of_nothing_in_flight_is_an_error() {
        let mut attribution = sent(1);
        assert_eq!(attribution.confirmed(Serial(0), true, Some(returned(9))), Err(NotInFlight(position(9))));
    }

    /// What lapin does with returns and confirms, one message of the broker after the other.
    #[derive(Default)]
    struct Lapin {
        waiting: VecDeque<u64>,
        /// Completed confirms that nobody polled yet.
        ready: Vec<(u64, bool, Option<u64>)>,
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        /// Returns arrive in publish order and before their own confirm; apart from that confirms arrive in any order, in any
        /// grouping, are polled in any order, and drains happen at any time.
        #[test]
        fn every_outcome_is_right(
            fates in proptest::collection::vec((any::<bool>(), 0..4_u8), 1..40),
            choices in proptest::collection::vec((any::<u16>(), any::<bool>()), 0..200),
        ) {
            let unroutable: BTreeSet<u64> =
                (1_u64..).zip(&fates).filter(|(_, fate)| fate.0).map(|(tag, _)| tag).collect();
            let nacked = |tag: u64| fates[usize::try_from(tag).unwrap() - 1].1 == 0 && !unroutable.contains(&tag);
            let total = fates.len() as u64;
            let mut attribution = sent(total);
            let mut lapin = Lapin::default();
            let mut routed = 0;
            let mut unconfirmed: Vec<u64> = Vec::new();
            let mut told = BTreeSet::new();
            let mut choices = choices.into_iter().chain(std::iter::repeat((7, true)));
            while (told.len() as u64) < total {
                let (choice, drain) = choices.next().unwrap();
                if routed < total && choice % 3 != 0 {
                    routed += 1;
                    if unroutable.contains(&routed) {
                        lapin.waiting.push_back(routed);
                    }
                    unconfirmed.push(routed);
                } else if !unconfirmed.is_empty() {
                    let tag = unconfirmed.swap_remove(usize::from(choice) % unconfirmed.len());
                    let carried = lapin.waiting.pop_front();
                    lapin.ready.push((tag, !nacked(tag), carried));
                }
                if !drain {
                    continue;
                }
                while !lapin.ready.is_empty() {
                    let (tag, ack, carried) =
                        lapin.ready.swap_remove(usize::from(choice) % lapin.ready.len());
                    attribution.confirmed(Serial(tag - 1), ack, carried.map(returned)).unwrap();
                }
                for (PublishTag(tag), outcome) in attribution.settle() {
                    prop_assert!(told.insert(tag), "{tag} told twice");
                    prop_assert_eq!(is_returned(&outcome), unroutable.contains(&tag), "{}", tag);
                    prop_assert_eq!(outcome == Outcome::Nacked, nacked(tag), "{}", tag);
                }
            }
            prop_assert!(attribution.sent.is_empty() && attribution.confirmed.is_empty());
        }
    }
}
