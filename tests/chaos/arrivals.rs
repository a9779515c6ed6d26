//! Messages that arrived at a queue, by aggregate and number: small enough for an hour's run.
//!
//! The numbers of an aggregate's committed rows have no gap, because a rolled-back writer also rolls back its number. So most
//! errors show while messages arrive. The comparison with the committed rows follows at the end.

use std::collections::HashMap;

/// A delivered message.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    /// The outbox row's id, a UUID.
    pub(crate) id: u128,
    pub(crate) aggregate: String,
    /// Number of the row within its aggregate, from 1.
    pub(crate) sequence: u64,
    pub(crate) position: Position,
    /// First bytes of the body's SHA-256.
    pub(crate) digest: u64,
    /// The broker's flag for a repeated delivery.
    pub(crate) redelivered: bool,
}

/// `outbox-position`: commit LSN and row within the transaction.
pub(crate) type Position = (u64, u32);

/// A message's first delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct First {
    pub(crate) id: u128,
    pub(crate) position: Position,
    pub(crate) digest: u64,
}

/// All messages that arrived at one queue.
#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    aggregates: HashMap<String, Vec<Option<First>>>,
    /// Number of different messages.
    pub(crate) distinct: u64,
    /// Missing numbers below the highest one of their aggregate.
    pub(crate) missing: u64,
    /// Copies that outboxd published again.
    pub(crate) duplicates: u64,
    /// Copies of each row since [`begin_round`](Self::begin_round).
    copies: HashMap<(String, u64), u64>,
    /// Copies that the broker delivered again.
    pub(crate) redelivered: u64,
    /// First deliveries out of commit order.
    pub(crate) out_of_order: Vec<String>,
    /// Copies that differ from the first, and unreadable messages.
    pub(crate) unlike: Vec<String>,
}

impl Arrivals {
    /// Records a delivery, in order of arrival.
    pub(crate) fn add(&mut self, message: Message) {
        let firsts = self.aggregates.entry(message.aggregate.clone()).or_default();
        let index = message.sequence.saturating_sub(1) as usize;
        let this = First { id: message.id, position: message.position, digest: message.digest };
        match firsts.get_mut(index) {
            Some(Some(first)) => {
                if *first != this {
                    self.unlike.push(format!("{message:?} was first {first:?}"));
                }
                if message.redelivered {
                    self.redelivered += 1;
                } else {
                    self.duplicates += 1;
                    *self.copies.entry((message.aggregate, message.sequence)).or_default() += 1;
                }
                return;
            }
            Some(late) => {
                *late = Some(this);
                self.missing -= 1;
                self.out_of_order.push(format!("{message:?} after number {}", firsts.len()));
            }
            None => {
                self.missing += (index - firsts.len()) as u64;
                firsts.resize(index, None);
                firsts.push(Some(this));
            }
        }
        self.distinct += 1;
    }

    /// Starts counting the copies of each row from 0.
    pub(crate) fn begin_round(&mut self) {
        self.copies.clear();
    }

    /// Highest number of copies of one row in this round.
    pub(crate) fn most_copies(&self) -> u64 {
        self.copies.values().copied().max().unwrap_or(0)
    }

    /// The first delivery of a row, if any.
    pub(crate) fn first(&self, aggregate: &str, sequence: u64) -> Option<First> {
        *self.aggregates.get(aggregate)?.get(sequence.checked_sub(1)? as usize)?
    }

    /// A few missing numbers, as texts.
    pub(crate) fn gaps(&self) -> Vec<String> {
        let holes = self.aggregates.iter().flat_map(|(aggregate, firsts)| {
            let holes = firsts.iter().enumerate().filter(|(_, first)| first.is_none());
            holes.map(move |(index, _)| format!("{aggregate} number {} of {}", index + 1, firsts.len()))
        });
        holes.take(10).collect()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn message(aggregate: &str, sequence: u64) -> Message {
        let id = u128::from(sequence) << 64 | u128::from(aggregate.as_bytes()[0]);
        let (aggregate, position) = (aggregate.to_owned(), (sequence, 0));
        Message { id, aggregate, sequence, position, digest: 7, redelivered: false }
    }

    pub(crate) fn arrivals(messages: &[(&str, u64)]) -> Arrivals {
        let mut arrivals = Arrivals::default();
        messages.iter().for_each(|(aggregate, sequence)| arrivals.add(message(aggregate, *sequence)));
        arrivals
    }

    #[test]
    fn order_counts_within_an_aggregate_only() {
        let found = arrivals(&[("a", 1), ("b", 1), ("b", 2), ("a", 2)]);
        assert_eq!((found.distinct, found.missing, found.duplicates), (4, 0, 0));
        assert!(found.out_of_order.is_empty());
    }

    #[test]
    fn a_gap_is_missing_until_it_is_filled_and_then_out_of_order() {
        let mut found = arrivals(&[("a", 1), ("a", 3)]);
        assert_eq!((found.missing, found.gaps()), (1, vec!["a number 2 of 3".to_owned()]));
        found.add(message("a", 2));
        assert_eq!((found.distinct, found.missing, found.out_of_order.len()), (3, 0, 1));
    }

    #[test]
    fn a_copy_is_published_or_delivered_again_and_must_be_like_the_first() {
        let mut found = arrivals(&[("a", 1), ("a", 2), ("a", 1)]);
        found.add(Message { redelivered: true, ..message("a", 2) });
        assert_eq!((found.distinct, found.duplicates, found.redelivered), (2, 1, 1));
        assert_eq!(found.most_copies(), 1);
        found.add(message("a", 1));
        assert_eq!(found.most_copies(), 2);
        found.begin_round();
        assert_eq!(found.most_copies(), 0);
        assert!(found.out_of_order.is_empty() && found.unlike.is_empty());
        found.add(Message { digest: 8, ..message("a", 2) });
        assert_eq!(found.unlike.len(), 1);
    }
}
