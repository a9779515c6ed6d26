//! Compares the arrivals with the outbox table, which keeps every committed row.

use std::collections::HashMap;

use futures_util::{StreamExt, pin_mut};
use tokio_postgres::Client;

use crate::arrivals::{Arrivals, Position};

/// A committed row.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) id: u128,
    pub(crate) aggregate: String,
    pub(crate) sequence: u64,
    pub(crate) digest: u64,
    /// Position in insert order.
    pub(crate) inserted: i64,
}

/// Errors found. The lists hold readable sentences.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) rows: u64,
    pub(crate) lost: Vec<String>,
    /// Messages received but never committed.
    pub(crate) ghosts: u64,
    pub(crate) altered: Vec<String>,
    /// Pairs of rows in one transaction whose positions are not in insert order.
    pub(crate) transaction_out_of_order: Vec<String>,
}

impl Verdict {
    /// The errors as text, if any, with some examples.
    pub(crate) fn failure(&self) -> Option<String> {
        let lists = [
            ("lost", &self.lost),
            ("altered", &self.altered),
            ("not in insert order", &self.transaction_out_of_order),
        ];
        let mut text = String::new();
        for (what, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
            text += &format!("{} {what}, such as {}; ", list.len(), list[0]);
        }
        if self.ghosts > 0 {
            text += &format!("{} published but not committed", self.ghosts);
        }
        (!text.is_empty()).then_some(text)
    }
}

/// Comparison of a queue's expected rows, in progress.
pub(crate) struct Judge<'a> {
    arrivals: &'a Arrivals,
    verdict: Verdict,
    matched: u64,
    /// Rows by position.
    transactions: HashMap<u64, Vec<(u32, i64)>>,
}

impl<'a> Judge<'a> {
    pub(crate) fn new(arrivals: &'a Arrivals) -> Self {
        Self { arrivals, verdict: Verdict::default(), matched: 0, transactions: HashMap::new() }
    }

    /// Checks one committed row.
    pub(crate) fn row(&mut self, row: &Row) {
        self.verdict.rows += 1;
        let Some(first) = self.arrivals.first(&row.aggregate, row.sequence) else {
            self.verdict.lost.push(format!("{row:?}"));
            return;
        };
        if first.id != row.id {
            // The message in its place counts as one that was never committed.
            self.verdict.lost.push(format!("{row:?}; in its place came {first:?}"));
            return;
        }
        self.matched += 1;
        if first.digest != row.digest {
            self.verdict.altered.push(format!("{row:?} came as {first:?}"));
        }
        let (commit, index): Position = first.position;
        self.transactions.entry(commit).or_default().push((index, row.inserted));
    }

    /// The verdict, after all rows.
    pub(crate) fn verdict(mut self) -> Verdict {
        self.verdict.ghosts = self.arrivals.distinct - self.matched;
        for (commit, mut rows) in self.transactions {
            rows.sort_unstable();
            if !rows.is_sorted_by(|before, after| before.0 < after.0 && before.1 < after.1) {
                self.verdict
                    .transaction_out_of_order
                    .push(format!("the transaction at {commit:X}: {rows:?}"));
            }
        }
        self.verdict
    }
}

/// Checks all rows of the table that satisfy `condition`.
pub(crate) async fn judge(client: &Client, condition: &str, arrivals: &Arrivals) -> Verdict {
    let sql = format!(
        "SELECT id::text, aggregateid, (headers ->> 'sequence')::bigint, seq, \
                substr(sha256(convert_to(payload::text, 'UTF8')), 1, 8) \
         FROM outbox WHERE {condition}"
    );
    let none: [&str; 0] = [];
    let rows = client.query_raw(&sql, none).await.expect("the table can be read");
    pin_mut!(rows);
    let mut judge = Judge::new(arrivals);
    while let Some(row) = rows.next().await {
        let row = row.expect("a row of the table");
        let digest: Vec<u8> = row.get(4);
        judge.row(&Row {
            id: parse_id(row.get(0)),
            aggregate: row.get(1),
            sequence: row.get::<_, i64>(2) as u64,
            inserted: row.get(3),
            digest: u64::from_be_bytes(digest.try_into().expect("eight bytes")),
        });
    }
    judge.verdict()
}

/// Number of a UUID; 0 for an invalid one.
pub(crate) fn parse_id(text: &str) -> u128 {
    u128::from_str_radix(&text.replace('-', ""), 16).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arrivals::{
        Message,
        tests::{arrivals, message},
    };

    fn row(aggregate: &str, sequence: u64) -> Row {
        let Message { id, aggregate, digest, .. } = message(aggregate, sequence);
        Row { id, aggregate, sequence, digest, inserted: sequence as i64 }
    }

    fn verdict_on(rows: &[Row], arrivals: &Arrivals) -> Verdict {
        let mut judge = Judge::new(arrivals);
        rows.iter().for_each(|row| judge.row(row));
        judge.verdict()
    }

    #[test]
    fn what_did_not_come_is_lost_and_what_was_not_committed_is_a_ghost() {
        let rows = [row("a", 1), row("a", 2), row("b", 1)];
        let fine = verdict_on(&rows, &arrivals(&[("a", 1), ("b", 1), ("a", 2), ("a", 2)]));
        assert!((fine.rows, fine.lost.len(), fine.ghosts) == (3, 0, 0) && fine.altered.is_empty());
        let verdict = verdict_on(&rows, &arrivals(&[("a", 1), ("b", 1), ("b", 2)]));
        assert_eq!((verdict.lost.len(), verdict.ghosts), (1, 1));
        let another = [Row { id: 5, ..row("a", 1) }];
        let verdict = verdict_on(&another, &arrivals(&[("a", 1)]));
        assert_eq!((verdict.lost.len(), verdict.ghosts), (1, 1));
    }

    #[test]
    fn another_body_is_altered() {
        let rows = [Row { digest: 1, ..row("a", 1) }];
        assert_eq!(verdict_on(&rows, &arrivals(&[("a", 1)])).altered.len(), 1);
    }

    #[test]
    fn a_transaction_keeps_its_insert_order_across_aggregates() {
        let mut found = Arrivals::default();
        for (aggregate, index) in [("a", 0), ("b", 1)] {
            found.add(Message { position: (9, index), ..message(aggregate, 1) });
        }
        let rows = |a, b| [Row { inserted: a, ..row("a", 1) }, Row { inserted: b, ..row("b", 1) }];
        assert!(verdict_on(&rows(1, 2), &found).transaction_out_of_order.is_empty());
        assert_eq!(verdict_on(&rows(2, 1), &found).transaction_out_of_order.len(), 1);
    }
}
