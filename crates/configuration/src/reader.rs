//! Reader of keys from a tree of values. Notes every problem, and refuses keys that nobody reads.
//!
//! A getter that reports a problem still returns a usable value if it can, so that one pass finds all problems.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use config::{Value, ValueKind};

use super::{Key, Kind, Origin, Origins, Problem, tree};
use diagnostics::nearest;

/// Problem and cure of a value, from its parser.
pub type Complaint = (String, String);

/// Result of reading: problems and known keys.
pub struct Report {
    file: Option<PathBuf>,
    prefix: &'static str,
    pub problems: Vec<Problem>,
    /// Every key that was read, by its pattern.
    pub known: BTreeMap<String, Key>,
}

impl Report {
    pub fn new(origins: &Origins<'_>) -> Self {
        let file = origins.file.map(Path::to_owned);
        Report { file, prefix: origins.prefix, problems: Vec::new(), known: BTreeMap::new() }
    }

    /// Returns the variable or file that holds a key, or would hold it.
    fn origin(&self, key_path: &str, from_environment: bool) -> Origin {
        match &self.file {
            Some(file) if !from_environment => Origin::File(file.clone()),
            _ => {
                let name = key_path.replace(['.', '['], "__").replace(']', "").to_uppercase();
                Origin::Variable(format!("{}{name}", self.prefix))
            }
        }
    }
}

/// Table of the configuration.
pub struct Section<'r> {
    report: &'r RefCell<Report>,
    /// Path of the table, each key followed by a dot: `sources.orders.`
    path: String,
    /// Path with placeholders for names that the user chooses: `sources.<source>.`
    pattern: String,
    values: BTreeMap<String, Value>,
    /// Keys whose values come from the environment.
    overridden: BTreeSet<String>,
    asked_for: Vec<String>,
}

impl<'r> Section<'r> {
    /// Returns the root table.
    pub fn root(report: &'r RefCell<Report>, values: BTreeMap<String, Value>) -> Self {
        Section::new(report, String::new(), String::new(), values)
    }

    fn new(
        report: &'r RefCell<Report>,
        path: String,
        pattern: String,
        values: BTreeMap<String, Value>,
    ) -> Self {
        let overridden = values.iter().filter(|(_, value)| tree::is_from_environment(value));
        let overridden = overridden.map(|(key, _)| key.clone()).collect();
        Section { report, path, pattern, values, overridden, asked_for: Vec::new() }
    }

    /// Notes a problem of `key`, with the file or variable that holds it.
    pub fn problem(&self, key: &str, what: impl Into<String>, cure: impl Into<String>) {
        let key_path = format!("{}{key}", self.path);
        let mut report = self.report.borrow_mut();
        let origin = report.origin(&key_path, self.overridden.contains(key));
        report.problems.push(Problem { origin, key: key_path, what: what.into(), cure: cure.into() });
    }

    /// Notes a problem of the table as a whole.
    pub fn complain(&self, what: impl Into<String>, cure: impl Into<String>) {
        let mut report = self.report.borrow_mut();
        let key = self.path.trim_end_matches('.').to_owned();
        let origin = report.origin(&key, false);
        report.problems.push(Problem { origin, key, what: what.into(), cure: cure.into() });
    }

    /// Tells whether the key is given and not read yet.
    pub fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// Tells whether the environment gives the key.
    pub(super) fn is_overridden(&self, key: &str) -> bool {
        self.overridden.contains(key)
    }

    /// Drops a value that another key overrides.
    pub(super) fn ignore(&mut self, key: &str) {
        self.values.remove(key);
    }

    /// Returns the keys that are given and not read yet.
    pub fn names(&self) -> Vec<String> {
        self.values.keys().cloned().collect()
    }

    pub(super) fn take(&mut self, key: &str, kind: Kind, default: Option<String>) -> Option<Value> {
        self.report.borrow_mut().known.insert(format!("{}{key}", self.pattern), Key { kind, default });
        self.asked_for.push(key.to_owned());
        self.values.remove(key)
    }

    /// Reads a table with known keys. A missing table is empty.
    pub fn section(&mut self, key: &str) -> Section<'r> {
        self.asked_for.push(key.to_owned());
        self.named_section(key, key)
    }

    /// Reads a table whose name the user chooses. `placeholder` stands for it in the list of known keys.
    pub fn named_section(&mut self, name: &str, placeholder: &str) -> Section<'r> {
        let values = match self.values.remove(name).map(|value| value.kind) {
            Some(ValueKind::Table(table)) => table.into_iter().collect(),
            None => BTreeMap::new(),
            Some(other) => {
                self.wrong_kind(name, "a table", &other);
                BTreeMap::new()
            }
        };
        let (path, pattern) = (format!("{}{name}.", self.path), format!("{}{placeholder}.", self.pattern));
        Section::new(self.report, path, pattern, values)
    }

    /// Reads an array of tables, such as `[[subscriptions]]`.
    pub fn sections(&mut self, key: &str) -> Vec<Section<'r>> {
        self.asked_for.push(key.to_owned());
        let items = match self.values.remove(key).map(|value| value.kind) {
            Some(ValueKind::Array(items)) => items.into_iter().enumerate().collect(),
            Some(ValueKind::Table(table)) if tree::is_numbered(&table) => tree::in_order(table),
            None => Vec::new(),
            Some(other) => {
                self.wrong_kind(key, "an array of tables", &other);
                Vec::new()
            }
        };
        let mut sections = Vec::new();
        for (i, item) in items {
            let name = format!("{key}[{i}]");
            match item.kind {
                ValueKind::Table(table) => sections.push(Section::new(
                    self.report,
                    format!("{}{name}.", self.path),
                    format!("{}{key}.", self.pattern),
                    table.into_iter().collect(),
                )),
                other => self.wrong_kind(&name, "a table", &other),
            }
        }
        sections
    }

    /// Reads a text, if the key is given.
    pub fn text(&mut self, key: &str) -> Option<String> {
        let value = self.take(key, Kind::Text, None)?;
        self.text_of(key, value)
    }

    /// Reads a text that is not empty, if the key is given.
    pub fn filled_text(&mut self, key: &str) -> Option<String> {
        let text = self.text(key)?;
        if text.is_empty() {
            self.problem(key, "is empty", "give it a value, or leave the key out");
            return None;
        }
        Some(text)
    }

    /// Reads a text and parses it. Without a default, `None` also means that the key is not given.
    pub fn parsed<T>(
        &mut self,
        key: &str,
        default: Option<&str>,
        parse: impl Fn(&str) -> Result<T, Complaint>,
    ) -> Option<T> {
        self.parsed_as(Kind::Text, key, default, parse)
    }

    fn parsed_as<T>(
        &mut self,
        kind: Kind,
        key: &str,
        default: Option<&str>,
        parse: impl Fn(&str) -> Result<T, Complaint>,
    ) -> Option<T> {
        let text = match self.take(key, kind, default.map(str::to_owned)) {
            Some(value) => self.text_of(key, value)?,
            None => default?.to_owned(),
        };
        parse(&text).map_err(|(what, cure)| self.problem(key, what, cure)).ok()
    }

    /// As [`Self::parsed`], for a key whose name the user chooses.
    pub fn named<T>(
        &mut self,
        name: &str,
        placeholder: &str,
        parse: impl Fn(&str) -> Result<T, Complaint>,
    ) -> Option<T> {
        let pattern = format!("{}{placeholder}", self.pattern);
        self.report.borrow_mut().known.insert(pattern, Key { kind: Kind::Text, default: None });
        let value = self.values.remove(name)?;
        let text = self.text_of(name, value)?;
        parse(&text).map_err(|(what, cure)| self.problem(name, what, cure)).ok()
    }

    /// Reads one of a few words. A word without a value belongs to the contract but not to this version.
    pub fn choice<T: Copy>(&mut self, key: &str, words: &[(&str, Option<T>)]) -> Option<T> {
        let (default, _) = words.first()?;
        let available = words.iter().filter(|(_, value)| value.is_some());
        let kind = Kind::Choice(available.map(|(word, _)| (*word).to_owned()).collect());
        self.parsed_as(kind, key, Some(default), |text| {
            let found = words.iter().find(|(word, _)| *word == text);
            if let Some((_, Some(value))) = found {
                return Ok(*value);
            }
            let available = words.iter().filter(|(_, value)| value.is_some());
            let available: Vec<String> = available.map(|(word, _)| format!("\"{word}\"")).collect();
            let what = match found {
                Some(_) => format!("\"{text}\" is not available in this version"),
                None => format!("\"{text}\" is unknown"),
            };
            Err((what, format!("set {}", available.join(" or "))))
        })
    }

    /// Reads `true` or `false`.
    pub fn flag(&mut self, key: &str, default: bool) -> bool {
        let Some(value) = self.take(key, Kind::Flag, Some(default.to_string())) else { return default };
        match value.kind {
            ValueKind::Boolean(flag) => return flag,
            ValueKind::String(text) if self.overridden.contains(key) => match text.parse() {
                Ok(flag) => return flag,
                Err(_) => self.problem(key, "is neither true nor false", "set true or false"),
            },
            other => self.wrong_kind(key, "true or false", &other),
        }
        default
    }

    /// Reads a whole number within `range`.
    pub fn number(&mut self, key: &str, range: RangeInclusive<u64>, default: u64) -> u64 {
        debug_assert!(range.contains(&default), "{key}");
        let kind = Kind::Number(range.clone());
        let Some(value) = self.take(key, kind, Some(default.to_string())) else { return default };
        let number = match value.kind {
            ValueKind::I64(number) => number,
            ValueKind::String(text) if self.overridden.contains(key) => match text.trim().parse() {
                Ok(number) => number,
                Err(_) => {
                    self.problem(
                        key,
                        "is not a whole number",
                        format!("set for instance {default}, the default"),
                    );
                    return default;
                }
            },
            other => {
                self.wrong_kind(key, "a whole number", &other);
                return default;
            }
        };
        match u64::try_from(number) {
            Ok(number) if range.contains(&number) => number,
            _ => {
                let (from, to) = range.into_inner();
                let what = format!("must be between {from} and {to}, is {number}");
                self.problem(key, what, format!("set for instance {default}, the default"));
                default
            }
        }
    }

    /// As [`Self::number`], for a count in memory.
    pub fn count(&mut self, key: &str, range: RangeInclusive<u64>, default: u64) -> usize {
        usize::try_from(self.number(key, range, default)).unwrap_or(usize::MAX)
    }

    /// Reads a duration whose key ends in `_ms`.
    pub fn milliseconds(&mut self, key: &str, range: RangeInclusive<u64>, default: u64) -> Duration {
        Duration::from_millis(self.number(key, range, default))
    }

    /// Reads a duration whose key ends in `_s`.
    pub fn seconds(&mut self, key: &str, range: RangeInclusive<u64>, default: u64) -> Duration {
        Duration::from_secs(self.number(key, range, default))
    }

    /// Reads a list of texts, separated by commas in the environment.
    pub fn texts(&mut self, key: &str) -> Option<Vec<String>> {
        match self.take(key, Kind::Texts, None)?.kind {
            ValueKind::Array(items) => items
                .into_iter()
                .enumerate()
                .map(|(i, item)| match item.kind {
                    ValueKind::String(text) => Some(text),
                    other => {
                        self.wrong_kind(&format!("{key}[{i}]"), "text", &other);
                        None
                    }
                })
                .collect(),
            ValueKind::String(text) if self.overridden.contains(key) => Some(
                text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect(),
            ),
            other => {
                self.wrong_kind(key, "a list of texts", &other);
                None
            }
        }
    }

    /// Notes a problem for every key that was not read.
    pub fn finish(self) {
        for key in self.values.keys() {
            let known = self.asked_for.iter().map(|known| &**known);
            let cure = match nearest(key, known) {
                Some(near) => format!("did you mean {near}?"),
                None => {
                    let mut known: Vec<&str> = self.asked_for.iter().map(|known| &**known).collect();
                    known.sort_unstable();
                    known.dedup();
                    format!("valid here are {}", known.join(", "))
                }
            };
            self.problem(key, "unknown key", cure);
        }
    }

    fn text_of(&self, key: &str, value: Value) -> Option<String> {
        match value.kind {
            ValueKind::String(text) => Some(text),
            other => {
                self.wrong_kind(key, "text", &other);
                None
            }
        }
    }

    /// Notes a value of the wrong type. Names only types, because the value may be a secret.
    pub(super) fn wrong_kind(&self, key: &str, wanted: &str, found: &ValueKind) {
        let found = match found {
            ValueKind::Nil => "nothing",
            ValueKind::Boolean(_) => "true or false",
            ValueKind::I64(_) | ValueKind::I128(_) | ValueKind::U64(_) | ValueKind::U128(_) => {
                "a whole number"
            }
            ValueKind::Float(_) => "a fraction",
            ValueKind::String(_) => "text",
            ValueKind::Table(_) => "a table",
            ValueKind::Array(_) => "a list",
        };
        self.problem(key, format!("must be {wanted}, is {found}"), format!("write {wanted}"));
    }
}
