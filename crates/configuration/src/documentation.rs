//! Holds a documented configuration file and the code that reads it together.

#![allow(clippy::unwrap_used)]

use std::{cell::RefCell, collections::BTreeMap, mem};

use config::{Value, ValueKind};

use super::{Key, Origins, reader::Report, reader::Section, tree};

/// A documented file: its comments, with the definitions of the keys below them.
#[derive(Debug)]
pub struct Documentation {
    /// Paragraphs of the comment that begins the file.
    pub introduction: Vec<Paragraph>,
    /// The tables, in the order of the file.
    pub sections: Vec<Documented>,
}

/// One table of a documented file.
#[derive(Debug)]
pub struct Documented {
    /// Line that begins it, such as `[rabbitmq]`; empty for keys outside of any table.
    pub header: String,
    /// Paragraphs of the comment above that line.
    pub comment: Vec<Paragraph>,
    /// Its keys, in the order of the file.
    pub keys: Vec<DocumentedKey>,
}

/// One key of a documented file.
#[derive(Debug)]
pub struct DocumentedKey {
    /// Key from the root, with a placeholder for what the user names: `sources.<source>.postgres.slot`.
    pub pattern: String,
    /// Definition, from the code.
    pub key: Key,
    /// Value that the file shows, as TOML.
    pub shown: String,
    /// The file sets the key, as nothing works without.
    pub is_required: bool,
    /// Paragraphs of the comment above the key; empty where the comment above an earlier key is about this one, too.
    pub comment: Vec<Paragraph>,
}

impl Documentation {
    /// All keys, in the order of the file.
    pub fn keys(&self) -> impl Iterator<Item = &DocumentedKey> {
        self.sections.iter().flat_map(|section| &section.keys)
    }
}

/// Part of a comment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Paragraph {
    /// Running text, on one line.
    Text(String),
    /// An example, which the file indents.
    Example(String),
}

/// Reads a documented file together with the code that reads its keys. Panics unless `file` documents exactly the keys that `take`
/// reads, with their defaults. A line that begins with '#' and no space is a setting, too.
pub fn read<T>(file: &str, take: impl Fn(Section<'_>) -> Option<T>) -> Documentation {
    let known = known(file, take);
    let mut introduction = None;
    let mut sections = vec![Documented { header: String::new(), comment: Vec::new(), keys: Vec::new() }];
    let mut comment = Vec::new();
    for line in file.lines() {
        if let Some(text) = line.strip_prefix("# ").or((line == "#").then_some("")) {
            comment.push(text);
            continue;
        }
        let above = paragraphs(&mem::take(&mut comment));
        if line.is_empty() {
            introduction.get_or_insert(above);
            continue;
        }
        let setting = line.strip_prefix('#').unwrap_or(line);
        if setting.starts_with('[') {
            sections.push(Documented { header: setting.to_owned(), comment: above, keys: Vec::new() });
            continue;
        }
        let section = sections.last_mut().unwrap();
        let (name, shown) =
            setting.split_once(" = ").unwrap_or_else(|| panic!("neither comment nor key: {line}"));
        let path = [section.header.trim_matches(['[', ']']), name].join(".");
        let path = path.trim_start_matches('.');
        let (pattern, key) = known
            .iter()
            .find(|(pattern, _)| matches(pattern, path))
            .unwrap_or_else(|| panic!("{path} is no key"));
        section.keys.push(DocumentedKey {
            pattern: pattern.clone(),
            key: key.clone(),
            shown: shown.to_owned(),
            is_required: line == setting,
            comment: above,
        });
    }
    let listed: usize = sections.iter().map(|section| section.keys.len()).sum();
    assert_eq!(listed, known.len(), "a key is shown twice");
    sections.retain(|section| !section.keys.is_empty());
    Documentation { introduction: introduction.unwrap_or_default(), sections }
}

/// Every key that `take` asks for, by its pattern.
fn known<T>(file: &str, take: impl Fn(Section<'_>) -> Option<T>) -> BTreeMap<String, Key> {
    let setting = |line: &str| line.starts_with(|c: char| c.is_ascii_lowercase() || c == '[');
    let uncommented: Vec<&str> = file
        .lines()
        .map(|line| line.strip_prefix('#').filter(|line| setting(line)).unwrap_or(line))
        .collect();
    let written = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(written.path(), uncommented.join("\n")).unwrap();
    let environment = BTreeMap::new();
    let origins = Origins { file: Some(written.path()), prefix: "", environment: &environment };

    let values = tree::read(&origins).unwrap();
    let report = RefCell::new(Report::new(&origins));
    let _ = take(Section::root(&report, values.clone()));
    let Report { problems, known, .. } = report.into_inner();
    let unknown: Vec<_> = problems.iter().filter(|problem| problem.what == "unknown key").collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    for (pattern, Key { default, .. }) in &known {
        let documented = at(&values, pattern).unwrap_or_else(|| panic!("{pattern} is not documented"));
        let documented = match documented {
            ValueKind::String(text) => text,
            ValueKind::I64(number) => number.to_string(),
            ValueKind::Boolean(flag) => flag.to_string(),
            other => {
                assert!(default.is_none(), "{pattern}: {other}");
                continue;
            }
        };
        if let Some(default) = default {
            assert_eq!(&documented, default, "{pattern}");
        }
    }
    known
}

/// What the file says at a pattern such as `sources.<source>.postgres.slot`; the first of what the user names will do.
fn at(values: &BTreeMap<String, Value>, pattern: &str) -> Option<ValueKind> {
    let mut kind = ValueKind::Table(values.clone().into_iter().collect());
    for key in pattern.split('.') {
        if let ValueKind::Array(items) = kind {
            kind = items.into_iter().next()?.kind;
        }
        let ValueKind::Table(mut table) = kind else { return None };
        kind = match key.starts_with('<') {
            true => table.into_values().next()?.kind,
            false => table.remove(key)?.kind,
        };
    }
    Some(kind)
}

/// Tells whether a key of a file is the one that a pattern stands for.
pub fn matches(pattern: &str, path: &str) -> bool {
    let (mut pattern, mut path) = (pattern.split('.'), path.split('.'));
    loop {
        match (pattern.next(), path.next()) {
            (None, None) => return true,
            (Some(part), Some(name)) if part.starts_with('<') || part == name => {}
            _ => return false,
        }
    }
}

fn paragraphs(lines: &[&str]) -> Vec<Paragraph> {
    let mut paragraphs = Vec::new();
    let mut begins = true;
    for line in lines {
        match (line.strip_prefix("  "), paragraphs.last_mut()) {
            _ if line.is_empty() => begins = true,
            (Some(example), Some(Paragraph::Example(text))) if !begins => {
                text.push('\n');
                text.push_str(example);
            }
            (Some(example), _) => {
                paragraphs.push(Paragraph::Example(example.to_owned()));
                begins = false;
            }
            (None, Some(Paragraph::Text(text))) if !begins => {
                text.push(' ');
                text.push_str(line);
            }
            (None, _) => {
                paragraphs.push(Paragraph::Text((*line).to_owned()));
                begins = false;
            }
        }
    }
    paragraphs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    const FILE: &str = "# A file.\n#\n#   A=1\n#   B=2\n\n# How long.\n# 1 to 9.\n#wait_s = 3\n\n# Where.\n[there]\nurl = \"u\"\n";

    fn take(mut root: Section<'_>) -> Option<()> {
        root.seconds("wait_s", 1..=9, 3);
        let mut there = root.section("there");
        there.text("url");
        there.finish();
        root.finish();
        Some(())
    }

    #[test]
    fn comments_and_definitions_come_together() {
        let documentation = read(FILE, take);
        let text = |text: &str| Paragraph::Text(text.to_owned());
        assert_eq!(documentation.introduction, [text("A file."), Paragraph::Example("A=1\nB=2".to_owned())]);
        let [root, there] = &*documentation.sections else { panic!("{documentation:?}") };
        assert_eq!((&*root.header, &*there.header), ("", "[there]"));
        assert_eq!(there.comment, [text("Where.")]);
        let (wait, url) = (&root.keys[0], &there.keys[0]);
        assert_eq!((&*wait.pattern, &*url.pattern), ("wait_s", "there.url"));
        assert_eq!(wait.key, Key { kind: Kind::Number(1..=9), default: Some("3".to_owned()) });
        assert_eq!(wait.comment, [text("How long. 1 to 9.")]);
        assert!(!wait.is_required && url.is_required);
    }

    #[test]
    #[should_panic(expected = "wait_s is not documented")]
    fn a_key_that_the_file_does_not_show_is_noticed() {
        read(&FILE.replace("#wait_s = 3", "#"), take);
    }

    #[test]
    #[should_panic(expected = "left: \"4\"")]
    fn another_default_than_that_of_the_code_is_noticed() {
        read(&FILE.replace("wait_s = 3", "wait_s = 4"), take);
    }

    #[test]
    #[should_panic(expected = "unknown key")]
    fn a_key_that_the_code_does_not_know_is_noticed() {
        read(&FILE.replace("url = ", "uri = "), take);
    }
}
