//! outboxd.toml(5): every key with kind, range and default as the code has them, and the comment of the documented file. The page
//! `docs/reference/configuration.md` comes from the same two.

use clap_mangen::roff::{Roff, bold, italic, roman};
use configuration::{
    Key, Kind,
    documentation::{self, Documented, DocumentedKey, Paragraph},
};
use outboxd::settings;

use crate::{date, version};

/// File name of the page.
pub const FILE: &str = "outboxd.toml.5";

/// The page.
pub fn page() -> String {
    let documentation =
        documentation::read(include_str!("../../../config/outboxd.toml"), settings::from_root);
    let mut page = Roff::new();
    page.control("TH", ["outboxd.toml", "5", date(), &version(), "outboxd"]);
    page.control("SH", ["NAME"]);
    page.text([roman("outboxd.toml - configuration of outboxd")]);
    page.control("SH", ["SYNOPSIS"]);
    page.text([bold("/etc/outboxd/outboxd.toml")]);
    page.control("SH", ["DESCRIPTION"]);
    paragraphs(&mut page, &documentation.introduction);
    for section in &documentation.sections {
        of_section(&mut page, section);
    }
    page.control("SH", ["EXAMPLES"]);
    page.text([roman("The configuration of one source with its defaults:")]);
    example(&mut page, &shortest(&documentation.sections));
    page.control("SH", ["SEE ALSO"]);
    page.text([bold("outboxd"), roman("(1), "), bold("outboxd-check"), roman("(1)")]);
    page.to_roff()
}

fn of_section(page: &mut Roff, section: &Documented) {
    let title = match &*section.header {
        "" => "Keys outside of any table".to_owned(),
        header => header.replace("sources.orders", "sources.NAME"),
    };
    page.control("SH", [title.as_str()]);
    paragraphs(page, &section.comment);
    for key in &section.keys {
        page.control("TP", []);
        page.text([bold(name(key)), roman("  "), italic(facts(key))]);
        match &*key.comment {
            [] => page.text([roman("See the key above.")]),
            comment => {
                // Indented as far as the text below the key.
                page.control("RS", []);
                paragraphs(page, comment);
                page.control("RE", [])
            }
        };
    }
}

/// The key within its table.
fn name(key: &DocumentedKey) -> &str {
    key.pattern.strip_prefix("sources.<source>.").unwrap_or(&key.pattern)
}

fn facts(key: &DocumentedKey) -> String {
    let kind = kind(&key.key);
    match (key.is_required, &key.key.default) {
        (true, _) => format!("{kind}; must be set"),
        (false, Some(_)) => format!("{kind}; default {}", default(key)),
        (false, None) if key.shown == "\"\"" => kind,
        (false, None) => format!("{kind}; for instance {}", key.shown),
    }
}

fn kind(key: &Key) -> String {
    match &key.kind {
        Kind::Text => "text".to_owned(),
        Kind::Texts => "list of texts".to_owned(),
        Kind::Flag => "true or false".to_owned(),
        Kind::Number(range) => format!("{} to {}", range.start(), range.end()),
        Kind::Choice(words) => {
            words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(" or ")
        }
        Kind::Table => "table".to_owned(),
    }
}

fn default(key: &DocumentedKey) -> String {
    let text = key.key.default.clone().unwrap_or_default();
    match &key.key.kind {
        Kind::Text | Kind::Choice(_) if key.pattern.starts_with("sources.") => {
            format!("\"{}\"", text.replace("outboxd_orders", "outboxd_NAME"))
        }
        Kind::Text | Kind::Choice(_) => format!("\"{text}\""),
        _ => text,
    }
}

/// The keys that must be set, as the documented file shows them.
fn shortest(sections: &[Documented]) -> String {
    let mut text = String::new();
    for section in sections.iter().filter(|section| !section.header.starts_with("[[")) {
        let required: Vec<_> = section.keys.iter().filter(|key| key.is_required).collect();
        if required.is_empty() {
            continue;
        }
        if !text.is_empty() {
            text.push('\n');
        }
        text += &format!("{}\n", section.header);
        for key in required {
            let name = name(key).rsplit_once('.').filter(|_| !key.pattern.starts_with("sources."));
            text += &format!("{} = {}\n", name.map_or_else(|| self::name(key), |(_, name)| name), key.shown);
        }
    }
    text
}

fn paragraphs(page: &mut Roff, paragraphs: &[Paragraph]) {
    for (at, paragraph) in paragraphs.iter().enumerate() {
        if at > 0 {
            page.control("PP", []);
        }
        match paragraph {
            Paragraph::Text(text) => {
                page.text([roman(text)]);
            }
            Paragraph::Example(lines) => example(page, lines),
        }
    }
}

fn example(page: &mut Roff, lines: &str) {
    page.control("PP", []);
    page.control("RS", ["4"]);
    page.control("nf", []);
    for line in lines.lines() {
        page.text([roman(line)]);
    }
    page.control("fi", []);
    page.control("RE", []);
}
