//! `config/outboxd.toml` documents what the code does.

#![allow(clippy::unwrap_used)]

use super::*;
use config::ValueKind;

const FILE: &str = include_str!("../../config/outboxd.toml");

/// The file with everything switched on that stands behind a '#' without a space.
fn uncommented() -> String {
    let line = |line: &'static str| match line.strip_prefix('#') {
        Some(setting) if setting.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => setting,
        _ => line,
    };
    FILE.lines().map(line).collect::<Vec<_>>().join("\n")
}

fn tree(text: &str) -> BTreeMap<String, config::Value> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    tree::read(file.path(), &BTreeMap::new()).unwrap()
}

/// What the file says at a pattern such as `sources.<source>.postgres.slot`.
fn at(values: &BTreeMap<String, config::Value>, pattern: &str) -> Option<ValueKind> {
    let root = values.clone().into_iter().collect();
    let mut kind = ValueKind::Table(root);
    for key in pattern.split('.') {
        let key = match key {
            "<source>" => "orders",
            "<header>" => "tenant",
            key => key,
        };
        if let ValueKind::Array(items) = kind {
            kind = items.into_iter().next()?.kind;
        }
        let ValueKind::Table(mut table) = kind else { return None };
        kind = table.remove(key)?.kind;
    }
    Some(kind)
}

fn known() -> BTreeMap<String, Option<String>> {
    let report = RefCell::new(Report::new(Path::new("outboxd.toml")));
    let _ = settings(Section::root(&report, tree(&uncommented())));
    report.into_inner().known
}

#[test]
fn every_key_is_documented_with_its_default() {
    let values = tree(&uncommented());
    let known = known();
    assert!(known.len() > 50, "only {} keys", known.len());
    for (pattern, default) in known {
        let documented =
            at(&values, &pattern).unwrap_or_else(|| panic!("{pattern} is not in config/outboxd.toml"));
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
            assert_eq!(documented, default, "{pattern}");
        }
    }
}

#[test]
fn the_file_mentions_no_key_that_does_not_exist() {
    let report = RefCell::new(Report::new(Path::new("outboxd.toml")));
    let _ = settings(Section::root(&report, tree(&uncommented())));
    let problems = report.into_inner().problems;
    let unknown: Vec<_> = problems.iter().filter(|problem| problem.what == "unknown key").collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}
