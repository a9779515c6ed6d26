//! outboxd beside a polling loop and Debezium Server: the table and the picture of the README, made from the record.

use crate::{
    figures::{Spread, grouped},
    pictures::{begin, text},
    record::Results,
};
use std::fmt::Write;

/// Relays as the record names them, and as the table does.
const RELAYS: [(&str, &str); 5] = [
    ("outboxd, per-aggregate", "outboxd"),
    ("polling loop", "polling loop"),
    ("polling loop, tuned", "polling loop, tuned"),
    ("Debezium Server", "Debezium Server"),
    ("Debezium Server, tuned", "Debezium Server, tuned"),
];

/// A figure that every relay has.
struct Axis {
    /// Heading of its column in the table.
    heading: &'static str,
    /// Title of its panel in the picture.
    title: &'static str,
    subject: &'static str,
    column: &'static str,
    decimals: usize,
}

const AXES: [Axis; 7] = [
    axis("share of ceiling", "share of the ceiling", "peers", "share of ceiling", 2),
    axis("CPU us/message", "CPU, us a message", "peers", "CPU us/message", 1),
    axis("peak MB", "peak memory, MB", "peers", "peak RSS MB", 0),
    axis("p50 ms", "latency p50, ms", "latency", "p50 ms", 1),
    axis("p99 ms", "latency p99, ms", "latency", "p99 ms", 1),
    axis("start ms", "start, ms", "start", "ms", 0),
    axis("duplicates", "duplicates after kill -9", "kill", "duplicates", 0),
];

const fn axis(
    heading: &'static str,
    title: &'static str,
    subject: &'static str,
    column: &'static str,
    decimals: usize,
) -> Axis {
    Axis { heading, title, subject, column, decimals }
}

impl Axis {
    /// The figure of a relay; none where it was not measured.
    fn of(&self, results: &Results, relay: &str) -> Option<Spread> {
        let tables = &results.get(self.subject)?.tables;
        let mut rows = tables.iter().flat_map(|table| table.column(self.column));
        rows.find(|(name, _)| *name == relay).map(|(_, spread)| spread)
    }

    fn median(&self, results: &Results, relay: &str) -> Option<f64> {
        self.of(results, relay).map(|spread| spread.median)
    }
}

/// The table: a relay a row, medians.
pub fn as_markdown(results: &Results) -> String {
    let headings = AXES.map(|axis| axis.heading).join(" | ");
    let mut table = format!("| relay | {headings} |\n|{}\n", " --- |".repeat(AXES.len() + 1));
    for (relay, shown) in RELAYS {
        let cells = AXES.map(|axis| {
            let median = axis.median(results, relay);
            median.map_or("-".to_owned(), |median| grouped(median, axis.decimals))
        });
        let _ = writeln!(table, "| {shown} | {} |", cells.join(" | "));
    }
    table
}

/// The picture: a panel for each figure but the start, a bar for each relay.
pub fn draw(results: &Results) -> String {
    const LEFT: f64 = 172.0;
    const PANEL: f64 = 232.0;
    const BAR: f64 = 150.0;
    const STEP: f64 = 22.0;
    const BLOCK: f64 = 154.0;
    let mut svg = begin(48.0 + 2.0 * BLOCK, "Less is better, but for the share of the ceiling");
    let panels = AXES.iter().filter(|axis| axis.subject != "start");
    for (at, axis) in panels.enumerate() {
        let (column, block) = ((at % 3) as f64, (at / 3) as f64);
        let (x, top) = (LEFT + column * PANEL, 60.0 + block * BLOCK);
        text(&mut svg, x, top, "start", axis.title);
        let medians = RELAYS.map(|(relay, _)| axis.median(results, relay).unwrap_or_default());
        let most = medians.into_iter().fold(1e-9, f64::max);
        for (row, ((_, shown), median)) in RELAYS.iter().zip(medians).enumerate() {
            let y = top + 10.0 + STEP * row as f64;
            if at % 3 == 0 {
                text(&mut svg, LEFT - 10.0, y + 12.0, "end", shown);
            }
            let (width, colour) = (median / most * BAR, if row == 0 { "#1f6feb" } else { "#8c959f" });
            let _ = writeln!(
                svg,
                "<rect x=\"{x}\" y=\"{y}\" width=\"{:.1}\" height=\"15\" fill=\"{colour}\"/>",
                width.max(1.0)
            );
            text(&mut svg, x + width + 6.0, y + 12.0, "start", &grouped(median, axis.decimals));
        }
    }
    svg + "</svg>\n"
}
