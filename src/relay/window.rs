//! The window that the sources of one process share.
//!
//! One source needs the whole of its window to keep a distant broker busy; many need no more together, and if each filled its
//! own, memory would grow with their number. Whoever holds more than a few messages therefore counts, and gets its part.
//!
//! A source that is stuck with a full window keeps it. So that it cannot keep the others waiting, a little of its part is everybody's
//! own, whatever the others hold.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use crate::ledger::{Ledger, Limits, WHOLE};

/// What a source may hold however many others there are.
const FEW: Limits = Limits { messages: 64, bytes: 65_536 };
/// One in so many of its part is a source's own, however much the others hold.
const OWN_IN: usize = 4;

/// What the sources of a process hold of their windows. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct SharedWindow(Arc<Held>);

#[derive(Debug, Default)]
struct Held {
    /// How many hold more than a few messages.
    sources: AtomicUsize,
    /// What these hold, each by the [`Ledger::fill`] of its own window.
    fill: AtomicUsize,
}

impl SharedWindow {
    /// The share of a source that holds nothing yet.
    pub(super) fn share(&self) -> WindowShare {
        WindowShare { window: self.clone(), noted: None }
    }
}

/// A source's share of the window.
#[derive(Debug)]
pub(super) struct WindowShare {
    window: SharedWindow,
    /// What it holds, when that counts.
    noted: Option<usize>,
}

impl WindowShare {
    /// Counts what the source holds now.
    pub(super) fn update(&mut self, ledger: &Ledger) {
        self.count((!ledger.holds_less_than(FEW)).then(|| ledger.fill()));
    }

    /// Whether the source may hold more.
    pub(super) fn has_room(&self, ledger: &Ledger) -> bool {
        ledger.has_room() && (ledger.holds_less_than(FEW) || self.is_left_room(ledger.fill()))
    }

    /// Whether a source that holds `mine` has not had its part, and the others have left it over.
    fn is_left_room(&self, mine: usize) -> bool {
        let Held { sources, fill } = &*self.window.0;
        let sources = sources.load(Relaxed) + usize::from(self.noted.is_none());
        let others = fill.load(Relaxed).saturating_sub(self.noted.unwrap_or_default());
        let part = WHOLE / sources;
        mine < part / OWN_IN || mine < part && mine + others < WHOLE
    }

    fn count(&mut self, holds: Option<usize>) {
        let Held { sources, fill } = &*self.window.0;
        match (self.noted, holds) {
            (None, Some(_)) => drop(sources.fetch_add(1, Relaxed)),
            (Some(_), None) => drop(sources.fetch_sub(1, Relaxed)),
            _ => {}
        }
        fill.fetch_add(holds.unwrap_or_default(), Relaxed);
        fill.fetch_sub(self.noted.unwrap_or_default(), Relaxed);
        self.noted = holds;
    }
}

impl Drop for WindowShare {
    fn drop(&mut self) {
        self.count(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ledger::{Ordering, Settled},
        message::{AggregateKey, Message},
        position::{Lsn, Position},
    };

    /// A source that holds so many of at most 1,000 messages.
    struct Source(WindowShare, Ledger);

    impl Source {
        fn of(window: &SharedWindow, messages: usize) -> Self {
            let limits = Limits { messages: 1000, bytes: 1 << 24 };
            let mut source =
                Self(window.share(), Ledger::new(Ordering::Pipelined, limits, Settled::default()));
            source.push(messages);
            source
        }

        fn push(&mut self, messages: usize) {
            for _ in 0..messages {
                let position = Position { commit_lsn: Lsn(1), index: 0 };
                self.1.push(Message::empty(position, AggregateKey(1)));
            }
            self.0.update(&self.1);
        }

        fn has_room(&self) -> bool {
            self.0.has_room(&self.1)
        }
    }

    #[test]
    fn a_source_alone_has_the_whole_window_and_two_a_half_each() {
        let window = SharedWindow::default();
        let mut first = Source::of(&window, 499);
        assert!(Source::of(&window, 0).has_room());
        first.push(500);
        assert!(first.has_room());
        let second = Source::of(&window, 100);
        assert!(!first.has_room(), "it has more than a half");
        drop(second);
        assert!(first.has_room());
        first.push(1);
        assert!(!first.has_room(), "it is full");
    }

    #[test]
    fn all_together_hold_no_more_than_one_window() {
        let window = SharedWindow::default();
        let first = Source::of(&window, 700);
        let mut second = Source::of(&window, 299);
        assert!(second.has_room());
        second.push(1);
        assert!(!second.has_room(), "the first has not given up yet what is beyond its half");
        drop(first);
        assert!(second.has_room());
    }

    #[test]
    fn whoever_is_stuck_with_a_full_window_leaves_the_others_a_quarter_of_their_part() {
        let window = SharedWindow::default();
        let _stuck = Source::of(&window, 1000);
        let mut second = Source::of(&window, 124);
        assert!(second.has_room());
        second.push(1);
        assert!(!second.has_room());
    }

    #[test]
    fn a_few_messages_are_nobodys_part_and_go_in_however_many_hold_more() {
        let window = SharedWindow::default();
        let few: Vec<Source> = (0..100).map(|_| Source::of(&window, 63)).collect();
        assert!(Source::of(&window, 999).has_room());
        let many: Vec<Source> = (0..100).map(|_| Source::of(&window, 64)).collect();
        assert!(few.iter().all(Source::has_room));
        assert!(!many.iter().any(Source::has_room));
    }
}
