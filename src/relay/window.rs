//! The windows that the sources of one process share.
//!
//! One source needs the whole of its window to keep a distant broker busy; many need no more together, and if each filled its
//! own, memory would grow with their number. Whoever holds more than a few messages therefore counts, and gets its part. The
//! few are everybody's: nobody waits for another, and a source that is stuck with a full window takes nothing from the
//! others but one part.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use crate::ledger::{Ledger, Limits};

/// What a source may hold however many others there are.
const OWN: Limits = Limits { messages: 64, bytes: 65_536 };

/// So many whole windows all sources hold together. With fewer, 32 sources would send and be answered a few messages at a time,
/// which costs more CPU than the memory is worth: `make bench ONLY=sources`.
const WINDOWS: usize = 4;

/// How many sources of a process hold more than a few messages. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct SharedWindow(Arc<AtomicUsize>);

impl SharedWindow {
    /// The place of a source that holds nothing yet.
    pub(super) fn place(&self) -> Place {
        Place { window: self.clone(), counted: false }
    }
}

/// A source's place in the window.
#[derive(Debug)]
pub(super) struct Place {
    window: SharedWindow,
    counted: bool,
}

impl Place {
    /// Takes note of what the source holds.
    pub(super) fn note(&mut self, ledger: &Ledger) {
        self.count(!ledger.holds_less_than(OWN));
    }

    /// Whether the source may hold more. What its ledger may hold is its window when nobody else has any of it.
    pub(super) fn has_room(&self, ledger: &Ledger) -> bool {
        let whole = ledger.limits();
        let sources = self.window.0.load(Ordering::Relaxed) + usize::from(!self.counted);
        let part =
            Limits { messages: whole.messages * WINDOWS / sources, bytes: whole.bytes * WINDOWS / sources };
        ledger.has_room() && (ledger.holds_less_than(part) || ledger.holds_less_than(OWN))
    }

    fn count(&mut self, counted: bool) {
        match (self.counted, counted) {
            (false, true) => drop(self.window.0.fetch_add(1, Ordering::Relaxed)),
            (true, false) => drop(self.window.0.fetch_sub(1, Ordering::Relaxed)),
            _ => {}
        }
        self.counted = counted;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.count(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ledger::{Ordering, Settled},
        outbox::{AggregateKey, Message},
        position::{Lsn, Position},
    };

    /// A source that holds `messages`.
    struct Source(Place, Ledger);

    impl Source {
        fn of(window: &SharedWindow, messages: usize) -> Self {
            let limits = Limits { messages: 1000, bytes: 1 << 24 };
            let mut source =
                Self(window.place(), Ledger::new(Ordering::Pipelined, limits, Settled::default()));
            source.take(messages);
            source
        }

        fn take(&mut self, messages: usize) {
            for _ in 0..messages {
                let position = Position { commit_lsn: Lsn(1), index: 0 };
                self.1.push(Message::empty(position, AggregateKey(1)));
            }
            self.0.note(&self.1);
        }

        fn has_room(&self) -> bool {
            self.0.has_room(&self.1)
        }
    }

    #[test]
    fn four_sources_have_a_whole_window_each_and_eight_a_half() {
        let window = SharedWindow::default();
        let mut first = Source::of(&window, 999);
        let three: Vec<Source> = (0..3).map(|_| Source::of(&window, 999)).collect();
        assert!(first.has_room() && three.iter().all(Source::has_room));
        let four: Vec<Source> = (0..4).map(|_| Source::of(&window, 499)).collect();
        assert!(!first.has_room(), "it has more than a half");
        assert!(four.iter().all(Source::has_room));
        drop(four);
        assert!(first.has_room());
        first.take(1);
        assert!(!first.has_room());
    }

    #[test]
    fn a_few_messages_are_nobodys_part_and_go_in_however_many_hold_more() {
        let window = SharedWindow::default();
        let first = Source::of(&window, 999);
        let few: Vec<Source> = (0..100).map(|_| Source::of(&window, 63)).collect();
        assert!(first.has_room());
        let many: Vec<Source> = (0..100).map(|_| Source::of(&window, 64)).collect();
        assert!(!first.has_room());
        assert!(few.iter().all(Source::has_room));
        assert!(!many.iter().any(Source::has_room));
    }
}
