//! How the demo looks: numbered steps, facts, tables; at most 100 columns, colours on a terminal only.

use std::io::{IsTerminal, stdout};

const WIDTH: usize = 100;
const INDENT: &str = "  ";

const BOLD: &str = "1";
const DIM: &str = "2";
const GREEN: &str = "32";
const YELLOW: &str = "33";

/// Where the demo is shown.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Screen {
    colours: bool,
}

/// A cell's text, and whether it is to catch the eye.
pub(crate) struct Cell {
    text: String,
    style: Option<&'static str>,
}

impl Screen {
    /// Standard output. `NO_COLOR`, if it is set to anything, turns colours off (no-color.org).
    pub(crate) fn new() -> Self {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self { colours: stdout().is_terminal() && !set("NO_COLOR") && !dumb }
    }

    /// A headline, and beneath it what the reader is about to see.
    pub(crate) fn step(self, headline: &str, why: &str) {
        println!("\n{}", self.styled(headline, Some(BOLD)));
        for line in wrapped(why, WIDTH - INDENT.len()) {
            println!("{INDENT}{}", self.styled(&line, Some(DIM)));
        }
        println!();
    }

    /// A name and what it stands for. The name may be empty, to go on with the one before.
    pub(crate) fn fact(self, name: &str, value: &str) {
        println!("{INDENT}{name:<16}{value}");
    }

    /// Something that has been checked.
    pub(crate) fn checked(self, text: &str) {
        for (number, line) in wrapped(text, WIDTH - INDENT.len() - 4).into_iter().enumerate() {
            let mark = if number == 0 { self.styled("ok", Some(GREEN)) } else { "  ".to_owned() };
            println!("{INDENT}{mark}  {line}");
        }
    }

    /// What another program printed, cut off at the right margin.
    pub(crate) fn quote(self, text: &str) {
        for line in text.lines() {
            let cut: String = line.chars().take(WIDTH - 2 * INDENT.len()).collect();
            println!("{INDENT}{INDENT}{cut}");
        }
    }

    /// Two tables side by side: `titles` says what they are, and the second begins at column `split`.
    pub(crate) fn table(self, titles: [&str; 2], split: usize, head: &[&str], rows: Vec<Vec<Cell>>) {
        let width = |column: usize| {
            let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.text.chars().count());
            cells.chain([head[column].len()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..head.len()).map(width).collect();
        let left = widths[..split].iter().sum::<usize>() + 2 * (split - 1);
        println!("{INDENT}{:<left$} | {}", titles[0], titles[1]);
        let heading = head.iter().map(|name| Cell { text: (*name).to_owned(), style: Some(DIM) });
        for row in [heading.collect()].into_iter().chain(rows) {
            let mut line = INDENT.to_owned();
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                line += match column {
                    0 => "",
                    column if column == split => " | ",
                    _ => "  ",
                };
                line += &self.styled(&format!("{:<width$}", cell.text), cell.style);
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
    /// Plain text.
    pub(crate) fn plain(text: impl Into<String>) -> Self {
        Self { text: text.into(), style: None }
    }

    /// Text that catches the eye.
    pub(crate) fn marked(text: impl Into<String>) -> Self {
        Self { text: text.into(), style: Some(YELLOW) }
    }
}

/// `17,342`.
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
