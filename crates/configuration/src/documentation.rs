//! Comparison of a documented configuration file with the code that reads it.

#![allow(clippy::unwrap_used)]

use std::{cell::RefCell, collections::BTreeMap};

use config::{Value, ValueKind};

use super::{Origins, reader::Report, reader::Section, tree};

/// Panics unless `file` documents exactly the keys that `take` reads, with their defaults. A line that begins with
/// '#' and no space is a setting, too. Returns the number of keys.
pub fn check<T>(file: &str, take: impl Fn(Section<'_>) -> Option<T>) -> usize {
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
    for (pattern, default) in &known {
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
    known.len()
}

/// Returns the documented value of a pattern such as `sources.<source>.postgres.slot`, at the first name that fits.
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
