//! Oracle: compares deliveries with committed rows, for conservation and order, as the daemon promises.
//!
//! One oracle watches one source through one queue. Order across queues is not promised and not judged.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

/// Row of a transaction that is known to be committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Id of the outbox row.
    pub id: String,
    /// Id of the row's aggregate.
    pub aggregate: String,
    /// Number among the aggregate's rows, in commit order.
    pub sequence: i64,
    /// Number of the transaction, from the writer.
    pub transaction: u64,
    /// Index in the transaction.
    pub index: usize,
    /// Payload. JSON is compared as JSON, because jsonb changes the text.
    pub body: String,
}

/// Message as a consumer received it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// `message_id`.
    pub id: String,
    /// Header `aggregate-id`.
    pub aggregate: String,
    /// Header `outbox-position`.
    pub position: String,
    /// The body.
    pub body: String,
    /// Set if the broker delivered it again after a lost acknowledgement. Such a copy is not the daemon's.
    pub redelivered: bool,
}

/// Collector of committed rows and deliveries. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Oracle {
    records: Arc<Mutex<Records>>,
}

#[derive(Debug, Default)]
struct Records {
    committed: Vec<Committed>,
    received: Vec<Received>,
}

/// Findings of the oracle. Lists hold sentences for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Rows committed.
    pub committed: usize,
    /// Deliveries, copies included.
    pub received: usize,
    /// Rows committed and never received.
    pub lost: Vec<String>,
    /// Messages received and never committed.
    pub phantoms: Vec<String>,
    /// Messages received with another body or aggregate than committed.
    pub altered: Vec<String>,
    /// Further copies that the daemon published.
    pub duplicates: usize,
    /// Further copies that the broker delivered again.
    pub redelivered: usize,
    /// Copies with another position than the first one.
    pub unrecognisable: Vec<String>,
    /// First deliveries of an aggregate out of commit order.
    pub out_of_order: Vec<String>,
    /// First deliveries of a transaction out of insert order.
    pub transaction_out_of_order: Vec<String>,
    /// First deliveries whose position is not above the aggregate's previous one.
    pub position_fell: Vec<String>,
}

impl Oracle {
    /// Records rows whose commit was acknowledged.
    pub fn committed(&self, rows: impl IntoIterator<Item = Committed>) {
        self.lock().committed.extend(rows);
    }

    /// Records a message, in order of arrival.
    pub fn received(&self, message: Received) {
        self.lock().received.push(message);
    }

    /// Returns the number of committed rows.
    pub fn committed_count(&self) -> usize {
        self.lock().committed.len()
    }

    /// Returns the number of deliveries.
    pub fn received_count(&self) -> usize {
        self.lock().received.len()
    }

    /// Returns the number of different messages.
    pub fn distinct_count(&self) -> usize {
        let records = self.lock();
        records.received.iter().map(|message| message.id.as_str()).collect::<HashSet<_>>().len()
    }

    /// Tells whether a row's message has arrived.
    pub fn has_received(&self, id: &str) -> bool {
        self.lock().received.iter().any(|message| message.id == id)
    }

    /// Tells whether every committed row has arrived.
    pub fn is_complete(&self) -> bool {
        let records = self.lock();
        let arrived: HashSet<&str> = records.received.iter().map(|message| message.id.as_str()).collect();
        records.committed.iter().all(|row| arrived.contains(row.id.as_str()))
    }

    /// Waits until every committed row has arrived, at most `limit`, and then until nothing has arrived for `idle`,
    /// so that late copies count. Then judges.
    pub async fn settle(&self, limit: Duration, idle: Duration) -> Verdict {
        let deadline = Instant::now() + limit;
        while !self.is_complete() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let mut count = self.received_count();
        let mut since = Instant::now();
        while since.elapsed() < idle {
            tokio::time::sleep(Duration::from_millis(20)).await;
            if self.received_count() != count {
                (count, since) = (self.received_count(), Instant::now());
            }
        }
        self.verdict()
    }

    /// Judges the records so far.
    pub fn verdict(&self) -> Verdict {
        let records = self.lock();
        let rows: HashMap<&str, &Committed> =
            records.committed.iter().map(|row| (row.id.as_str(), row)).collect();
        let mut verdict = Verdict {
            committed: records.committed.len(),
            received: records.received.len(),
            ..Verdict::default()
        };
        let mut first_of: HashMap<&str, &Received> = HashMap::new();
        let mut last_of_aggregate: HashMap<&str, &Committed> = HashMap::new();
        let mut last_of_transaction: HashMap<u64, &Committed> = HashMap::new();
        let mut last_position: HashMap<&str, &str> = HashMap::new();
        for message in &records.received {
            if let Some(first) = first_of.get(message.id.as_str()) {
                verdict.copy(first, message);
                continue;
            }
            first_of.insert(&message.id, message);
            let Some(row) = rows.get(message.id.as_str()) else {
                verdict.phantoms.push(format!("{} of aggregate {}", message.id, message.aggregate));
                continue;
            };
            if message.aggregate != row.aggregate || !same_body(&message.body, &row.body) {
                verdict.altered.push(format!("{message:?} was committed as {row:?}"));
            }
            if let Some(before) = last_position.insert(&row.aggregate, &message.position)
                && before >= message.position.as_str()
            {
                verdict.position_fell.push(format!("{} after {before}", message.position));
            }
            if let Some(before) = last_of_aggregate.insert(&row.aggregate, row)
                && before.sequence >= row.sequence
            {
                verdict
                    .out_of_order
                    .push(format!("aggregate {}: {} after {}", row.aggregate, row.sequence, before.sequence));
            }
            if let Some(before) = last_of_transaction.insert(row.transaction, row)
                && before.index >= row.index
            {
                verdict.transaction_out_of_order.push(format!(
                    "transaction {}: row {} after row {}",
                    row.transaction, row.index, before.index
                ));
            }
        }
        verdict.lost = records
            .committed
            .iter()
            .filter(|row| !first_of.contains_key(row.id.as_str()))
            .map(|row| format!("{} of aggregate {}, number {}", row.id, row.aggregate, row.sequence))
            .collect();
        verdict
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Records> {
        // The records stay consistent when a test fails while it holds the lock.
        self.records.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Verdict {
    /// Panics unless every row arrived, in order, and nothing else did. Allows this many copies.
    #[track_caller]
    pub fn assert_delivered(&self, duplicates_max: usize) {
        assert!(self.keeps_promises() && self.duplicates <= duplicates_max, "{self}");
    }

    /// Tells whether nothing is lost, invented, altered or out of order. The number of copies does not count.
    pub fn keeps_promises(&self) -> bool {
        self.findings().iter().all(|(_, found)| found.is_empty())
    }

    /// Removes findings that do not hold after refused messages: other aggregates may overtake a refused one, also in
    /// its transaction.
    pub fn of_each_aggregate(self) -> Self {
        Self { transaction_out_of_order: vec![], ..self }
    }

    fn copy(&mut self, first: &Received, copy: &Received) {
        if copy.redelivered {
            self.redelivered += 1;
        } else {
            self.duplicates += 1;
        }
        if copy.position != first.position || copy.body != first.body {
            self.unrecognisable.push(format!("{copy:?} was first {first:?}"));
        }
    }

    fn findings(&self) -> [(&'static str, &[String]); 7] {
        [
            ("lost", &self.lost),
            ("phantom", &self.phantoms),
            ("altered", &self.altered),
            ("unlike its first copy", &self.unrecognisable),
            ("out of commit order", &self.out_of_order),
            ("out of insert order", &self.transaction_out_of_order),
            ("position not rising", &self.position_fell),
        ]
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} rows committed, {} deliveries, {} duplicates, {} delivered again by the broker",
            self.committed, self.received, self.duplicates, self.redelivered
        )?;
        for (what, found) in self.findings().into_iter().filter(|(_, found)| !found.is_empty()) {
            write!(f, "\n{}: {what}", found.len())?;
            for one in found.iter().take(5) {
                write!(f, "\n    {one}")?;
            }
        }
        Ok(())
    }
}

fn same_body(left: &str, right: &str) -> bool {
    let json = |text| serde_json::from_str::<serde_json::Value>(text).ok();
    left == right || json(left).is_some_and(|value| Some(value) == json(right))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two transactions: rows 1 and 2 of aggregates a and b, then row 3 of a.
    fn rows() -> Vec<Committed> {
        let row = |id: &str, aggregate: &str, sequence, transaction, index| Committed {
            id: id.into(),
            aggregate: aggregate.into(),
            sequence,
            transaction,
            index,
            body: format!("{{\"id\": \"{id}\", \"n\": 1}}"),
        };
        vec![row("1", "a", 1, 7, 0), row("2", "b", 1, 7, 1), row("3", "a", 2, 8, 0)]
    }

    /// Returns a row's message as the daemon publishes it.
    fn message(row: &Committed) -> Received {
        Received {
            id: row.id.clone(),
            aggregate: row.aggregate.clone(),
            position: format!("{:016x}-{:08x}", row.transaction, row.index),
            body: row.body.clone(),
            redelivered: false,
        }
    }

    /// Returns the verdict on a perfect delivery with this change.
    fn verdict_on(change: impl FnOnce(&mut Vec<Received>)) -> Verdict {
        let oracle = Oracle::default();
        oracle.committed(rows());
        let mut messages: Vec<Received> = rows().iter().map(message).collect();
        change(&mut messages);
        messages.into_iter().for_each(|message| oracle.received(message));
        let verdict = oracle.verdict();
        assert_eq!(oracle.is_complete(), verdict.lost.is_empty());
        verdict
    }

    #[test]
    fn finds_nothing_wrong_with_a_perfect_delivery() {
        let verdict = verdict_on(|_| ());
        assert_eq!(verdict, Verdict { committed: 3, received: 3, ..Verdict::default() });
        verdict.assert_delivered(0);
    }

    #[test]
    fn sees_a_lost_row() {
        let verdict = verdict_on(|messages| drop(messages.remove(1)));
        assert_eq!(verdict.lost.len(), 1);
        assert!(!verdict.keeps_promises());
        assert!(verdict.to_string().contains("1: lost\n    2 of aggregate b"), "{verdict}");
    }

    #[test]
    fn sees_a_message_that_was_never_committed() {
        let verdict = verdict_on(|messages| messages[1].id = "rolled back".into());
        assert_eq!((verdict.phantoms.len(), verdict.lost.len()), (1, 1));
        assert!(!verdict.keeps_promises());
    }

    #[test]
    fn sees_an_altered_body_or_aggregate_but_not_other_spacing() {
        assert_eq!(verdict_on(|messages| messages[0].body = "{}".into()).altered.len(), 1);
        assert_eq!(verdict_on(|messages| messages[0].aggregate = "b".into()).altered.len(), 1);
        assert!(verdict_on(|messages| messages[0].body = r#"{"n":1,"id":"1"}"#.into()).keeps_promises());
    }

    #[test]
    fn counts_copies_and_whose_they_are() {
        let verdict = verdict_on(|messages| {
            let again = messages.clone();
            messages.extend(again);
            messages[3].redelivered = true;
        });
        assert_eq!((verdict.duplicates, verdict.redelivered), (2, 1));
        verdict.assert_delivered(2);
        assert!(std::panic::catch_unwind(|| verdict.assert_delivered(1)).is_err());
    }

    #[test]
    fn sees_a_copy_at_another_position() {
        let verdict = verdict_on(|messages| {
            messages.push(Received { position: "0000000000000009-00000000".into(), ..messages[0].clone() });
        });
        assert_eq!(verdict.unrecognisable.len(), 1);
        assert!(!verdict.keeps_promises());
    }

    #[test]
    fn sees_an_aggregate_out_of_commit_order() {
        let verdict = verdict_on(|messages| messages.swap(0, 2));
        assert_eq!(verdict.out_of_order, ["aggregate a: 1 after 2"]);
        assert!(!verdict.keeps_promises());
    }

    #[test]
    fn sees_a_transaction_out_of_insert_order_though_each_aggregate_is_in_order() {
        let verdict = verdict_on(|messages| messages.swap(0, 1));
        assert!(verdict.out_of_order.is_empty());
        assert_eq!(verdict.transaction_out_of_order, ["transaction 7: row 0 after row 1"]);
        assert!(!verdict.keeps_promises());
    }

    #[test]
    fn lets_transactions_of_other_aggregates_pass_each_other() {
        let oracle = Oracle::default();
        oracle.committed(rows());
        let [first, second, third] = &*rows() else { panic!("three rows") };
        let other = Committed { aggregate: "c".into(), transaction: 9, id: "4".into(), ..third.clone() };
        oracle.committed([other.clone()]);
        for row in [&other, first, second, third] {
            oracle.received(message(row));
        }
        oracle.verdict().assert_delivered(0);
    }

    #[test]
    fn sees_a_position_that_does_not_rise_within_its_aggregate() {
        let verdict = verdict_on(|messages| messages[2].position = messages[0].position.clone());
        assert_eq!(verdict.position_fell.len(), 1);
        assert!(!verdict.keeps_promises());
    }

    #[test]
    fn judges_order_by_first_deliveries() {
        // After a crash the last messages come again, which breaks no promise.
        let verdict = verdict_on(|messages| {
            let tail = [messages[0].clone(), messages[1].clone()];
            messages.splice(2..2, tail);
        });
        assert!(verdict.keeps_promises(), "{verdict}");
        assert_eq!(verdict.duplicates, 2);
    }
}
