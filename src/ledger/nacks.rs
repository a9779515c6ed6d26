//! Messages that the broker nacked, and when each is tried again.
//!
//! A nack does not say which queue did not take the message, and the other queues of its exchange took it: each further try is a
//! copy in those. So the messages of one exchange and routing key take turns. One is tried at a time, with growing waits; when it
//! gets through, two follow, then four, and so on until one is nacked again. A queue that stays full costs its neighbours one
//! copy in each wait, however many messages are waiting for it. The turns see to it that a message for another queue of the same
//! key is not held up by the first one for good.

use std::{
    collections::{HashMap, VecDeque},
    time::Instant,
};

use crate::message::Route;

/// Messages of one key that may be tried together.
const LOT_MAX: usize = 1024;

/// Messages that wait after a nack.
#[derive(Debug, Default)]
pub(super) struct Nacks {
    routes: HashMap<Route, Turns>,
}

/// Messages of one exchange and routing key that take turns.
#[derive(Debug)]
struct Turns {
    /// The one whose last try is longest ago first.
    waiting: VecDeque<u64>,
    /// Due again or on their way, and unanswered.
    out: usize,
    /// As many are tried together.
    lot: usize,
    succeeded: usize,
    failed: usize,
    /// Lots in a row that were nacked.
    failures: u32,
    again_at: Instant,
    since: Instant,
}

/// Messages that wait after a nack, for an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nacked<'a> {
    /// Messages, of all keys.
    pub messages: usize,
    /// Exchange and routing key that have waited longest.
    pub route: &'a Route,
    /// Further ones.
    pub more_routes: usize,
    /// Since when: about the first nack.
    pub since: Instant,
}

/// Messages that are due again, and when.
pub(super) type Due = Vec<(Instant, u64)>;

/// Next step for messages that are nacked.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Trying these again.
    Again(Due),
    /// None got through for too long: these are not tried any more.
    GivenUp(Vec<u64>),
}

impl Nacks {
    /// Number of messages that wait for their turn.
    pub(super) fn waiting(&self) -> usize {
        self.routes.values().map(|turns| turns.waiting.len()).sum()
    }

    /// A message that was published at `published` was nacked, in its turn or for the first time. `again_at` gives the time of
    /// the next try after so many failures; `failures_max` of them in a row are borne.
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
            lot: 1,
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
        let is_first_of_lot = if in_turn { turns.failed == 1 } else { turns.out == 0 };
        if is_first_of_lot {
            turns.failures += 1;
            turns.again_at = again_at(turns.failures);
        }
        if turns.failures < failures_max {
            return Verdict::Again(turns.next_lot());
        }
        let given_up = turns.waiting.drain(..).collect();
        self.forget_if_done(&route);
        Verdict::GivenUp(given_up)
    }

    /// A message whose turn it was got through. Gives what is due again.
    pub(super) fn got_through(&mut self, route: &Route) -> Due {
        self.ended(route, |turns| {
            turns.succeeded += 1;
            turns.failures = 0;
        })
    }

    /// A message whose turn it was is seen to elsewhere. Gives what is due again.
    pub(super) fn left(&mut self, route: &Route) -> Due {
        self.ended(route, |_| ())
    }

    fn ended(&mut self, route: &Route, how: impl FnOnce(&mut Turns)) -> Due {
        let Some(turns) = self.routes.get_mut(route) else { return Due::new() };
        turns.out -= 1;
        how(turns);
        let due = turns.next_lot();
        self.forget_if_done(route);
        due
    }

    fn forget_if_done(&mut self, route: &Route) {
        if self.routes.get(route).is_some_and(|turns| turns.waiting.is_empty() && turns.out == 0) {
            self.routes.remove(route);
        }
    }

    /// Summary of what waits; `None` when nothing does.
    pub(super) fn shown(&self) -> Option<Nacked<'_>> {
        let (route, oldest) = self.routes.iter().min_by_key(|(_, turns)| turns.since)?;
        let messages = self.routes.values().map(|turns| turns.waiting.len() + turns.out).sum();
        Some(Nacked { messages, route, more_routes: self.routes.len() - 1, since: oldest.since })
    }
}

impl Turns {
    /// The next ones, once all of the last lot are answered.
    fn next_lot(&mut self) -> Due {
        if self.out > 0 {
            return Due::new();
        }
        self.lot = match (self.succeeded, self.failed) {
            (0, _) => 1,
            (_, 0) => (self.lot * 2).min(LOT_MAX),
            (succeeded, _) => succeeded,
        };
        (self.succeeded, self.failed) = (0, 0);
        self.out = self.lot.min(self.waiting.len());
        self.waiting.drain(..self.out).map(|tag| (self.again_at, tag)).collect()
    }
}
