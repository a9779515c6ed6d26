//! Fenced blocks hold what they say: messages are texts of the code, TOML is a configuration, SQL is whole.

use std::{collections::BTreeMap, fs};

use outboxd::settings;

use crate::{
    markdown::{Block, Page},
    phrase::Phrases,
};

/// A block of TOML that is not outboxd's configuration has this mark: ```toml,other
const OTHER: &str = "other";

/// Every line and block that is not what it is called.
pub(crate) fn problems(page: &Page, phrases: &Phrases) -> Vec<String> {
    let mut problems = Vec::new();
    for block in &page.blocks {
        let mut note =
            |line: usize, what: String| problems.push(format!("{}:{line}: {what}", page.path.display()));
        match &*block.language {
            "message" => {
                for (at, line) in block.text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
                    if !phrases.know(line) {
                        note(block.line + 1 + at, format!("no text of the code: {line}"));
                    }
                }
            }
            "toml" if !block.marks.iter().any(|mark| mark == OTHER) => {
                toml(block).into_iter().for_each(|what| note(block.line, what));
            }
            "sql" => sql(&block.text).into_iter().for_each(|what| note(block.line, what)),
            _ => {}
        }
    }
    problems
}

/// Problems of a configuration. A part of one may lack the rest, and may begin within a source.
fn toml(block: &Block) -> Vec<String> {
    let has = |header: &str| block.text.lines().any(|line| line.starts_with(header));
    let is_whole = has("[rabbitmq]") && has("[sources.");
    let keys = ["postgres.", "outbox.", "message.", "delivery.", "cleanup.", "backlog"];
    let first =
        block.text.lines().find(|line| !line.trim().is_empty() && !line.starts_with('#')).unwrap_or_default();
    let is_in_source = keys.iter().any(|key| first.trim_start_matches('#').starts_with(key));
    let text = if is_in_source { format!("[sources.orders]\n{}", block.text) } else { block.text.clone() };
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("outboxd.toml");
    fs::write(&file, text).unwrap();
    let environment = if is_whole { BTreeMap::new() } else { connections(block) };
    let Err(error) = settings::load_with(Some(&file), &environment) else { return Vec::new() };
    // Files that it names are not on this machine.
    let matters = |what: &str| {
        is_whole && !what.contains("cannot be read") || what == "unknown key" || what.contains("TOML")
    };
    let problems = error.problems.into_iter().filter(|problem| matters(&problem.what));
    problems.map(|problem| format!("{}: {}; {}", problem.key, problem.what, problem.cure)).collect()
}

/// What a part of a configuration leaves out.
fn connections(block: &Block) -> BTreeMap<String, String> {
    let headers = block.text.lines().filter_map(|line| line.strip_prefix("[sources.")?.strip_suffix(']'));
    let sources: Vec<&str> = headers.collect();
    let sources = if sources.is_empty() { vec!["orders"] } else { sources };
    let url = |source: &&str| {
        format!("{}SOURCES__{}__POSTGRES__URL", settings::ENVIRONMENT_PREFIX, source.to_uppercase())
    };
    let postgres = sources.iter().map(|source| (url(source), "postgresql://me@db/orders".to_owned()));
    let rabbitmq = (format!("{}RABBITMQ__URL", settings::ENVIRONMENT_PREFIX), "amqp://mq".to_owned());
    postgres.chain([rabbitmq]).collect()
}

/// Statements end with a semicolon, and what is opened is closed.
fn sql(text: &str) -> Vec<String> {
    let without_comments = text.lines().map(|line| line.split("--").next().unwrap_or_default());
    let text = without_comments.collect::<Vec<_>>().join("\n");
    let mut problems = Vec::new();
    let (mut depth, mut quoted) = (0_i32, None);
    for c in text.chars() {
        match (quoted, c) {
            (Some(mark), c) if mark == c => quoted = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quoted = Some(c),
            (None, '(') => depth += 1,
            (None, ')') => depth -= 1,
            (None, _) => {}
        }
    }
    if depth != 0 || quoted.is_some() {
        problems.push("this SQL opens what it does not close, or the other way round".to_owned());
    }
    let is_psql = |line: &str| line.starts_with('\\');
    let last = text.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    if !last.ends_with(';') && !is_psql(last) {
        problems.push("this SQL does not end with a semicolon".to_owned());
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::phrase::Phrase;

    fn of(text: &str) -> Vec<String> {
        let phrases = Phrases::new([Phrase::of_format("slot {slot} was dropped", &[])]);
        problems(&Page::parse("p.md", text), &phrases)
    }

    const WHOLE: &str =
        "[rabbitmq]\nurl = \"amqp://mq\"\n[sources.orders]\npostgres.url = \"postgresql://me@db/orders\"\n";

    #[test]
    fn blocks_that_hold_what_they_say_are_no_problem() {
        for text in [
            "```message\nslot <slot> was dropped\n\n```".to_owned(),
            format!("```toml\n{WHOLE}rabbitmq = 1\n```").replace("rabbitmq = 1\n", ""),
            "```toml\ndelivery.on_nack = \"park\"\n```".to_owned(),
            "```toml\n[[subscriptions]]\nqueue = \"q\"\n```".to_owned(),
            "```toml,other\nanything = 1\n```".to_owned(),
            "```sql\nSELECT f('(') -- (\nFROM t;\n```".to_owned(),
        ] {
            assert_eq!(of(&text), [""; 0], "{text}");
        }
    }

    #[test]
    fn blocks_that_do_not_are_noticed() {
        for (text, expected) in [
            (
                "```message\nslot <slot> was lost\n```".to_owned(),
                "p.md:2: no text of the code: slot <slot> was lost",
            ),
            (
                "```toml\ndelivery.on_nak = \"park\"\n```".to_owned(),
                "sources.orders.delivery.on_nak: unknown key",
            ),
            ("```toml\nqueue = = 1\n```".to_owned(), "TOML parse error"),
            (format!("```toml\n{WHOLE}delivery.on_nack = \"no\"\n```"), "\"no\" is unknown"),
            ("```sql\nSELECT 1\n```".to_owned(), "does not end with a semicolon"),
            ("```sql\nSELECT (1;\n```".to_owned(), "opens what it does not close"),
        ] {
            let found = of(&text);
            assert!(found.len() == 1 && found[0].contains(expected), "{text}: {found:?}");
        }
    }
}
