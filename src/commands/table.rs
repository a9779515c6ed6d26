//! Tables on stdout, with aligned columns.

use diagnostics::legible::Legible;

/// A column: heading, right alignment for numbers, and the cell of a row.
pub(super) type Column<T> = (&'static str, bool, fn(&T) -> String);

/// Formats a heading and one line for each row.
pub(super) fn table<T>(columns: &[Column<T>], rows: &[T]) -> String {
    let heading = columns.iter().map(|(heading, ..)| (*heading).to_owned()).collect();
    let rows = rows.iter().map(|row| columns.iter().map(|(_, _, cell)| one_line(&cell(row))).collect());
    let rows: Vec<Vec<String>> = std::iter::once(heading).chain(rows).collect();
    let mut widths = vec![0; columns.len()];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(columns).zip(&widths).map(|((cell, (_, is_number, _)), width)| {
            if *is_number { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// The cell of an unknown value.
pub(super) fn unknown() -> String {
    "-".to_owned()
}

/// Formats a text as one line.
pub(super) fn one_line(text: &str) -> String {
    Legible(text.trim()).to_string()
}

/// Formats bytes: `512 B`, `1.5 MiB`.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    // A value that would print as 1024.0 belongs to the next unit.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (3 << 19, "1.5 MiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(size(bytes), text, "{bytes}");
        }
    }
}
