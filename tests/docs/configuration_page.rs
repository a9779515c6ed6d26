//! docs/reference/configuration.md: every key with kind, range and default as the code has them, and the comment of its file.

use std::fmt::Write as _;

use chassis::settings as service;
use configuration::{
    Key, Kind,
    documentation::{self, Documentation, Documented, DocumentedKey, Paragraph},
};
use outboxd::settings;

use crate::{
    markdown::slug,
    rendering::{cell, escaped, table},
    repository,
};

pub(crate) const PATH: &str = "docs/reference/configuration.md";

/// Keys of outboxd.
pub(crate) fn outboxd() -> Documentation {
    documentation::read(&repository::text("config/outboxd.toml"), settings::from_root)
}

/// Keys that every service has that is built on `chassis`.
fn of_services() -> Documentation {
    let program =
        service::Program { name: "order-service", listen: "127.0.0.1:8081", orchestrates: true, view: None };
    documentation::read(&repository::text("config/order-service.toml"), |root| {
        service::from_root(root, program)
    })
}

/// Keys that a service has besides when it keeps a view.
fn of_views() -> Documentation {
    let (name, listen) = ("order-history", "127.0.0.1:8083");
    let view = service::ViewPlaces { schemes: &["mongodb"], example: "", is_optional: true };
    let program = service::Program { name, listen, orchestrates: false, view: Some(view) };
    documentation::read(&repository::text("config/order-history.toml"), |root| {
        service::from_root(root, program)
    })
}

/// The page.
pub(crate) fn page() -> String {
    let documentation = outboxd();
    let mut page = String::from(
        "# Configuration\n\n<!-- Generated from the code and from config/outboxd.toml. `make docs-reference` writes it anew. -->\n\n\
         `outboxd check --offline` validates a file without a connection. Kinds, ranges and defaults below come from the code.\n\n",
    );
    page += &paragraphs(&documentation.introduction);
    for section in &documentation.sections {
        page += &of_section(section);
    }
    page += "## Services\n\nThe sample services share these keys, but for `saga` and `saga_silence_s`: only `order-service` has them. \
             `order-history` and `order-search` have `view_url` and `view_url_file` besides; `order-search` has to have one of them. The \
             file is `config/order-service.toml` and its like.\n\n";
    for section in &of_services().sections {
        page += &overview(&section.keys, false);
        page += &section.keys.iter().fold(String::new(), |text, key| text + &of_key(key));
    }
    for section in &of_views().sections {
        let keys = section.keys.iter().filter(|key| key.pattern.starts_with("view_url"));
        page += &keys.fold(String::new(), |text, key| text + &of_key(key));
    }
    page.trim_end().to_owned() + "\n"
}

fn of_section(section: &Documented) -> String {
    let title = match &*section.header {
        "" => "Outside of any table".to_owned(),
        header => format!("`{}`", header.replace("sources.orders", "sources.NAME")),
    };
    let mut text = format!("## {title}\n\n{}", paragraphs(&section.comment));
    // The keys of a source are many: one group for each word in front of the dot.
    let mut groups: Vec<(&str, Vec<&DocumentedKey>)> = Vec::new();
    for key in &section.keys {
        let group = name(key)
            .split_once('.')
            .filter(|_| key.pattern.starts_with("sources."))
            .map_or("", |(group, _)| group);
        match groups.iter_mut().find(|(other, _)| *other == group) {
            Some((_, keys)) => keys.push(key),
            None => groups.push((group, vec![key])),
        }
    }
    for (_, keys) in groups {
        text += &overview(keys.iter().copied(), true);
        let mut above = None;
        for key in keys {
            text += &of_key(key);
            match above {
                Some(above) if key.comment.is_empty() => {
                    let _ = writeln!(text, "See [`{0}`](#{1}).\n", name(above), slug(name(above)));
                }
                _ => above = Some(key),
            }
        }
    }
    text
}

/// The key as pages call it: from the root, or within its source.
fn name(key: &DocumentedKey) -> &str {
    key.pattern.strip_prefix("sources.<source>.").unwrap_or(&key.pattern)
}

/// `is_linked`: no other key of the page has the same name.
fn overview<'a>(keys: impl IntoIterator<Item = &'a DocumentedKey>, is_linked: bool) -> String {
    let link =
        |name: &str| if is_linked { format!("[`{name}`](#{})", slug(name)) } else { format!("`{name}`") };
    let rows = keys.into_iter().map(|key| vec![link(name(key)), cell(&kind(&key.key)), default(key)]);
    let rows: Vec<Vec<String>> = rows.collect();
    table(&["Key", "Value", "Default"], &rows) + "\n"
}

fn of_key(key: &DocumentedKey) -> String {
    let mut text = format!("### `{}`\n\n", name(key));
    let _ = writeln!(text, "{}\n", facts(key));
    text + &paragraphs(&key.comment)
}

fn facts(key: &DocumentedKey) -> String {
    let kind = escaped(&kind(&key.key));
    let kind = kind[..1].to_uppercase() + &kind[1..];
    match (key.is_required, &key.key.default) {
        (true, _) => format!("{kind}. Must be set, for instance `{}`.", key.shown),
        (false, Some(_)) => format!("{kind}. Default: {}.", default(key)),
        (false, None) if key.shown == "\"\"" => format!("{kind}. No default."),
        (false, None) => format!("{kind}. No default. For instance `{}`.", key.shown),
    }
}

fn kind(key: &Key) -> String {
    match &key.kind {
        Kind::Text => "text".to_owned(),
        Kind::Texts => "list of texts".to_owned(),
        Kind::Flag => "true or false".to_owned(),
        Kind::Number(range) => format!("whole number, {} to {}", range.start(), range.end()),
        Kind::Choice(words) => match &**words {
            [one] => format!("`\"{one}\"`"),
            [others @ .., last] => {
                let others: Vec<String> = others.iter().map(|word| format!("`\"{word}\"`")).collect();
                format!("{} or `\"{last}\"`", others.join(", "))
            }
            [] => String::new(),
        },
        Kind::Table => "table".to_owned(),
    }
}

fn default(key: &DocumentedKey) -> String {
    match (&key.key.kind, &key.key.default) {
        (_, None) => {
            if key.is_required {
                "must be set".to_owned()
            } else {
                String::new()
            }
        }
        (Kind::Text | Kind::Choice(_), Some(text)) => {
            let text = if key.pattern.starts_with("sources.") {
                text.replace("outboxd_orders", "outboxd_<source>")
            } else {
                text.clone()
            };
            format!("`\"{text}\"`")
        }
        (_, Some(text)) => format!("`{text}`"),
    }
}

fn paragraphs(paragraphs: &[Paragraph]) -> String {
    let mut text = String::new();
    for paragraph in paragraphs {
        match paragraph {
            Paragraph::Text(running) => {
                let _ = writeln!(text, "{}\n", escaped(&with_code(running)));
            }
            Paragraph::Example(lines) => {
                let _ = writeln!(text, "```text\n{lines}\n```\n");
            }
        }
    }
    text
}

/// Puts backticks around what a comment leaves bare: names, placeholders, headers of tables.
fn with_code(text: &str) -> String {
    let mut is_code = false;
    let words = text.split(' ').map(|word| {
        let ticks = word.matches('`').count();
        let was_code = is_code;
        is_code ^= ticks % 2 == 1;
        if was_code || ticks > 0 {
            return word.to_owned();
        }
        let core = word.trim_matches(|c: char| ",.;:()".contains(c) && !(c == '.' && word.starts_with('.')));
        let is_name = core.contains('_') && core.chars().any(char::is_alphabetic)
            || core.starts_with("[[")
            || core.starts_with('{') && core.ends_with('}')
            || core.starts_with("--")
            || core.starts_with('<') && core.contains('>')
            || core.starts_with('/')
            || core.starts_with("$");
        if is_name { word.replacen(core, &format!("`{core}`"), 1) } else { word.to_owned() }
    });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_comments_become_code() {
        assert_eq!(
            with_code("See max_message_size, `run a_b` and [[exchanges]]; {id} (wal_level)."),
            "See `max_message_size`, `run a_b` and `[[exchanges]]`; `{id}` (`wal_level`)."
        );
    }

    #[test]
    fn a_key_shows_what_the_code_says_of_it() {
        let key = DocumentedKey {
            pattern: "sources.<source>.delivery.on_nack".to_owned(),
            key: Key {
                kind: Kind::Choice(vec!["wait".to_owned(), "park".to_owned()]),
                default: Some("wait".to_owned()),
            },
            shown: "\"wait\"".to_owned(),
            is_required: false,
            comment: vec![Paragraph::Text("What <it> does.".to_owned())],
        };
        assert_eq!(
            of_key(&key),
            "### `delivery.on_nack`\n\n`\"wait\"` or `\"park\"`. Default: `\"wait\"`.\n\nWhat `<it>` does.\n\n"
        );
        let number = Key { kind: Kind::Number(1..=9), default: Some("3".to_owned()) };
        assert_eq!(facts(&DocumentedKey { key: number, ..key }), "Whole number, 1 to 9. Default: `3`.");
    }
}
