//! The check that `synchronous_standby_names` does not match outboxd.

use crate::{postgres::sql_text::literal, preflight::facts::server::ServerFacts};
use diagnostics::check::Check;

/// The wildcard for every name.
const STAR: &str = "*";

/// Warns of a list that matches outboxd. outboxd is not a synchronous standby while it streams, but counts as one for a moment each
/// time it confirms a position (`ReplicationStream::send_status`).
pub(super) fn check(server: &ServerFacts) -> Check {
    const NAME: &str = "synchronous standbys";
    let names = &server.synchronous_standby_names;
    if names.is_empty() {
        return Check::passed(NAME, "synchronous_standby_names is empty");
    }
    let tokens = tokens(names);
    if !tokens.iter().any(|token| is_star(token)) {
        return Check::passed(NAME, format!("synchronous_standby_names is {names}"));
    }
    let cure = if server.standbys.is_empty() {
        "replace * by the names of the standbys, as in ALTER SYSTEM SET synchronous_standby_names = 'FIRST 1 (a, b)'; SELECT \
         pg_reload_conf(); a standby's name is the application_name in its primary_conninfo (a superuser sees it in \
         pg_stat_replication)"
            .to_owned()
    } else {
        let named = named(&tokens, &server.standbys);
        format!("ALTER SYSTEM SET synchronous_standby_names = {}; SELECT pg_reload_conf();", literal(&named))
    };
    Check::warning(
        NAME,
        format!(
            "synchronous_standby_names is {names}, which also matches outboxd: PostgreSQL may acknowledge a commit that outboxd has \
             confirmed and no standby has. After a failover its message exists without its row"
        ),
        cure,
    )
}

/// The setting with the standbys' names in place of the star, without names that it has already.
fn named(tokens: &[&str], standbys: &[String]) -> String {
    let bare = |token: &str| token.trim_matches('"').replace("\"\"", "\"");
    let missing = standbys.iter().filter(|standby| !tokens.iter().any(|token| bare(token) == **standby));
    let quoted: Vec<String> =
        missing.map(|standby| format!("\"{}\"", standby.replace('"', "\"\""))).collect();
    let names = quoted.join(", ");
    let replaced = tokens.iter().map(|token| if is_star(token) { names.as_str() } else { token });
    replaced.collect::<String>()
}

fn is_star(token: &str) -> bool {
    token.trim_matches('"') == STAR
}

/// Splits the setting into names, keywords and separators, and keeps all of it.
fn tokens(setting: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = setting;
    while let Some(first) = rest.chars().next() {
        let between = |c: char| c.is_whitespace() || matches!(c, ',' | '(' | ')');
        let end = if first == '"' {
            rest[1..].find('"').map_or(rest.len(), |end| end + 2)
        } else if between(first) {
            first.len_utf8()
        } else {
            rest.find(|c| between(c) || c == '"').unwrap_or(rest.len())
        };
        let (token, after) = rest.split_at(end);
        tokens.push(token);
        rest = after;
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_gives_way_to_the_names_of_the_standbys() {
        let standbys = ["a".to_owned(), "b \"c\"".to_owned()];
        for (setting, expected) in [
            ("*", r#""a", "b ""c""""#),
            ("\"*\"", r#""a", "b ""c""""#),
            ("ANY 1 (*)", r#"ANY 1 ("a", "b ""c""")"#),
            ("2 (a, *)", r#"2 (a, "b ""c""")"#),
            ("FIRST 1 (\"a,(*\", *)", r#"FIRST 1 ("a,(*", "a", "b ""c""")"#),
        ] {
            assert_eq!(named(&tokens(setting), &standbys), expected);
        }
        for setting in ["a, b", "ANY 1 (\"a*\", b)", "", "\"a"] {
            assert!(!tokens(setting).iter().any(|token| is_star(token)), "{setting}");
            assert_eq!(tokens(setting).concat(), setting);
        }
    }
}
