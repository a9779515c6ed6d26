//! The reference leaves nothing out: every metric, state, exit status, command, flag and endpoint has its page.

use crate::{markdown::Page, names::Names};

/// A page of the reference, and what it has to name.
fn wanted(names: &Names, endpoints: &[String], fields: &[String]) -> Vec<(&'static str, Vec<String>)> {
    let mut commands = Vec::new();
    let mut flags = Vec::new();
    let mut left: Vec<(String, &clap::Command)> = vec![("outboxd".to_owned(), &names.command)];
    while let Some((name, command)) = left.pop() {
        flags.extend(
            command
                .get_arguments()
                .filter_map(|argument| argument.get_long())
                .map(|flag| format!("--{flag}")),
        );
        let below: Vec<_> = command.get_subcommands().filter(|below| below.get_name() != "help").collect();
        if below.is_empty() {
            commands.push(name.clone());
        }
        left.extend(below.into_iter().map(|below| (format!("{name} {}", below.get_name()), below)));
    }
    let of_outboxd =
        names.metrics.iter().filter(|name| name.starts_with("outboxd_") || name.starts_with("process_"));
    flags.retain(|flag| flag != "--help" && flag != "--version");
    vec![
        ("docs/reference/metrics.md", of_outboxd.cloned().collect()),
        ("docs/reference/states.md", names.states.iter().cloned().collect()),
        ("docs/reference/exit-codes.md", names.exit_statuses.iter().map(u8::to_string).collect()),
        ("docs/reference/cli.md", [commands, flags].concat()),
        ("docs/reference/http.md", [endpoints, fields].concat()),
    ]
}

/// What a page of the reference does not name.
pub(crate) fn problems(page: &Page, names: &Names, endpoints: &[String], fields: &[String]) -> Vec<String> {
    let wanted = wanted(names, endpoints, fields);
    let of_page = wanted.into_iter().find(|(path, _)| page.path.to_str() == Some(path));
    let (_, wanted) = of_page.unwrap_or(("", Vec::new()));
    let named = |name: &String| {
        let has = |text: &str| {
            text.match_indices(name.as_str()).any(|(at, _)| {
                let is_edge = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric() && !"_-".contains(c));
                let begins = name.starts_with('-') || is_edge(text[..at].chars().next_back());
                begins && is_edge(text[at + name.len()..].chars().next())
            })
        };
        page.spans.iter().any(|span| has(&span.text)) || page.blocks.iter().any(|block| has(&block.text))
    };
    let missing = wanted.into_iter().filter(|name| !named(name));
    missing.map(|name| format!("{} does not name {name}", page.path.display())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn what_the_reference_leaves_out_is_noticed() {
        let names = Names {
            states: ["halted", "standby"].map(str::to_owned).into(),
            command: outboxd::cli::Cli::command(),
            ..Names::default()
        };
        let of =
            |path: &str, text: &str| problems(&Page::parse(path, text), &names, &["/readyz".to_owned()], &[]);
        let states = "docs/reference/states.md";
        assert_eq!(of(states, "`halted` and `standby`"), [""; 0]);
        assert_eq!(
            of(states, "`halted` and standby, `standby_s`"),
            ["docs/reference/states.md does not name standby"]
        );
        assert_eq!(of("docs/other.md", ""), [""; 0]);
        assert_eq!(of("docs/reference/http.md", ""), ["docs/reference/http.md does not name /readyz"]);
        let missing = of("docs/reference/cli.md", "`outboxd run`");
        assert!(missing.iter().any(|what| what.ends_with("outboxd parked list")), "{missing:?}");
        assert!(missing.iter().any(|what| what.ends_with("--offline")), "{missing:?}");
        assert!(!missing.iter().any(|what| what.ends_with("outboxd run")), "{missing:?}");
    }
}
