//! Code that a page quotes is the code: a fenced block with a source's path has lines of that source.
//!
//! ```text
//! ```rust samples/order-service/src/order.rs#after
//! ```
//!
//! The part behind `#` is the name of an item, and the lines are lines of that item. A comment `...` stands for lines that the quote
//! leaves out. Indentation and empty lines do not count.

use std::path::Path;

use crate::markdown::{Block, Page};

/// Pages whose Rust is all quoted.
const CHAPTER: &str = "docs/services";

/// Words before the name of an item.
const KEYWORDS: [&str; 8] = ["fn", "struct", "enum", "trait", "const", "static", "type", "impl"];

/// Every quote that its source does not have. `read` gives the text of a file.
pub(crate) fn problems(page: &Page, read: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let mut problems = Vec::new();
    for block in &page.blocks {
        let what = match block.marks.iter().find(|mark| mark.contains('/')) {
            Some(place) => quote(block, place, &read).err(),
            None if block.language == "rust" && page.path.starts_with(CHAPTER) => {
                Some("this Rust does not name its source: ```rust path/of/the/source.rs#item".to_owned())
            }
            None => None,
        };
        problems.extend(what.map(|what| format!("{}:{}: {what}", page.path.display(), block.line)));
    }
    problems
}

fn quote(block: &Block, place: &str, read: impl Fn(&str) -> Option<String>) -> Result<(), String> {
    let (path, name) = place.split_once('#').map_or((place, None), |(path, name)| (path, Some(name)));
    let source = read(path).ok_or_else(|| format!("there is no {path}"))?;
    let source: Vec<&str> = source.lines().filter(|line| !line.trim().is_empty()).collect();
    let parts = match name {
        Some(name) if Path::new(path).extension().is_some_and(|extension| extension == "rs") => {
            items(&source, name)
        }
        Some(_) => return Err(format!("{path} is no Rust, and has no items")),
        None => vec![&source[..]],
    };
    let missing: Vec<&str> = parts.iter().filter_map(|part| missing(&block.text, part)).collect();
    match (parts.len(), missing.as_slice()) {
        (0, _) => Err(format!("{path} has no item {}", name.unwrap_or_default())),
        // One item of this name has all of it.
        (items, missing) if missing.len() < items => Ok(()),
        (_, missing) => Err(format!("{place} does not have this line, or has it elsewhere: {}", missing[0])),
    }
}

/// The lines of every item of this name, its documentation included.
fn items<'a>(source: &'a [&'a str], name: &str) -> Vec<&'a [&'a str]> {
    let declares = |line: &str| {
        let words: Vec<&str> = line
            .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
            .filter(|word| !word.is_empty())
            .collect();
        let is_impl = line.trim_start().starts_with("impl") && words.contains(&name);
        is_impl || words.windows(2).any(|pair| KEYWORDS.contains(&pair[0]) && pair[1] == name)
    };
    let is_of_next =
        |line: &&str| line.trim_start().starts_with("///") || line.trim_start().starts_with("#[");
    let declared = source.iter().enumerate().filter(|(_, line)| !is_of_next(line) && declares(line));
    declared
        .map(|(at, line)| {
            let above = source[..at].iter().rev().take_while(|line| is_of_next(line)).count();
            &source[at - above..=at + below(line, &source[at + 1..])]
        })
        .collect()
}

/// How many lines the item has below its first one: up to the bracket that closes it.
fn below(first: &str, rest: &[&str]) -> usize {
    if first.trim_end().ends_with([';', '}']) {
        return 0;
    }
    let indent = |line: &str| line.len() - line.trim_start().len();
    let closes = |line: &str| {
        indent(line) <= indent(first)
            && line.trim_start().starts_with(['}', ']', ')', '"'])
            && line.trim_end().ends_with(['}', ';'])
    };
    rest.iter().position(|line| closes(line)).map_or(rest.len(), |last| last + 1)
}

/// The first line of a quote that the source lacks in this place.
fn missing<'a>(quote: &'a str, source: &[&str]) -> Option<&'a str> {
    let is_gap = |line: &str| ["// ...", "-- ...", "# ..."].contains(&line);
    let lines: Vec<&str> = quote.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let source: Vec<&str> = source.iter().map(|line| line.trim()).collect();
    let mut rest = &source[..];
    for piece in lines.split(|line| is_gap(line)).filter(|piece| !piece.is_empty()) {
        match rest.windows(piece.len()).position(|window| window == piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return piece.iter().find(|line| !rest.contains(line)).or(piece.first()).copied(),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "\
/// A state.
#[derive(Debug)]
pub enum State {
    Pending,
}

impl State {
    /// The state after a step.
    pub fn after(
        self,
        step: Step,
    ) -> Option<Self> {
        match step {
            Step::Approve => Some(Self::Approved),

            Step::Cancel => None,
        }
    }

    fn name(self) -> &'static str {
        \"PENDING\"
    }
}

const LIMIT: usize = 1;
const TABLE: &str = \"
CREATE TABLE t (
  id bigint
);
\";
";

    fn of(block: &str) -> Vec<String> {
        let read = |path: &str| (path == "src/a.rs" || path == "a/b.sql").then(|| SOURCE.to_owned());
        problems(&Page::parse("docs/services/p.md", block), read)
    }

    #[test]
    fn a_quote_that_is_the_source_is_no_problem() {
        for text in [
            "```rust src/a.rs\npub enum State {\n    Pending,\n}\n```",
            "```rust src/a.rs#State\n/// A state.\n#[derive(Debug)]\npub enum State {\n```",
            "```rust src/a.rs#after\nmatch step {\n    Step::Approve => Some(Self::Approved),\n    // ...\n}\n```",
            "```rust src/a.rs#State\npub fn after(\n// ...\nfn name(self) -> &'static str {\n```",
            "```rust src/a.rs#LIMIT\nconst LIMIT: usize = 1;\n```",
            "```sql src/a.rs#TABLE\nCREATE TABLE t (\n  id bigint\n);\n```",
            "```sql a/b.sql\nCREATE TABLE t (\n-- ...\n);\n```",
            "```sql\nSELECT 1;\n```",
        ] {
            assert_eq!(of(text), [""; 0], "{text}");
        }
    }

    #[test]
    fn a_stale_quote_is_noticed() {
        for (text, expected) in [
            (
                "```rust src/a.rs#after\nStep::Approve => Some(Self::Rejected),\n```",
                "src/a.rs#after does not have this line, or has it elsewhere: Step::Approve => Some(Self::Rejected),",
            ),
            // The line is there, but in another item.
            (
                "```rust src/a.rs#after\n\"PENDING\"\n```",
                "src/a.rs#after does not have this line, or has it elsewhere: \"PENDING\"",
            ),
            // Lines are missing between these two.
            (
                "```rust src/a.rs#after\nmatch step {\nStep::Cancel => None,\n```",
                "src/a.rs#after does not have this line, or has it elsewhere: match step {",
            ),
            // The other way round.
            (
                "```rust src/a.rs#after\nStep::Cancel => None,\n// ...\nmatch step {\n```",
                "src/a.rs#after does not have this line, or has it elsewhere: match step {",
            ),
            ("```rust src/a.rs#before\nfn x() {\n```", "src/a.rs has no item before"),
            ("```rust src/b.rs\nfn x() {\n```", "there is no src/b.rs"),
            ("```sql a/b.sql#TABLE\nSELECT 1;\n```", "a/b.sql is no Rust, and has no items"),
            ("```rust\nfn x() {}\n```", "this Rust does not name its source"),
        ] {
            let found = of(text);
            assert!(found.len() == 1 && found[0].contains(expected), "{text}: {found:?}");
            assert!(found[0].starts_with("docs/services/p.md:1: "), "{found:?}");
        }
    }
}
