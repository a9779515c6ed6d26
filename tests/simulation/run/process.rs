//! An instance of outboxd.

use outboxd::{
    admin::{Board, SourceState, SourceStatus},
    relay::Ended,
};
use process::shutdown::ShutdownTrigger;
use tokio::task::JoinHandle;

/// An instance of outboxd.
pub(super) struct Process {
    pub(super) id: u64,
    pub(super) board: Board,
    pub(super) trigger: ShutdownTrigger,
    pub(super) task: JoinHandle<Ended>,
}

impl Process {
    pub(super) fn is_halted(&self, why: &str) -> bool {
        self.halted(why).is_some()
    }

    pub(super) fn state(&self) -> Option<SourceState> {
        self.board.status().sources.first().map(|source| source.state)
    }

    /// The source's state and reason.
    pub(super) fn shown(&self) -> String {
        let sources = self.board.status().sources;
        let shown = sources.iter().map(|source| format!("{:?}: {}", source.state, source.reason));
        format!("process {} is {}", self.id, shown.collect::<String>())
    }

    /// The reason for which the source halts, if it contains `why`.
    pub(super) fn halted(&self, why: &str) -> Option<String> {
        let sources = self.board.status().sources;
        let halted =
            |source: &SourceStatus| source.state == SourceState::Halted && source.reason.contains(why);
        sources.into_iter().find(halted).map(|source| source.reason)
    }
}

/// Texts by which a person decides to restart an instance, or to run `outboxd recover`.
pub(super) const INVALID_ROW: &str = "cannot become";
pub(super) const GAP: &str = "outboxd recover";
