//! Targets of outboxd, beside the recorded figures.

use crate::{figures::grouped, record::Results};
use std::fmt::Write;

/// Bound of a median.
enum Wanted {
    AtLeast(f64),
    AtMost(f64),
}
use Wanted::{AtLeast, AtMost};

/// Target of a figure: subject, row, column, bound, decimals.
type Target = (&'static str, &'static str, &'static str, Wanted, usize);

const TARGETS: &[Target] = &[
    ("drain", "outboxd, pipelined", "share of ceiling", AtLeast(0.9), 2),
    ("drain", "outboxd, per-aggregate", "share of ceiling", AtLeast(0.8), 2),
    ("drain", "outboxd, pipelined", "CPU us/message", AtMost(12.0), 1),
    ("drain", "outboxd, per-aggregate", "CPU us/message", AtMost(12.0), 1),
    ("memory", "idle", "peak MB", AtMost(12.0), 1),
    ("memory", "draining 100,000 transactions", "peak MB", AtMost(25.0), 1),
    ("memory", "one transaction of 1,000,000 rows", "peak MB", AtMost(25.0), 1),
    ("memory", "broker away, then draining 100,000", "peak MB", AtMost(25.0), 1),
    ("latency", "outboxd, per-aggregate", "p50 ratio", AtMost(1.5), 2),
    ("latency", "outboxd, per-aggregate", "p99 ratio", AtMost(3.0), 2),
    ("start", "outboxd, per-aggregate", "ms", AtMost(150.0), 0),
    ("takeover", "outboxd", "ms", AtMost(2000.0), 0),
    // 4,096 in flight, and 100 ms of confirmed traffic at only 10,000 messages per second.
    ("kill", "outboxd, pipelined", "duplicates", AtMost(5096.0), 0),
    ("kill", "outboxd, per-aggregate", "duplicates", AtMost(5096.0), 0),
];

/// Returns the targets that have figures, as a table.
pub fn as_markdown(results: &Results) -> String {
    let mut text = "| figure | target | median | reached |\n| --- | --- | --- | --- |\n".to_owned();
    for (subject, row, column, wanted, decimals) in TARGETS {
        let columns = results.get(subject).into_iter().flat_map(|section| &section.tables);
        let mut rows = columns.flat_map(|table| table.column(column));
        let Some((_, spread)) = rows.find(|(name, _)| name == row) else { continue };
        let (sign, limit, reached) = match wanted {
            AtLeast(limit) => (">=", limit, spread.median >= *limit),
            AtMost(limit) => ("<=", limit, spread.median <= *limit),
        };
        let [limit, median] = [*limit, spread.median].map(|value| grouped(value, *decimals));
        let reached = if reached { "yes" } else { "no" };
        let _ = writeln!(text, "| {subject}: {row}, {column} | {sign} {limit} | {median} | {reached} |");
    }
    text
}
