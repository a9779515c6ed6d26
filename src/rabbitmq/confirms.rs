//! What is published and not yet confirmed, and what became of each. Pure: no I/O.
//!
//! The broker numbers the publishes of a channel in confirm mode from 1, and confirms by that number, one or all up to it
//! (<https://www.rabbitmq.com/docs/confirms#publisher-confirms>). A message that it cannot route comes back with `basic.return`
//! before it is confirmed, without the number: it is recognised by its position.

use std::collections::VecDeque;

use super::publisher::Outcome;
use crate::{ledger::PublishTag, position::Position};

/// The broker speaks of a message that is not in flight: it is no longer certain what was delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotInFlight {
    /// It handed back a message with that position.
    Position(Position),
    /// It confirmed a publish of that number.
    DeliveryTag(u64),
}

/// Everything sent whose outcome is not told yet, in publish order.
#[derive(Debug)]
pub(super) struct Confirms {
    /// Without a gap. Settled entries stay until they reach the front.
    sent: VecDeque<Sent>,
    /// Delivery tag of `sent[0]`.
    first: u64,
    /// By delivery tag.
    outcomes: Vec<(u64, PublishTag, Outcome)>,
}

#[derive(Debug)]
struct Sent {
    tag: PublishTag,
    position: Position,
    returned: Option<Outcome>,
    settled: bool,
}

impl Default for Confirms {
    fn default() -> Self {
        Self { sent: VecDeque::new(), first: 1, outcomes: Vec::new() }
    }
}

impl Confirms {
    /// Whether nothing is in flight.
    pub(super) fn is_empty(&self) -> bool {
        self.sent.is_empty()
    }

    /// A message is on its way.
    pub(super) fn sent(&mut self, tag: PublishTag, position: Position) {
        self.sent.push_back(Sent { tag, position, returned: None, settled: false });
    }

    /// The broker handed a message back.
    pub(super) fn returned(
        &mut self,
        position: Position,
        reply_code: u16,
        reply_text: String,
    ) -> Result<(), NotInFlight> {
        let is_owner =
            |sent: &&mut Sent| sent.position == position && !sent.settled && sent.returned.is_none();
        let owner = self.sent.iter_mut().find(is_owner).ok_or(NotInFlight::Position(position))?;
        owner.returned = Some(Outcome::Returned { reply_code, reply_text });
        Ok(())
    }

    /// The broker confirmed, or refused, a publish or all up to it.
    pub(super) fn confirmed(
        &mut self,
        delivery_tag: u64,
        multiple: bool,
        ack: bool,
    ) -> Result<(), NotInFlight> {
        let unknown = NotInFlight::DeliveryTag(delivery_tag);
        let index = delivery_tag.checked_sub(self.first).and_then(|index| usize::try_from(index).ok());
        let index = index.filter(|&index| index < self.sent.len()).ok_or(unknown)?;
        for index in if multiple { 0..=index } else { index..=index } {
            let sent = &mut self.sent[index];
            if sent.settled {
                continue;
            }
            let outcome = match sent.returned.take() {
                Some(returned) => returned,
                None if ack => Outcome::Confirmed,
                None => Outcome::Nacked,
            };
            sent.settled = true;
            self.outcomes.push((self.first + index as u64, sent.tag, outcome));
        }
        while self.sent.front().is_some_and(|sent| sent.settled) {
            self.sent.pop_front();
            self.first += 1;
        }
        Ok(())
    }

    /// The channel is closed, and another will number its publishes from 1. Gives those that have no outcome, in publish order.
    pub(super) fn close(&mut self) -> Vec<PublishTag> {
        self.first = 1;
        self.sent.drain(..).filter(|sent| !sent.settled).map(|sent| sent.tag).collect()
    }

    /// The outcomes since the last call, in publish order.
    pub(super) fn take_outcomes(&mut self) -> Vec<(PublishTag, Outcome)> {
        self.outcomes.sort_unstable_by_key(|(delivery_tag, ..)| *delivery_tag);
        self.outcomes.drain(..).map(|(_, tag, outcome)| (tag, outcome)).collect()
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
        Position { commit_lsn: Lsn(tag * 100), index: 0 }
    }

    fn sent(count: u64) -> Confirms {
        let mut confirms = Confirms::default();
        for tag in 1..=count {
            confirms.sent(PublishTag(tag), position(tag));
        }
        confirms
    }

    fn returned() -> Outcome {
        Outcome::Returned { reply_code: 312, reply_text: "NO_ROUTE".into() }
    }

    #[test]
    fn confirms_of_one_and_of_many_come_out_in_publish_order() {
        let mut confirms = sent(5);
        confirms.confirmed(4, false, true).unwrap();
        confirms.confirmed(2, true, false).unwrap();
        let told = confirms.take_outcomes();
        assert_eq!(
            told,
            [
                (PublishTag(1), Outcome::Nacked),
                (PublishTag(2), Outcome::Nacked),
                (PublishTag(4), Outcome::Confirmed),
            ]
        );
        confirms.confirmed(5, true, true).unwrap();
        assert_eq!(confirms.take_outcomes(), [3, 5].map(|tag| (PublishTag(tag), Outcome::Confirmed)));
        assert!(confirms.is_empty());
    }

    #[test]
    fn a_return_waits_for_its_confirm_and_belongs_to_nobody_else() {
        let mut confirms = sent(3);
        confirms.returned(position(2), 312, "NO_ROUTE".into()).unwrap();
        assert_eq!(confirms.take_outcomes(), []);
        confirms.confirmed(3, true, true).unwrap();
        let told = confirms.take_outcomes();
        assert_eq!(
            told,
            [
                (PublishTag(1), Outcome::Confirmed),
                (PublishTag(2), returned()),
                (PublishTag(3), Outcome::Confirmed),
            ]
        );
    }

    #[test]
    fn a_closed_channel_gives_back_what_has_no_outcome_and_the_next_one_begins_at_one() {
        let mut confirms = sent(4);
        confirms.confirmed(3, false, true).unwrap();
        confirms.confirmed(1, false, true).unwrap();
        assert_eq!(confirms.close(), [2, 4].map(PublishTag));
        assert_eq!(confirms.take_outcomes(), [1, 3].map(|tag| (PublishTag(tag), Outcome::Confirmed)));
        confirms.sent(PublishTag(2), position(2));
        confirms.confirmed(1, false, true).unwrap();
        assert_eq!(confirms.take_outcomes(), [(PublishTag(2), Outcome::Confirmed)]);
    }

    #[test]
    fn what_is_not_in_flight_is_an_error() {
        let mut confirms = sent(2);
        assert_eq!(
            confirms.returned(position(9), 312, String::new()),
            Err(NotInFlight::Position(position(9)))
        );
        for wrong in [0, 3, u64::MAX] {
            assert_eq!(confirms.confirmed(wrong, false, true), Err(NotInFlight::DeliveryTag(wrong)));
        }
        confirms.confirmed(1, false, true).unwrap();
        assert_eq!(confirms.confirmed(1, false, true), Err(NotInFlight::DeliveryTag(1)));
        assert_eq!(
            confirms.returned(position(1), 312, String::new()),
            Err(NotInFlight::Position(position(1)))
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        /// Returns come in publish order and before their own confirm; apart from that confirms come in any order and
        /// grouping, messages are published meanwhile, and outcomes are taken at any time.
        #[test]
        fn every_outcome_is_right(
            fates in proptest::collection::vec((any::<bool>(), 0..4_u8), 1..40),
            choices in proptest::collection::vec((any::<u16>(), 0..3_u8), 0..200),
        ) {
            let unroutable = |tag: u64| fates[usize::try_from(tag).unwrap() - 1].0;
            let nacked = |tag: u64| fates[usize::try_from(tag).unwrap() - 1].1 == 0;
            let total = fates.len() as u64;
            let mut confirms = sent(total);
            let mut routed = 0;
            let mut unconfirmed: Vec<u64> = Vec::new();
            let mut told = BTreeSet::new();
            let mut choices = choices.into_iter().chain(std::iter::repeat((7, 1)));
            while (told.len() as u64) < total {
                let (choice, kind) = choices.next().unwrap();
                if routed < total && choice % 3 != 0 {
                    routed += 1;
                    if unroutable(routed) {
                        confirms.returned(position(routed), 312, "NO_ROUTE".into()).unwrap();
                    }
                    unconfirmed.push(routed);
                } else if !unconfirmed.is_empty() {
                    let at = usize::from(choice) % unconfirmed.len();
                    let tag = unconfirmed.remove(at);
                    // One confirm is of one kind only.
                    let before: Vec<u64> = unconfirmed.iter().copied().filter(|&other| other < tag).collect();
                    let multiple = kind == 2 && before.iter().all(|&other| nacked(other) == nacked(tag));
                    if multiple {
                        unconfirmed.retain(|other| *other > tag);
                    }
                    confirms.confirmed(tag, multiple, !nacked(tag)).unwrap();
                }
                if kind == 0 {
                    continue;
                }
                let mut last = 0;
                for (PublishTag(tag), outcome) in confirms.take_outcomes() {
                    prop_assert!(told.insert(tag), "{tag} told twice");
                    prop_assert!(tag > last, "{tag} after {last}");
                    last = tag;
                    let expected = match (unroutable(tag), nacked(tag)) {
                        (true, _) => returned(),
                        (false, true) => Outcome::Nacked,
                        (false, false) => Outcome::Confirmed,
                    };
                    prop_assert_eq!(outcome, expected, "{}", tag);
                }
            }
            prop_assert!(confirms.is_empty());
        }
    }
}
