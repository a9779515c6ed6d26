//! The in-flight window that the sources of one process share.
//!
//! A single source needs the whole window to keep a distant broker busy. Many sources need no more together; if each filled its own
//! window, memory would grow with their number. Every source that holds more than a few messages therefore counts, and gets an
//! equal part.
//!
//! A stuck source keeps a full window and cannot stop the others: every source may always use a quarter of its part.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use crate::ledger::{Ledger, Limits, WHOLE};

/// Amount that a source may hold, however many others there are.
const FEW: Limits = Limits { messages: 64, bytes: 65_536 };
/// One in so many of its part is always available to a source, however much the others hold.
const OWN_IN: usize = 4;

/// Window of all sources of a process. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct SharedWindow(Arc<Held>);

#[derive(Debug, Default)]
struct Held {
    /// Number of sources that hold more than a few messages.
    sources: AtomicUsize,
    /// Sum of what these hold, each by the [`Ledger::fill`] of its own window.
    fill: AtomicUsize,
}

impl SharedWindow {
    /// Creates the share of a source that holds nothing yet.
    pub(super) fn share(&self) -> WindowShare {
        WindowShare { window: self.clone(), noted: None }
    }
}

/// Share of one source.
#[derive(Debug)]
pub(super) struct WindowShare {
    window: SharedWindow,
    /// Amount that the source holds, if it counts.
    noted: Option<usize>,
}

impl WindowShare {
    /// Records what the source holds now.
    pub(super) fn update(&mut self, ledger: &Ledger) {
        self.count((!ledger.holds_less_than(FEW)).then(|| ledger.fill()));
    }

    /// Returns whether the source may hold more.
    pub(super) fn has_room(&self, ledger: &Ledger) -> bool {
        ledger.has_room() && (ledger.holds_less_than(FEW) || self.is_left_room(ledger.fill()))
    }

    /// Returns whether a source that holds `mine` has not used up its part, and the others have left room.
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

    /// A source that holds a number of at most 1,000 messages.
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
