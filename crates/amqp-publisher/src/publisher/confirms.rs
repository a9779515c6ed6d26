//! Messages in flight and their outcomes. Pure: no I/O.
//!
//! In confirm mode the broker numbers the publishes of a channel from 1 and confirms by number, one or all up to it
//! (<https://www.rabbitmq.com/docs/confirms#publisher-confirms>). A message that it cannot route returns with
//! `basic.return` before its confirm, without the number: a header identifies it.

use std::{collections::VecDeque, sync::Arc};

use super::message::Message;

/// Caller's number of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublishTag(pub u64);

/// Outcome of a publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every queue of the message has it on disk, or on a quorum of disks.
    Confirmed,
    /// Unroutable: no queue is bound for the message. RabbitMQ confirms it, too; that confirm is not reported.
    Returned {
        /// 312, NO_ROUTE.
        reply_code: u16,
        /// The broker's own words.
        reply_text: String,
    },
    /// A queue rejected the message or failed. Other queues may have it. It has to be published again.
    Nacked,
}

/// The broker named a message that is not in flight, so delivery of the others is uncertain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotInFlight;

/// Published messages without a reported outcome, in publish order.
#[derive(Debug)]
pub(super) struct Confirms {
    /// Header whose value identifies a message in flight.
    identifying_header: &'static str,
    /// Contiguous. Settled entries stay until they reach the front.
    published: VecDeque<Published>,
    /// Delivery tag of `published[0]`.
    first: u64,
    /// Delivery tag after the last returned message. The broker routes in publish order, so the next return is not
    /// before it.
    returned_to: u64,
    /// Outcomes with their delivery tags.
    outcomes: Vec<(u64, PublishTag, Outcome)>,
}

#[derive(Debug)]
struct Published {
    tag: PublishTag,
    /// `None` once settled.
    message: Option<Arc<Message>>,
    returned: Option<Outcome>,
}

impl Confirms {
    pub(super) fn new(identifying_header: &'static str) -> Self {
        let (first, returned_to) = (1, 1);
        Self { identifying_header, published: VecDeque::new(), first, returned_to, outcomes: Vec::new() }
    }

    /// Tells whether no message is in flight.
    pub(super) fn is_empty(&self) -> bool {
        self.published.is_empty()
    }

    /// Records a published message.
    pub(super) fn published(&mut self, tag: PublishTag, message: Arc<Message>) {
        self.published.push_back(Published { tag, message: Some(message), returned: None });
    }

    /// Records the return of the message with this identity.
    pub(super) fn returned(
        &mut self,
        identity: &[u8],
        reply_code: u16,
        reply_text: String,
    ) -> Result<(), NotInFlight> {
        let after_last = usize::try_from(self.returned_to.saturating_sub(self.first)).unwrap_or_default();
        let count = self.published.len();
        let owner = (after_last..count)
            .chain(0..after_last.min(count))
            .find(|&index| self.is_of(index, identity))
            .ok_or(NotInFlight)?;
        self.published[owner].returned = Some(Outcome::Returned { reply_code, reply_text });
        self.returned_to = self.first + owner as u64 + 1;
        Ok(())
    }

    fn is_of(&self, index: usize, identity: &[u8]) -> bool {
        let Published { message, returned, .. } = &self.published[index];
        let value = message.as_ref().and_then(|message| message.text_header(self.identifying_header));
        returned.is_none() && value.is_some_and(|value| value.as_bytes() == identity)
    }

    /// Records a confirm or nack of a publish, or of all up to it.
    pub(super) fn confirmed(
        &mut self,
        delivery_tag: u64,
        multiple: bool,
        ack: bool,
    ) -> Result<(), NotInFlight> {
        let index = delivery_tag.checked_sub(self.first).and_then(|index| usize::try_from(index).ok());
        let index = index.filter(|&index| index < self.published.len()).ok_or(NotInFlight)?;
        for index in if multiple { 0..=index } else { index..=index } {
            let published = &mut self.published[index];
            if published.message.take().is_none() {
                continue;
            }
            let outcome = match published.returned.take() {
                Some(returned) => returned,
                None if ack => Outcome::Confirmed,
                None => Outcome::Nacked,
            };
            self.outcomes.push((self.first + index as u64, published.tag, outcome));
        }
        while self.published.front().is_some_and(|published| published.message.is_none()) {
            self.published.pop_front();
            self.first += 1;
        }
        Ok(())
    }

    /// Resets the numbering for a new channel, and returns the messages without an outcome, in publish order.
    pub(super) fn close(&mut self) -> Vec<PublishTag> {
        (self.first, self.returned_to) = (1, 1);
        let without_outcome = |published: Published| published.message.map(|_| published.tag);
        self.published.drain(..).filter_map(without_outcome).collect()
    }

    /// Returns the outcomes since the last call, in publish order.
    pub(super) fn drain_outcomes(&mut self) -> Vec<(PublishTag, Outcome)> {
        self.outcomes.sort_unstable_by_key(|(delivery_tag, ..)| *delivery_tag);
        self.outcomes.drain(..).map(|(_, tag, outcome)| (tag, outcome)).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::{super::message::HeaderValue, *};

    const HEADER: &str = "number";

    fn message(number: u64) -> Arc<Message> {
        let headers = vec![(HEADER.into(), HeaderValue::Text(number.to_string()))];
        Arc::new(Message { headers, ..Message::default() })
    }

    fn published(count: u64) -> Confirms {
        let mut confirms = Confirms::new(HEADER);
        for number in 1..=count {
            confirms.published(PublishTag(number), message(number));
        }
        confirms
    }

    /// Returns the message with this number.
    fn comes_back(confirms: &mut Confirms, number: u64) -> Result<(), NotInFlight> {
        confirms.returned(number.to_string().as_bytes(), 312, "NO_ROUTE".into())
    }

    fn returned() -> Outcome {
        Outcome::Returned { reply_code: 312, reply_text: "NO_ROUTE".into() }
    }

    #[test]
    fn confirms_of_one_and_of_many_come_out_in_publish_order() {
        let mut confirms = published(5);
        confirms.confirmed(4, false, true).unwrap();
        confirms.confirmed(2, true, false).unwrap();
        let told = confirms.drain_outcomes();
        assert_eq!(
            told,
            [
                (PublishTag(1), Outcome::Nacked),
                (PublishTag(2), Outcome::Nacked),
                (PublishTag(4), Outcome::Confirmed),
            ]
        );
        confirms.confirmed(5, true, true).unwrap();
        assert_eq!(confirms.drain_outcomes(), [3, 5].map(|tag| (PublishTag(tag), Outcome::Confirmed)));
        assert!(confirms.is_empty());
    }

    #[test]
    fn a_return_waits_for_its_confirm_and_belongs_to_nobody_else() {
        let mut confirms = published(3);
        comes_back(&mut confirms, 2).unwrap();
        assert_eq!(confirms.drain_outcomes(), []);
        confirms.confirmed(3, true, true).unwrap();
        let told = confirms.drain_outcomes();
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
        let mut confirms = published(4);
        confirms.confirmed(3, false, true).unwrap();
        confirms.confirmed(1, false, true).unwrap();
        assert_eq!(confirms.close(), [2, 4].map(PublishTag));
        assert_eq!(confirms.drain_outcomes(), [1, 3].map(|tag| (PublishTag(tag), Outcome::Confirmed)));
        confirms.published(PublishTag(2), message(2));
        confirms.confirmed(1, false, true).unwrap();
        assert_eq!(confirms.drain_outcomes(), [(PublishTag(2), Outcome::Confirmed)]);
    }

    #[test]
    fn a_return_behind_its_turn_is_recognised_all_the_same() {
        let mut confirms = published(4);
        for number in [3, 1, 4] {
            comes_back(&mut confirms, number).unwrap();
        }
        assert_eq!(comes_back(&mut confirms, 3), Err(NotInFlight), "it came back before");
        confirms.confirmed(3, true, true).unwrap();
        comes_back(&mut confirms, 4).unwrap_err();
        confirms.confirmed(4, false, true).unwrap();
        let routed = |told: &Outcome| *told == Outcome::Confirmed;
        let told = confirms.drain_outcomes();
        assert_eq!(
            told.iter().map(|(_, told)| routed(told)).collect::<Vec<_>>(),
            [false, true, false, false]
        );
    }

    #[test]
    fn what_is_not_in_flight_is_an_error() {
        let mut confirms = published(2);
        assert_eq!(comes_back(&mut confirms, 9), Err(NotInFlight));
        for wrong in [0, 3, u64::MAX] {
            assert_eq!(confirms.confirmed(wrong, false, true), Err(NotInFlight));
        }
        confirms.confirmed(1, false, true).unwrap();
        assert_eq!(confirms.confirmed(1, false, true), Err(NotInFlight));
        assert_eq!(comes_back(&mut confirms, 1), Err(NotInFlight));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        /// Returns arrive in publish order and before their confirm. Confirms arrive in any order and grouping, while
        /// messages are published and outcomes are read at any time.
        #[test]
        fn every_outcome_is_right(
            fates in proptest::collection::vec((any::<bool>(), 0..4_u8), 1..40),
            choices in proptest::collection::vec((any::<u16>(), 0..3_u8), 0..200),
        ) {
            let unroutable = |tag: u64| fates[usize::try_from(tag).unwrap() - 1].0;
            let nacked = |tag: u64| fates[usize::try_from(tag).unwrap() - 1].1 == 0;
            let total = fates.len() as u64;
            let mut confirms = published(total);
            let mut routed = 0;
            let mut unconfirmed: Vec<u64> = Vec::new();
            let mut told = BTreeSet::new();
            let mut choices = choices.into_iter().chain(std::iter::repeat((7, 1)));
            while (told.len() as u64) < total {
                let (choice, kind) = choices.next().unwrap();
                if routed < total && choice % 3 != 0 {
                    routed += 1;
                    if unroutable(routed) {
                        comes_back(&mut confirms, routed).unwrap();
                    }
                    unconfirmed.push(routed);
                } else if !unconfirmed.is_empty() {
                    let at = usize::from(choice) % unconfirmed.len();
                    let tag = unconfirmed.remove(at);
                    // A confirm covers messages of one kind only.
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
                for (PublishTag(tag), outcome) in confirms.drain_outcomes() {
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
