//! The states of all sources in one short line, for the service manager's status of the process.

use super::{state::SourceState, status::Status};
use diagnostics::legible::Legible;
use std::fmt::Write;

/// Longest summary in bytes. `systemctl status` shows it on one line.
const BYTES_MAX: usize = 400;

/// Returns the summary: of one source its state and reason, of several how many are in each state, and then the ones with a
/// reason, the ones that a person must help first.
pub(super) fn of(status: &Status) -> String {
    let sources = &status.sources;
    let mut text = String::new();
    if sources.len() > 1 {
        let counts = SourceState::ALL.map(|state| {
            let number = sources.iter().filter(|source| source.state == state).count();
            (number > 0).then(|| format!("{number} {state}"))
        });
        let counts: Vec<String> = counts.into_iter().flatten().collect();
        let _ = write!(text, "{} sources: {}", sources.len(), counts.join(", "));
    }
    let mut shown: Vec<_> =
        sources.iter().filter(|source| sources.len() == 1 || source.state.is_trouble()).collect();
    let urgency = [SourceState::Halted, SourceState::Blocked];
    shown.sort_by_key(|source| {
        urgency.iter().position(|state| *state == source.state).unwrap_or(urgency.len())
    });
    for source in shown {
        let between = if text.is_empty() { "" } else { "; " };
        let _ = write!(text, "{between}{}: {}", source.name, source.state);
        if !source.reason.is_empty() {
            let _ = write!(text, ", {}", source.reason.trim());
        }
    }
    for subscription in status.subscriptions.iter().filter(|subscription| subscription.missing.is_some()) {
        let _ = write!(text, "; subscription {}: gets no messages", subscription.queue);
    }
    shortened(Legible(text).to_string())
}

/// Returns the text, or its beginning with a mark if it is too long.
fn shortened(mut text: String) -> String {
    if text.len() > BYTES_MAX {
        let end = (0..=BYTES_MAX - "...".len()).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or_default());
        text.push_str("...");
    }
    text
}

#[cfg(test)]
mod tests {
    use crate::admin::{Board, SourceState, summary::BYTES_MAX};

    #[test]
    fn one_source_is_shown_with_its_reason() {
        let board = Board::new();
        let orders = board.reporter("orders");
        assert_eq!(board.summary(), "orders: connecting, starting");
        orders.state(SourceState::Streaming, "");
        assert_eq!(board.summary(), "orders: streaming");
        orders.state(SourceState::Halted, "a row cannot become a message\nMAINPID=1");
        assert_eq!(board.summary(), "orders: halted, a row cannot become a message\\nMAINPID=1");
    }

    #[test]
    fn several_are_counted_and_the_one_that_a_person_must_help_comes_first() {
        let board = Board::new();
        for (name, state, reason) in [
            ("a", SourceState::Connecting, "PostgreSQL does not answer"),
            ("b", SourceState::Streaming, ""),
            ("c", SourceState::Streaming, ""),
            ("d", SourceState::Standby, "another instance has the slot"),
            ("e", SourceState::Halted, "message 42 is unroutable"),
        ] {
            board.reporter(name).state(state, reason);
        }
        assert_eq!(
            board.summary(),
            "5 sources: 1 connecting, 2 streaming, 1 standby, 1 halted; e: halted, message 42 is unroutable; a: connecting, \
             PostgreSQL does not answer"
        );
    }

    #[test]
    fn a_thousand_sources_with_long_reasons_stay_short() {
        let board = Board::new();
        for number in 0..1000 {
            board
                .reporter(&format!("source{number}"))
                .state(SourceState::Blocked, "\u{e9}\u{1b}".repeat(100));
        }
        let summary = board.summary();
        assert!(summary.len() <= BYTES_MAX && summary.len() > BYTES_MAX - 10, "{summary}");
        assert!(summary.starts_with("1000 sources: 1000 blocked; ") && summary.ends_with("..."), "{summary}");
    }
}
