//! Figures: tables of samples, one for each round, shown by median and spread.

use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// Column of a table.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// Heading with the unit.
    pub name: &'static str,
    /// Significant decimals.
    pub decimals: usize,
}

/// Rows of samples.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Table {
    /// Title of the table.
    pub title: String,
    columns: Vec<(String, usize)>,
    rows: Vec<Row>,
    /// Notes for the reader.
    #[serde(default)]
    pub notes: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Row {
    name: String,
    /// Samples of each column, in the order of rounds.
    samples: Vec<Vec<f64>>,
}

/// Line of a chart.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Series {
    /// Name of the line.
    pub name: String,
    /// Points from left to right.
    pub points: Vec<(f64, f64)>,
}

impl Series {
    /// Returns the line through these points, with two decimals and without points inside a level stretch.
    pub fn new(name: impl Into<String>, points: impl IntoIterator<Item = (f64, f64)>) -> Self {
        let mut bends: Vec<(f64, f64)> = Vec::new();
        for (x, y) in points {
            let (x, y) = (rounded(x, 2), rounded(y, 2));
            if let [.., before, last] = &mut bends[..]
                && before.1 == y
                && last.1 == y
            {
                last.0 = x;
            } else {
                bends.push((x, y));
            }
        }
        Self { name: name.into(), points: bends }
    }
}

fn rounded(value: f64, decimals: usize) -> f64 {
    let scale = 10f64.powi(decimals as i32);
    (value * scale).round() / scale
}

/// Median and spread of samples.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    /// Median; the mean of the two middle samples of an even number.
    pub median: f64,
    /// Least sample.
    pub min: f64,
    /// Greatest sample.
    pub max: f64,
}

impl Spread {
    /// Returns the spread, `None` without samples.
    pub fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted: Vec<f64> = samples.iter().copied().filter(|sample| sample.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median =
            if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 };
        Some(Self { median, min, max })
    }
}

impl Table {
    /// Creates a table without rows.
    pub fn new(title: impl Into<String>, columns: &[Column]) -> Self {
        let columns = columns.iter().map(|column| (column.name.to_owned(), column.decimals)).collect();
        Self { title: title.into(), columns, rows: Vec::new(), notes: Vec::new() }
    }

    /// Adds one sample for each column to a row, which is created if necessary. NaN is not measured. Two digits more
    /// are kept than shown.
    pub fn add(&mut self, row: &str, samples: &[f64]) {
        assert_eq!(samples.len(), self.columns.len(), "one sample for each column");
        let at = self.rows.iter().position(|known| known.name == row).unwrap_or_else(|| {
            let samples = vec![Vec::new(); self.columns.len()];
            self.rows.push(Row { name: row.to_owned(), samples });
            self.rows.len() - 1
        });
        let decimals = self.columns.iter().map(|(_, decimals)| decimals + 2);
        for ((column, sample), decimals) in self.rows[at].samples.iter_mut().zip(samples).zip(decimals) {
            if sample.is_finite() {
                column.push(rounded(*sample, decimals));
            }
        }
    }

    /// Returns the names of rows with the spread of one column.
    pub fn column(&self, name: &str) -> Vec<(&str, Spread)> {
        let Some(at) = self.columns.iter().position(|(known, _)| known == name) else { return Vec::new() };
        let spread = |row: &'_ Row| Spread::of(&row.samples[at]);
        self.rows.iter().filter_map(|row| Some((row.name.as_str(), spread(row)?))).collect()
    }

    /// Returns the last samples of a row as progress output.
    pub fn last_as_text(&self, row: &str) -> String {
        let mut text = row.to_owned();
        for known in self.rows.iter().filter(|known| known.name == row) {
            for ((name, decimals), samples) in self.columns.iter().zip(&known.samples) {
                if let Some(last) = samples.last() {
                    let _ = write!(text, ", {name} {}", grouped(*last, *decimals));
                }
            }
        }
        text
    }

    /// Returns the table as Markdown, which is also printed: `median (min-max)` in each cell, or the only sample.
    pub fn as_markdown(&self) -> String {
        let mut grid: Vec<Vec<String>> =
            vec![std::iter::once(String::new()).chain(self.columns.iter().map(|c| c.0.clone())).collect()];
        for row in &self.rows {
            let cells = self.columns.iter().zip(&row.samples).map(|((_, decimals), s)| cell(s, *decimals));
            grid.push(std::iter::once(row.name.clone()).chain(cells).collect());
        }
        let width = |column: usize| grid.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..grid[0].len()).map(width).collect();
        let rule: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
        grid.insert(1, rule);
        let mut text = String::new();
        for row in &grid {
            let padded = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            let _ = writeln!(text, "| {} |", padded.collect::<Vec<_>>().join(" | "));
        }
        for note in &self.notes {
            let _ = writeln!(text, "\n{note}");
        }
        text
    }
}

fn cell(samples: &[f64], decimals: usize) -> String {
    let Some(spread) = Spread::of(samples) else { return "-".to_owned() };
    let [median, min, max] = [spread.median, spread.min, spread.max].map(|value| grouped(value, decimals));
    if samples.len() == 1 { median } else { format!("{median} ({min}-{max})") }
}

/// Formats 12345.67 as `12,345.7`.
pub fn grouped(value: f64, decimals: usize) -> String {
    let text = format!("{:.decimals$}", value.abs());
    let (whole, fraction) =
        text.split_once('.').map_or((text.as_str(), ""), |(whole, _)| (whole, &text[whole.len()..]));
    let mut grouped = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    format!("{}{grouped}{fraction}", if value < 0.0 { "-" } else { "" })
}
