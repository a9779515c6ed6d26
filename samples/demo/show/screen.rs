//! Screen of a demo: numbered steps, facts, tables; at most 100 columns, colours only on a terminal.

use std::io::{IsTerminal, stdout};

const WIDTH: usize = 100;
const INDENT: &str = "  ";

const BOLD: &str = "1";
const DIM: &str = "2";
const GREEN: &str = "32";
const YELLOW: &str = "33";

/// Output of a demo.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Screen {
    colours: bool,
    steps: usize,
}

/// Cell of a table: text, emphasis, and whether it is a number, which is aligned to the right.
pub(crate) struct Cell {
    text: String,
    style: Option<&'static str>,
    number: bool,
}

impl Screen {
    /// Creates a screen on standard output for this many steps. A set `NO_COLOR` turns colours off (no-color.org).
    pub(crate) fn new(steps: usize) -> Self {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self { colours: stdout().is_terminal() && !set("NO_COLOR") && !dumb, steps }
    }

    /// Prints a step's headline, and what the reader is about to see.
    pub(crate) fn step(self, number: usize, headline: &str, why: &str) {
        self.interlude(&format!("{number}/{}  {headline}", self.steps), why);
    }

    /// As [`step`](Self::step), without a number.
    pub(crate) fn interlude(self, headline: &str, why: &str) {
        println!("\n{}", self.styled(headline, Some(BOLD)));
        for line in wrapped(why, WIDTH - INDENT.len()) {
            println!("{INDENT}{}", self.styled(&line, Some(DIM)));
        }
        println!();
    }

    /// Prints the headline of a table.
    pub(crate) fn headline(self, text: &str) {
        println!("\n{INDENT}{}", self.styled(text, Some(BOLD)));
    }

    /// Prints a name and its value. An empty name continues the one before.
    pub(crate) fn fact(self, name: &str, value: &str) {
        println!("{INDENT}{name:<18}{value}");
    }

    /// Prints a successful check.
    pub(crate) fn checked(self, text: &str) {
        for (number, line) in wrapped(text, WIDTH - INDENT.len() - 4).into_iter().enumerate() {
            let mark = if number == 0 { self.styled("ok", Some(GREEN)) } else { "  ".to_owned() };
            println!("{INDENT}{mark}  {line}");
        }
    }

    /// Prints another program's output, cut at the right margin.
    pub(crate) fn quote(self, text: &str) {
        for line in text.lines() {
            let cut: String = line.chars().take(WIDTH - 2 * INDENT.len()).collect();
            println!("{INDENT}{INDENT}{cut}");
        }
    }

    /// Prints a table.
    pub(crate) fn table(self, head: &[&str], rows: Vec<Vec<Cell>>) {
        self.rows(&widths(head, &rows), None, head, rows);
    }

    /// Prints two tables side by side with `titles`. The second begins at column `split`.
    pub(crate) fn tables(self, titles: [&str; 2], split: usize, head: &[&str], rows: Vec<Vec<Cell>>) {
        let widths = widths(head, &rows);
        let left = widths[..split].iter().sum::<usize>() + 2 * (split - 1);
        println!("{INDENT}{:<left$} | {}", titles[0], titles[1]);
        self.rows(&widths, Some(split), head, rows);
    }

    fn rows(self, widths: &[usize], split: Option<usize>, head: &[&str], rows: Vec<Vec<Cell>>) {
        let numbers: Vec<bool> = (0..head.len())
            .map(|column| rows.iter().any(|row| row.get(column).is_some_and(|cell| cell.number)))
            .collect();
        let heading = head.iter().zip(numbers).map(|(name, number)| Cell {
            text: (*name).to_owned(),
            style: Some(DIM),
            number,
        });
        for row in [heading.collect()].into_iter().chain(rows) {
            let mut line = INDENT.to_owned();
            for (column, (cell, &width)) in row.iter().zip(widths).enumerate() {
                line += match column {
                    0 => "",
                    column if Some(column) == split => " | ",
                    _ => "  ",
                };
                let text = &cell.text;
                let text = if cell.number { format!("{text:>width$}") } else { format!("{text:<width$}") };
                line += &self.styled(&text, cell.style);
            }
            println!("{}", line.trim_end());
        }
    }

    fn styled(self, text: &str, style: Option<&str>) -> String {
        match style {
            Some(style) if self.colours => format!("\x1b[{style}m{text}\x1b[0m"),
            _ => text.to_owned(),
        }
    }
}

impl Cell {
    /// Creates a cell of plain text.
    pub(crate) fn plain(text: impl Into<String>) -> Self {
        Self { text: text.into(), style: None, number: false }
    }

    /// Creates a cell of emphasised text.
    pub(crate) fn marked(text: impl Into<String>) -> Self {
        Self { text: text.into(), style: Some(YELLOW), number: false }
    }

    /// Creates a cell of a number.
    pub(crate) fn number(number: impl ToString) -> Self {
        Self { text: number.to_string(), style: None, number: true }
    }
}

fn widths(head: &[&str], rows: &[Vec<Cell>]) -> Vec<usize> {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.text.chars().count());
        cells.chain([head[column].len()]).max().unwrap_or(0)
    };
    (0..head.len()).map(width).collect()
}

/// Formats a number as `17,342`.
pub(crate) fn counted(number: usize) -> String {
    let digits = number.to_string();
    let grouped: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .map(|group| std::str::from_utf8(group).unwrap_or_default())
        .collect();
    grouped.join(",")
}

fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
