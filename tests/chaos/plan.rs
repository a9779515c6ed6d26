//! The plan of a seed: the workload, and a sequence of rounds, each with one or two faults at a time.

use fastrand::Rng;

use crate::faults::{FAULTS, Kind};

/// A fault with its duration.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Strike {
    pub(crate) kind: &'static Kind,
    pub(crate) lasts_ms: u64,
    /// Random number for the fault's choices: how far a clock jumps, how slow a link is.
    pub(crate) dice: u64,
}

/// One round: calm, then one fault or two.
#[derive(Clone, Debug)]
pub(crate) struct Round {
    /// Calm before the fault, in milliseconds.
    pub(crate) calm_ms: u64,
    /// Tells whether a second instance stands by.
    pub(crate) standby: bool,
    pub(crate) first: Strike,
    /// A second fault, and the milliseconds by which it begins later.
    pub(crate) second: Option<(Strike, u64)>,
}

/// An endless sequence of rounds.
pub(crate) struct Plan {
    random: Rng,
    kinds: Vec<&'static Kind>,
    /// Kinds left to draw: every kind comes once before one comes again.
    deck: Vec<&'static Kind>,
    calm_ms_max: u64,
}

impl Plan {
    /// Draws the first fault from all kinds whose name contains `only`. The second may be of any kind.
    pub(crate) fn new(seed: u64, only: &str, calm_ms_max: u64) -> Self {
        let kinds: Vec<&'static Kind> = FAULTS.iter().filter(|kind| kind.name.contains(only)).collect();
        assert!(!kinds.is_empty(), "no kind of fault is called '{only}'");
        Self { random: Rng::with_seed(seed), kinds, deck: Vec::new(), calm_ms_max }
    }

    fn strike(&mut self, kind: &'static Kind) -> Strike {
        Strike { kind, lasts_ms: self.random.u64(kind.lasts_ms.clone()), dice: self.random.u64(..) }
    }

    fn draw(&mut self) -> &'static Kind {
        if self.deck.is_empty() {
            self.deck = self.kinds.clone();
            self.random.shuffle(&mut self.deck);
        }
        self.deck.pop().expect("a full deck")
    }
}

impl Iterator for Plan {
    type Item = Round;

    fn next(&mut self) -> Option<Round> {
        let kind = self.draw();
        let first = self.strike(kind);
        let second = self.random.u8(0..100) < 25;
        // Drawn apart from the deck, so that each kind also comes alone as often as the others.
        let others: Vec<&'static Kind> =
            FAULTS.iter().filter(|other| other.subject != kind.subject).collect();
        let other = others[self.random.usize(0..others.len())];
        let other = (self.strike(other), self.random.u64(0..2_000));
        Some(Round {
            calm_ms: self.random.u64(200..self.calm_ms_max),
            standby: self.random.u8(0..100) < 30,
            first,
            second: second.then_some(other),
        })
    }
}

impl Round {
    pub(crate) fn strikes(&self) -> impl Iterator<Item = &Strike> {
        std::iter::once(&self.first).chain(self.second.as_ref().map(|(strike, _)| strike))
    }

    /// Name of the round in the report.
    pub(crate) fn name(&self) -> String {
        let one = |strike: &Strike| {
            let name = strike.kind.name.to_owned();
            let taken_over = self.standby && strike.kind.subject == crate::faults::Subject::Relay;
            if taken_over { name + ", with a standby" } else { name }
        };
        self.strikes().map(one).collect::<Vec<_>>().join(" + ")
    }
}

#[test]
fn a_seed_is_the_same_plan_every_time_and_no_kind_is_left_out() {
    let plan =
        |seed| Plan::new(seed, "", 1000).take(64).map(|round| format!("{round:?}")).collect::<Vec<_>>();
    assert_eq!(plan(7), plan(7));
    assert_ne!(plan(7), plan(8));
    let mut names: Vec<&str> =
        Plan::new(7, "", 1000).take(FAULTS.len()).map(|round| round.first.kind.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), FAULTS.len());
}
