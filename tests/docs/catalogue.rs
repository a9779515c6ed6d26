//! docs/reference/messages.md: every text that an operator may see, by what it is about, with the next step where the code has it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    path::Path,
};

use crate::{
    markdown::Page,
    phrase::{Phrase, Phrases, quotes},
    rendering::{cell, table},
    repository::{Repository, text},
    texts::{Kind, Level, Outcome, Text, Texts},
};

pub(crate) const PATH: &str = "docs/reference/messages.md";

/// What the texts of a folder are about, in the order of the page. Folders that stand together are one group.
const GROUPS: [(&str, &[&str]); 13] = [
    ("Configuration", &["src/settings", "crates/configuration", "crates/broker-access", "crates/secret"]),
    ("Checks of the database", &["src/preflight"]),
    ("Slot and publication", &["src/slot", "src/setup"]),
    ("Connections to PostgreSQL", &["src/postgres", "crates/pg-replication"]),
    ("RabbitMQ", &["src/rabbitmq", "crates/amqp-publisher"]),
    ("Rows and messages", &["src/message", "src/position.rs"]),
    ("Relay", &["src/relay", "src/ledger"]),
    ("Backlog, recovery and replay", &["src/backfill"]),
    ("Parked rows", &["src/parking"]),
    ("Clean-up", &["src/cleanup"]),
    ("Endpoints and status", &["src/admin"]),
    (
        "Commands and the process",
        &[
            "src/commands",
            "src/cli.rs",
            "src/lib.rs",
            "src/bin",
            "crates/process",
            "crates/diagnostics",
            "crates/outbox-schema",
        ],
    ),
    ("Services", &["crates/chassis"]),
];

/// Sources of nothing that is delivered.
const NOT_DELIVERED: &str = "crates/testkit";

/// Reads every source of the product.
pub(crate) fn texts(repository: &Repository) -> Texts {
    let mut texts = Texts::default();
    let sources = repository.sources("src").chain(repository.sources("crates"));
    let is_delivered = |path: &&std::path::PathBuf| {
        let is_test = path.ends_with("tests.rs")
            || path.components().any(|part| part.as_os_str() == "tests" || part.as_os_str() == "examples");
        !path.starts_with(NOT_DELIVERED) && !is_test
    };
    texts.read(sources.filter(is_delivered).map(|path| (path.as_path(), text(path))));
    texts.join();
    texts
}

/// Every text by itself.
pub(crate) fn phrases(texts: &Texts) -> Phrases {
    let said = texts.texts.iter().flat_map(|text| text.what.iter().chain(&text.steps)).cloned();
    Phrases::new(said.flat_map(Phrase::lines).chain(texts.written.iter().cloned()))
}

/// The page. `pages` are those whose messages get a link.
pub(crate) fn page<'a>(texts: &Texts, pages: impl Iterator<Item = &'a Page>) -> String {
    let links = links(texts, pages);
    let mut page = String::from(
        "# Messages to the operator\n\n<!-- Generated from the sources. `make docs-reference` writes it anew. -->\n\n\
         Every text of outboxd that an operator may see. `<...>` and `<name>` stand for what varies. A line of the log, of `outboxd check`, \
         of `/readyz` or of `/status` may consist of several of these texts: what happened, its cause, and the next step.\n\n\
         To find a message, search this page for some of its words that do not vary. \
         [From the message to the page](../operate/README.md) has the pages that say what to do.\n\n",
    );
    for (group, folders) in GROUPS {
        let of_group = |text: &&Text| folders.iter().any(|folder| text.file.starts_with(folder));
        let of_group: Vec<&Text> = texts.texts.iter().filter(of_group).collect();
        if of_group.is_empty() {
            continue;
        }
        let _ = writeln!(page, "## {group}\n");
        for part in &PARTS {
            page += &part.of(&of_group, &links);
        }
    }
    page.trim_end().to_owned() + "\n"
}

/// Texts that no group has.
pub(crate) fn strays(texts: &Texts) -> BTreeSet<String> {
    let has_group = |text: &&Text| {
        GROUPS.iter().any(|(_, folders)| folders.iter().any(|folder| text.file.starts_with(folder)))
    };
    texts.texts.iter().filter(|text| !has_group(text)).map(|text| text.file.display().to_string()).collect()
}

/// One table of a group.
struct Part {
    /// Said below the title.
    says: &'static str,
    head: [&'static str; 4],
    has: fn(Kind) -> bool,
}

const PARTS: [Part; 8] = [
    Part {
        says: "Lines of the log.",
        head: ["Level", "", "Text", "Next step"],
        has: |kind| matches!(kind, Kind::Log(_)),
    },
    Part {
        says: "Reasons that go with a state, in the log, `/readyz`, `/status` and `outboxd status`.",
        head: ["", "State", "Text", "Next step"],
        has: |kind| kind == Kind::State,
    },
    Part {
        says: "Lines of `outboxd check`. `run` makes the same checks before it streams, and stops at one that failed.",
        head: ["Result", "Check", "Text", "Next step"],
        has: |kind| matches!(kind, Kind::Check(_)),
    },
    Part {
        says: "Problems with a key. Each line names the file or the variable, and the key.",
        head: ["", "Key", "Text", "Next step"],
        has: |kind| kind == Kind::Setting,
    },
    Part { says: "Errors.", head: ["", "Reason", "Text", "Next step"], has: |kind| kind == Kind::Error },
    Part {
        says: "Next steps for what PostgreSQL, RabbitMQ or the system says.",
        head: ["", "Reason", "", "Next step"],
        has: |kind| kind == Kind::Step,
    },
    Part {
        says: "Texts with which a command ends.",
        head: ["", "", "Text", "Next step"],
        has: |kind| kind == Kind::Failure,
    },
    Part {
        says: "Further texts, and parts of the texts above.",
        head: ["", "", "Text", ""],
        has: |kind| kind == Kind::Part,
    },
];

impl Part {
    fn of(&self, texts: &[&Text], links: &BTreeMap<String, String>) -> String {
        let mut texts: Vec<&&Text> = texts.iter().filter(|text| (self.has)(text.kind)).collect();
        texts.sort_by_key(|text| text.kind);
        let mut seen = BTreeSet::new();
        let mut rows = Vec::new();
        for text in texts {
            let what =
                text.what.iter().map(|phrase| said(phrase, links)).collect::<Vec<_>>().join("<br>or: ");
            let steps =
                text.steps.iter().map(|phrase| said(phrase, links)).collect::<Vec<_>>().join("<br>or: ");
            // The texts that fill it stand elsewhere.
            if text.what.iter().chain(&text.steps).all(|phrase| phrase.letters() == 0) {
                continue;
            }
            let row = vec![label(text.kind).to_owned(), cell(&text.subject), what, steps];
            if seen.insert(row.clone()) {
                rows.push(row);
            }
        }
        match rows.is_empty() {
            true => String::new(),
            false => format!("{}\n\n{}\n", self.says, table(&self.head, &rows)),
        }
    }
}

fn said(phrase: &Phrase, links: &BTreeMap<String, String>) -> String {
    let shown = phrase.shown();
    let link = links.get(&shown).map(String::as_str).unwrap_or_default();
    cell(&shown) + link
}

fn label(kind: Kind) -> &'static str {
    match kind {
        Kind::Log(Level::Error) => "error",
        Kind::Log(Level::Warn) => "warning",
        Kind::Log(Level::Info) => "info",
        Kind::Log(Level::Debug) => "debug",
        Kind::Check(Outcome::Failed) => "FAILED",
        Kind::Check(Outcome::Warning) => "warning",
        Kind::Check(Outcome::Ok) => "OK",
        Kind::State | Kind::Setting | Kind::Failure | Kind::Error | Kind::Step | Kind::Part => "",
    }
}

/// For each text that a page quotes: a link to that page.
fn links<'a>(texts: &Texts, pages: impl Iterator<Item = &'a Page>) -> BTreeMap<String, String> {
    let all: BTreeSet<&Phrase> =
        texts.texts.iter().flat_map(|text| text.what.iter().chain(&text.steps)).collect();
    let mut links: BTreeMap<String, String> = BTreeMap::new();
    for page in pages.filter(|page| !page.path.ends_with("README.md")) {
        let lines = page
            .blocks
            .iter()
            .filter(|block| block.language == "message")
            .flat_map(|block| block.text.lines());
        for line in lines {
            for phrase in all.iter().filter(|phrase| quotes(line, phrase)) {
                let path = page.path.strip_prefix(Path::new("docs")).unwrap_or(&page.path);
                let link = format!(" ([{}](../{}))", page.title, path.display());
                let links = links.entry(phrase.shown()).or_default();
                if !links.contains(&link) {
                    *links += &link;
                }
            }
        }
    }
    links
}
