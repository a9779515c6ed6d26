//! Messages that the broker nacked, and when each is sent again.
//!
//! A nack does not name the queue that refused the message. The exchange's other queues took it, and each further try puts another
//! copy into them. Messages of one exchange and routing key therefore take turns. One is tried at a time, with growing waits. After
//! a success two follow, then four, and so on until the next nack. A queue that stays full costs its neighbours one copy per wait,
//! however many messages wait. Because of the turns, one message cannot hold back another that goes to a different queue by the
//! same key.

use std::{
    collections::{HashMap, VecDeque},
    time::Instant,
};

use crate::message::Route;

/// Largest number of messages of one key that are tried together.
const BATCH_MAX: usize = 1024;

/// Messages that wait after a nack.
#[derive(Debug, Default)]
pub(super) struct Nacks {
    routes: HashMap<Route, Turns>,
}

/// Messages of one exchange and routing key that take turns.
#[derive(Debug)]
struct Turns {
    /// Waiting tags. The one whose last try is longest ago comes first.
    waiting: VecDeque<u64>,
    /// Number of messages that are due or outstanding.
    out: usize,
    /// Number of messages that are tried together.
    batch: usize,
    succeeded: usize,
    failed: usize,
    /// Number of batches in a row that were nacked.
    failures: u32,
    again_at: Instant,
    since: Instant,
}

/// Summary of messages that wait after a nack, for an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nacked<'a> {
    /// Number of messages, of all keys.
    pub messages: usize,
    /// Exchange and routing key that have waited longest.
    pub route: &'a Route,
    /// Number of other exchanges and routing keys.
    pub more_routes: usize,
    /// Time of about the first nack.
    pub since: Instant,
}

/// Messages that are due again, with the time.
pub(super) type Due = Vec<(Instant, u64)>;

/// Next step for nacked messages.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Messages to try again, with the time.
    Again(Due),
    /// Messages to give up: none of them was confirmed for too long.
    GivenUp(Vec<u64>),
}

impl Nacks {
    /// Number of messages that wait for their turn.
    pub(super) fn waiting(&self) -> usize {
        self.routes.values().map(|turns| turns.waiting.len()).sum()
    }

    /// Records a nack of a message that was published at `published`, in its turn or for the first time. `again_at` gives the time
    /// of the next try after a number of failures. The messages are given up after `failures_max` failures in a row.
    pub(super) fn nacked(
        &mut self,
        route: Route,
        tag: u64,
        in_turn: bool,
        published: Instant,
        failures_max: u32,
        again_at: impl FnOnce(u32) -> Instant,
    ) -> Verdict {
        let turns = self.routes.entry(route.clone()).or_insert(Turns {
            waiting: VecDeque::new(),
            out: 0,
            batch: 1,
            succeeded: 0,
            failed: 0,
            failures: 0,
            again_at: published,
            since: published,
        });
        turns.waiting.push_back(tag);
        if in_turn {
            turns.out -= 1;
            turns.failed += 1;
        }
        let is_first_of_batch = if in_turn { turns.failed == 1 } else { turns.out == 0 };
        if is_first_of_batch {
            turns.failures += 1;
            turns.again_at = again_at(turns.failures);
        }
        if turns.failures < failures_max {
            return Verdict::Again(turns.next_batch());
        }
        let given_up = turns.waiting.drain(..).collect();
        self.forget_if_done(&route);
        Verdict::GivenUp(given_up)
    }

    /// Records the confirm of a message in its turn. Returns what is due again.
    pub(super) fn got_through(&mut self, route: &Route) -> Due {
        self.ended(route, |turns| {
            turns.succeeded += 1;
            turns.failures = 0;
        })
    }

    /// Records that a message in its turn is parked or refused for another reason. Returns what is due again.
    pub(super) fn left(&mut self, route: &Route) -> Due {
        self.ended(route, |_| ())
    }

    fn ended(&mut self, route: &Route, how: impl FnOnce(&mut Turns)) -> Due {
        let Some(turns) = self.routes.get_mut(route) else { return Due::new() };
        turns.out -= 1;
        how(turns);
        let due = turns.next_batch();
        self.forget_if_done(route);
        due
    }

    fn forget_if_done(&mut self, route: &Route) {
        if self.routes.get(route).is_some_and(|turns| turns.waiting.is_empty() && turns.out == 0) {
            self.routes.remove(route);
        }
    }

    /// Summary of the waiting messages. `None` if there are none.
    pub(super) fn shown(&self) -> Option<Nacked<'_>> {
        let (route, oldest) = self.routes.iter().min_by_key(|(_, turns)| turns.since)?;
        let messages = self.routes.values().map(|turns| turns.waiting.len() + turns.out).sum();
        Some(Nacked { messages, route, more_routes: self.routes.len() - 1, since: oldest.since })
    }
}

impl Turns {
    /// Starts the next batch, once the last one is answered.
    fn next_batch(&mut self) -> Due {
        if self.out > 0 {
            return Due::new();
        }
        self.batch = match (self.succeeded, self.failed) {
            (0, _) => 1,
            (_, 0) => (self.batch * 2).min(BATCH_MAX),
            (succeeded, _) => succeeded,
        };
        (self.succeeded, self.failed) = (0, 0);
        self.out = self.batch.min(self.waiting.len());
        self.waiting.drain(..self.out).map(|tag| (self.again_at, tag)).collect()
    }
}
