//! Names in backticks are names of this version: keys, metrics, commands, states, tests, files and identifiers.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use clap::Command;
use configuration::{
    Kind,
    documentation::{DocumentedKey, matches},
};

use crate::{
    markdown::{Page, Part},
    phrase::Phrases,
};

/// What the code has.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// Keys of outboxd, by pattern, with their kind.
    pub(crate) keys: BTreeMap<String, Kind>,
    pub(crate) metrics: BTreeSet<String>,
    pub(crate) states: BTreeSet<String>,
    pub(crate) exit_statuses: BTreeSet<u8>,
    pub(crate) command: Command,
    /// The tests of each source.
    pub(crate) tests: BTreeMap<PathBuf, BTreeSet<String>>,
    /// Every word of sources and configuration files, comments apart.
    pub(crate) words: BTreeSet<String>,
    pub(crate) files: BTreeSet<PathBuf>,
    /// Every text for operators, as it is shown.
    pub(crate) said: Vec<String>,
    pub(crate) phrases: Phrases,
}

/// The page that leads from what an operator sees to what there is to do: its tables quote parts of texts in their first column.
const INDEX: &str = "docs/operate/README.md";

/// Names of other programs, which no source of ours has: settings, columns and views of PostgreSQL, keys and commands of RabbitMQ,
/// of systemd, Kubernetes and Prometheus.
const FOREIGN: &[&str] = &["messages_unacknowledged", "pg_upgrade", "session_replication_role"];

/// Placeholders of a command line.
fn is_placeholder(token: &str) -> bool {
    token.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || "_/<>.…".contains(c))
        || token.starts_with('<')
}

impl Names {
    /// Adds the keys of a documented file.
    pub(crate) fn keys<'a>(&mut self, keys: impl Iterator<Item = &'a DocumentedKey>) {
        self.keys.extend(keys.map(|key| (key.pattern.clone(), key.key.kind.clone())));
    }

    /// Every name of a page that the code does not have.
    pub(crate) fn problems(&self, page: &Page) -> Vec<String> {
        let mut problems = Vec::new();
        let mut note =
            |line: usize, what: String| problems.push(format!("{}:{line}: {what}", page.path.display()));
        for span in &page.spans {
            for what in self.span(&span.text) {
                note(span.line, what);
            }
            if page.path == Path::new(INDEX)
                && span.is_in_first_cell
                && span.text.contains(' ')
                && !self.is_said(&span.text)
            {
                note(span.line, format!("no text of the code has: {}", span.text));
            }
        }
        for Part { line, text } in &page.prose {
            for what in self.prose(text, &page.spans_of(*line)) {
                note(*line, what);
            }
        }
        for block in &page.blocks {
            for (number, line) in block.text.lines().enumerate() {
                let mut what = Vec::new();
                if ["sh", "bash", "console", "shell"].contains(&&*block.language) {
                    what.extend(commands_of(line).filter_map(|command| self.command(command)));
                }
                if !["message", "text", ""].contains(&&*block.language) {
                    what.extend(self.own_names(line));
                }
                what.extend(self.variables(line));
                what.into_iter().for_each(|what| note(block.line + 1 + number, what));
            }
        }
        problems
    }

    fn span(&self, span: &str) -> Vec<String> {
        let mut problems = self.own_names(span);
        problems.extend(self.variables(span));
        let words: Vec<&str> = span.split(' ').collect();
        if words.len() > 1 && words[0] == "outboxd" && !self.is_said(span) {
            problems.extend(self.command(span));
        }
        problems.extend(self.assignment(span));
        if words.len() == 1 {
            problems.extend(self.dotted(span));
            problems.extend(self.path(span).or_else(|| self.identifier(span)));
        }
        problems
    }

    /// Names that begin with `outboxd_`: metrics, tables, and the names of examples.
    fn own_names(&self, text: &str) -> Vec<String> {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        // A digit begins the version in the name of a package.
        let own = words.filter(|word| {
            word.strip_prefix("outboxd_").is_some_and(|rest| rest.starts_with(|c: char| !c.is_ascii_digit()))
                && !word.ends_with('_')
        });
        let unknown = own.filter(|word| {
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| word.strip_suffix(suffix));
            !self.metrics.contains(*word)
                && !family.is_some_and(|family| self.metrics.contains(family))
                && !self.words.contains(*word)
        });
        unknown.map(|word| format!("{word} is neither a metric nor another name of outboxd's")).collect()
    }

    /// Variables of the environment that stand for keys.
    fn variables(&self, text: &str) -> Vec<String> {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let keys = words.filter_map(|word| Some((word, word.strip_prefix("OUTBOXD__")?)));
        let unknown = keys.filter(|(_, key)| {
            let key = key.to_lowercase().replace("__", ".");
            // The number of a table of an array.
            let key: Vec<&str> = key.split('.').filter(|part| part.parse::<u32>().is_err()).collect();
            let is_any = key.concat().is_empty() || key == ["section", "key"];
            !is_any && !self.is_key(&key.join("."))
        });
        unknown.map(|(word, _)| format!("{word} stands for no key")).collect()
    }

    /// Whether a text for operators has these words; `...` and `<...>` stand for what varies.
    fn is_said(&self, part: &str) -> bool {
        let mut words = String::new();
        let mut rest = part;
        while let Some((before, after)) = rest.split_once('<') {
            words.push_str(before);
            words.push_str("...");
            rest = after.split_once('>').map_or("", |(_, after)| after);
        }
        words.push_str(rest);
        let pieces: Vec<&str> = words.split("...").map(str::trim).filter(|piece| !piece.is_empty()).collect();
        let has = |said: &String| {
            let mut rest = &**said;
            pieces.iter().all(|piece| match rest.split_once(piece) {
                Some((_, after)) => {
                    rest = after;
                    true
                }
                None => false,
            })
        };
        !pieces.is_empty() && self.said.iter().any(has) || self.phrases.know(&format!("{part} <...>"))
    }

    fn is_key(&self, key: &str) -> bool {
        self.kind(key).is_some()
    }

    /// The kind of a key, given from the root or, for those of a source, from there.
    fn kind(&self, key: &str) -> Option<&Kind> {
        let of_source = format!("sources.<source>.{key}");
        let known = |(pattern, _): &(&String, &Kind)| matches(pattern, key) || matches(pattern, &of_source);
        self.keys.iter().find(known).map(|(_, kind)| kind)
    }

    /// Whether keys begin so.
    fn is_section(&self, name: &str) -> bool {
        let begins = |pattern: &str, name: &str| {
            let parts = name.split('.').count();
            let head: Vec<&str> = pattern.split('.').take(parts).collect();
            pattern.split('.').count() > parts && matches(&head.join("."), name)
        };
        let of_source = format!("sources.<source>.{name}");
        self.keys.keys().any(|pattern| begins(pattern, name) || begins(pattern, &of_source))
    }

    /// `delivery.on_nack` and the like; `[[exchanges]]`.
    fn dotted(&self, span: &str) -> Option<String> {
        if span.starts_with('[') && span.ends_with(']') {
            let name = span.trim_matches(['[', ']']);
            let is_name =
                !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-<>".contains(c));
            return (is_name && name != "table" && !self.is_section(name))
                .then(|| format!("{span} is no table of the configuration"));
        }
        let (first, rest) = span.split_once('.')?;
        let is_name = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "_.<>-*".contains(c));
        let is_file = [
            "conf", "rs", "toml", "md", "sh", "sql", "yaml", "yml", "json", "service", "log", "events",
            "dead",
        ]
        .contains(&rest.rsplit('.').next().unwrap_or_default());
        let begins_a_key = self.is_section(first);
        if !begins_a_key || is_file || rest.is_empty() || !is_name(rest) {
            return None;
        }
        let key = span.trim_end_matches(".*");
        let known = self.is_key(key) || self.is_section(key);
        (!known).then(|| format!("{span} is no key of the configuration"))
    }

    /// `delivery.on_nack = "park"`: the key is there, and takes the word.
    fn assignment(&self, span: &str) -> Option<String> {
        let (key, value) = span.split_once(" = ")?;
        let is_key = !key.is_empty()
            && key.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_.".contains(c));
        let text = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
        if !is_key {
            return None;
        }
        let suffix = format!(".{key}");
        let kinds: Vec<&Kind> = match self.kind(key) {
            Some(kind) => vec![kind],
            None => self
                .keys
                .iter()
                .filter(|(pattern, _)| pattern.ends_with(&suffix))
                .map(|(_, kind)| kind)
                .collect(),
        };
        let Some(text) = text else {
            // Settings of PostgreSQL are written like this, too.
            return (key.contains('.') && kinds.is_empty() && self.is_section(key.split('.').next()?))
                .then(|| format!("{key} is no key of the configuration"));
        };
        let takes = |kind: &Kind| {
            if let Kind::Choice(words) = kind { words.iter().any(|word| word == text) } else { true }
        };
        match kinds.is_empty() {
            true => Some(format!("{key} is no key of the configuration")),
            false if kinds.iter().any(|kind| takes(kind)) => None,
            false => Some(format!("{key} does not take \"{text}\"")),
        }
    }

    /// `outboxd check --offline`, `outboxd parked list|requeue`.
    pub(crate) fn command(&self, line: &str) -> Option<String> {
        let mut command = &self.command;
        let mut tokens =
            line.split_whitespace().skip(1).map(|token| token.trim_matches(['[', ']', '"', '\'']));
        while let Some(token) = tokens.next() {
            if ["|", "||", "&&", ";", ">", ">>", "2>", "2>>", "<", "#", "&", "\\"].contains(&token) {
                break;
            }
            if let Some(flag) = token.strip_prefix("--") {
                let name = flag.split(['=', '[']).next().unwrap_or_default();
                let arguments = command
                    .get_arguments()
                    .chain(self.command.get_arguments().filter(|argument| argument.is_global_set()));
                let argument = arguments.into_iter().find(|argument| argument.get_long() == Some(name));
                match argument {
                    _ if name == "help" || name == "version" => {}
                    Some(argument) if argument.get_action().takes_values() && !flag.contains('=') => {
                        let values = argument.get_num_args().map_or(1, |range| range.min_values());
                        tokens.by_ref().take(values.max(1)).for_each(drop);
                    }
                    Some(_) => {}
                    None => return Some(format!("`outboxd {}` has no --{name}", command.get_name())),
                }
                continue;
            }
            if is_placeholder(token) || token.is_empty() || token.starts_with('-') || token.starts_with('$') {
                continue;
            }
            let has_commands = command.get_subcommands().next().is_some();
            if has_commands && token != "help" {
                let words: Vec<&str> = token.split('|').collect();
                let found =
                    words.iter().map(|word| command.find_subcommand(word)).collect::<Option<Vec<_>>>();
                match found {
                    Some(found) if found.len() == 1 => command = found[0],
                    Some(_) => break,
                    None => return Some(format!("`outboxd` has no command {token}")),
                }
            } else if command.get_positionals().next().is_none() && token != "help" {
                return Some(format!("`outboxd {}` takes no {token}", command.get_name()));
            }
        }
        None
    }

    /// `src/relay/mod.rs`, `relay/mod.rs`, `tests/it/`.
    fn path(&self, span: &str) -> Option<String> {
        let is_path = span.chars().all(|c| c.is_ascii_alphanumeric() || "_./-*".contains(c));
        let (first, _) = span.split_once('/').unwrap_or((span, ""));
        let is_ours =
            span.contains('/') && self.files.iter().any(|file| file.starts_with(first)) && !first.is_empty();
        let is_source = span.ends_with(".rs");
        if !is_path || !(is_ours || is_source) || first == "target" {
            return None;
        }
        let path = span.trim_end_matches('*').trim_end_matches('/');
        let known = self.files.iter().any(|file| file.starts_with(path) || is_source && file.ends_with(path));
        (!known).then(|| format!("there is no {span}"))
    }

    /// `nodes::a_test_name`, `a_function`.
    fn identifier(&self, span: &str) -> Option<String> {
        let name = span.trim_end_matches("()").trim_end_matches("::*");
        let is_name = |name: &str| {
            !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        };
        let parts: Vec<&str> = name.split("::").collect();
        if !parts.iter().all(|part| is_name(part)) || name.starts_with("outboxd_") {
            return None;
        }
        match &*parts {
            [one] if one.contains('_') => {
                let known = self.words.contains(*one) || FOREIGN.contains(one);
                (!known).then(|| format!("{one} is no name of the code"))
            }
            [.., file, test] if test.matches('_').count() > 1 => {
                let has = |(path, tests): (&PathBuf, &BTreeSet<String>)| {
                    tests.contains(*test)
                        && path.with_extension("").components().any(|part| part.as_os_str() == *file)
                };
                let known = self.tests.iter().any(has);
                (!known).then(|| format!("{file} has no test {test}"))
            }
            [file] if span.ends_with("::*") => {
                let has = |(path, tests): (&PathBuf, &BTreeSet<String>)| {
                    !tests.is_empty()
                        && path.with_extension("").components().any(|part| part.as_os_str() == *file)
                };
                (!self.tests.iter().any(has)).then(|| format!("{file} has no tests"))
            }
            _ => None,
        }
    }

    /// Exit statuses, and states that a sentence calls so.
    fn prose(&self, prose: &str, spans: &[&str]) -> Vec<String> {
        let mut problems = Vec::new();
        let words: Vec<&str> = prose
            .split_whitespace()
            .map(|word| word.trim_matches(|c: char| ",.;:()\"".contains(c)))
            .collect();
        let mut spans = spans.iter();
        for (at, word) in words.iter().enumerate() {
            let before =
                |n: usize| at.checked_sub(n).and_then(|at| words.get(at)).copied().unwrap_or_default();
            let span = word.contains('\u{1}').then(|| spans.next().copied()).flatten();
            let exits = |word: &str| ["exit", "exits", "exited"].contains(&word);
            let is_status = exits(before(1))
                || ["status", "code", "with"].contains(&before(1))
                    && (exits(before(2)) || exits(before(3)) && !before(2).is_empty());
            let number = span.unwrap_or(word).parse::<u8>().ok();
            if let Some(number) = number.filter(|_| is_status)
                && !self.exit_statuses.contains(&number)
            {
                problems.push(format!("outboxd does not exit with {number}"));
            }
            let Some(span) = span else { continue };
            let is_word = span.chars().all(|c| c.is_ascii_lowercase());
            if before(1) == "state" && is_word && !self.states.contains(span) {
                problems.push(format!("a source has no state {span}"));
            }
        }
        problems
    }
}

/// The calls of outboxd in a line of a shell.
fn commands_of(line: &str) -> impl Iterator<Item = &str> {
    let segments = line.split("&&").flat_map(|part| part.split(['|', ';', '(']));
    segments.filter_map(|segment| {
        let mut rest = segment.trim().trim_start_matches("$ ");
        loop {
            let (first, after) = rest.split_once(' ').unwrap_or((rest, ""));
            if first == "outboxd" || first.ends_with("/outboxd") {
                return Some(rest);
            }
            let is_before = ["sudo", "env", "exec", "-E", "nohup"].contains(&first) || first.contains('=');
            if !is_before || after.is_empty() {
                return None;
            }
            rest = after.trim_start();
        }
    })
}

impl Page {
    /// The code spans of the paragraph that begins in this line, in order.
    fn spans_of(&self, line: usize) -> Vec<&str> {
        let next =
            self.prose.iter().map(|part| part.line).filter(|begin| *begin > line).min().unwrap_or(usize::MAX);
        let inside = self.spans.iter().filter(|span| (line..next).contains(&span.line));
        inside.map(|span| span.text.as_str()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::phrase::Phrase;
    use clap::CommandFactory;
    use outboxd::cli::Cli;

    fn names() -> Names {
        let choice = Kind::Choice(vec!["wait".to_owned(), "park".to_owned()]);
        let keys = [
            ("drain_timeout_s", Kind::Number(1..=9)),
            ("sources.<source>.delivery.on_nack", choice),
            ("sources.<source>.outbox.columns.id", Kind::Text),
            ("subscriptions.queue", Kind::Text),
        ];
        let strings = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<BTreeSet<_>>();
        Names {
            keys: keys.map(|(key, kind)| (key.to_owned(), kind)).into(),
            metrics: strings(&["outboxd_lag_bytes", "outboxd_commit_to_confirm_seconds"]),
            states: strings(&["halted", "standby"]),
            exit_statuses: [0, 1, 78].into(),
            command: Cli::command(),
            tests: [("tests/it/nodes.rs".into(), strings(&["a_node_that_falls"]))].into(),
            words: strings(&["outboxd_parked", "wal_level", "a_node_that_falls", "drain_timeout_s"]),
            files: ["src/relay/mod.rs".into(), "tests/it/nodes.rs".into()].into(),
            said: vec!["outboxd reads <rows> in one transaction".to_owned()],
            phrases: Phrases::new([Phrase::of_format("{name} is not heard: {why}", &[])]),
        }
    }

    #[test]
    fn the_index_quotes_texts_of_the_code() {
        let of = |text: &str| names().problems(&Page::parse(INDEX, text));
        assert_eq!(of("| `outboxd reads ... in one`, `SIGHUP is not heard` | `no text at all` |"), [""; 0]);
        let expected = ["docs/operate/README.md:1: no text of the code has: outboxd writes"];
        assert_eq!(of("| see `outboxd reads`, `rows`, `outboxd writes` | do |")[1..], expected);
    }

    fn problems(text: &str) -> Vec<String> {
        names().problems(&Page::parse("p.md", text))
    }

    #[test]
    fn what_the_code_has_is_no_problem() {
        for text in [
            "`drain_timeout_s`, `delivery.on_nack`, `sources.NAME.delivery.on_nack`, `outbox.columns`, `[sources.orders]`, `[[subscriptions]]`",
            "`delivery.on_nack = \"park\"` and `on_nack = \"wait\"`, `wal_level = logical`",
            "`outboxd_lag_bytes`, `outboxd_commit_to_confirm_seconds_bucket{source=\"orders\"}`, `outboxd_parked`, `outboxd_<source>`, `./outboxd_0.2.0-1_amd64.deb`",
            "`outboxd check --offline`, `outboxd parked list|requeue`, `outboxd --config FILE replay --source NAME --since 1h`",
            "`outboxd setup --unbind EXCHANGE QUEUE KEY`, `outboxd check [--offline]`, `outboxd help run`",
            "`tests/it/nodes.rs`, `relay/mod.rs`, `tests/it`, `nodes::a_node_that_falls`, `nodes::*`, `a_node_that_falls`",
            "exits with 78, exit status 1, exit code `0`, and the state `halted` is one",
            "```sh\nsudo -E /usr/bin/true; A=b outboxd check --offline | grep x\nexport OUTBOXD__SUBSCRIPTIONS__0__QUEUE=x\n```",
        ] {
            assert_eq!(problems(text), [""; 0], "{text}");
        }
    }

    #[test]
    fn what_the_code_does_not_have_is_noticed() {
        for (text, expected) in [
            ("`delivery.on_nak`", "delivery.on_nak is no key of the configuration"),
            ("`[source.orders]`", "[source.orders] is no table of the configuration"),
            ("`delivery.on_nack = \"drop\"`", "delivery.on_nack does not take \"drop\""),
            ("`on_nak = \"wait\"`", "on_nak is no key of the configuration"),
            ("`delivery.in_flight = 5`", "delivery.in_flight is no key of the configuration"),
            ("`outboxd_lags_bytes`", "outboxd_lags_bytes is neither a metric nor another name of outboxd's"),
            (
                "```promql\nrate(outboxd_gone_total[5m])\n```",
                "outboxd_gone_total is neither a metric nor another name of outboxd's",
            ),
            ("`outboxd chek`", "`outboxd` has no command chek"),
            ("`outboxd check --ofline`", "`outboxd check` has no --ofline"),
            ("`outboxd check twice`", "`outboxd check` takes no twice"),
            ("`outboxd parked list|restore`", "`outboxd` has no command list|restore"),
            ("```sh\noutboxd teardwn --source a\n```", "`outboxd` has no command teardwn"),
            ("`OUTBOXD__SUBSCRIPTIONS__0__QUEU`", "OUTBOXD__SUBSCRIPTIONS__0__QUEU stands for no key"),
            ("`src/relay/gone.rs`", "there is no src/relay/gone.rs"),
            ("`relay/gone.rs`", "there is no relay/gone.rs"),
            ("`nodes::a_node_that_rises`", "nodes has no test a_node_that_rises"),
            ("`other::a_node_that_falls`", "other has no test a_node_that_falls"),
            ("`other::*`", "other has no tests"),
            ("`a_node_that_rises`", "a_node_that_rises is no name of the code"),
            ("it exits with 77", "outboxd does not exit with 77"),
            ("an exit status `3`", "outboxd does not exit with 3"),
            ("in the state `stopped` now", "a source has no state stopped"),
        ] {
            let found = problems(text);
            assert!(found.len() == 1 && found[0].ends_with(expected), "{text}: {found:?}");
        }
    }
}
