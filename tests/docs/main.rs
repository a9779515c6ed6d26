//! The documentation is true of the code: links lead somewhere, every name exists, every quoted message is one, and what is generated
//! is up to date.
//!
//! Each rule is a pure function from pages to problems, with a test of its own that shows it a broken page.

#![allow(clippy::unwrap_used)]

mod blocks;
mod catalogue;
mod configuration_page;
mod contents;
mod links;
mod markdown;
mod names;
mod phrase;
mod quotes;
mod reference;
mod rendering;
mod repository;
mod test_names;
mod texts;

use std::{collections::BTreeSet, path::Path, sync::LazyLock};

use clap::CommandFactory as _;
use outboxd::{admin::SourceState, cli::Cli};
use process::failure::Failure;
use syn::visit::{self, Visit};

use crate::{
    names::Names,
    phrase::Phrase,
    repository::{Repository, text},
    texts::Texts,
};

/// What regenerates the pages of this test target.
const REGENERATE: &str = "OUTBOXD_DOCS";

fn none(problems: Vec<String>) {
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
}

/// Repository, texts and names, which take a while to read.
static FACTS: LazyLock<Facts> = LazyLock::new(|| {
    let repository = Repository::read();
    let texts = catalogue::texts(&repository);
    Facts { names: names(&repository, &texts), repository, texts }
});

struct Facts {
    repository: Repository,
    texts: Texts,
    names: Names,
}

#[test]
fn every_link_and_anchor_resolves() {
    none(links::problems(&Repository::read()));
}

#[test]
fn every_page_is_in_the_table_of_contents() {
    none(contents::problems(&Repository::read()));
}

#[test]
fn every_name_in_backticks_exists() {
    let Facts { repository, names, .. } = &*FACTS;
    none(repository.current().flat_map(|page| names.problems(page)).collect());
}

#[test]
fn every_block_holds_what_it_says() {
    let Facts { repository, names, .. } = &*FACTS;
    none(repository.current().flat_map(|page| blocks::problems(page, &names.phrases)).collect());
}

#[test]
fn every_quoted_source_has_the_quoted_lines() {
    let repository = Repository::read();
    let read = |path: &str| repository.files.contains(Path::new(path)).then(|| text(path));
    let quotes = repository.current().flat_map(|page| &page.blocks);
    let count = quotes.filter(|block| block.marks.iter().any(|mark| mark.contains('/'))).count();
    assert!(count > 10, "{count} blocks quote a source");
    none(repository.current().flat_map(|page| quotes::problems(page, read)).collect());
}

#[test]
fn the_reference_leaves_nothing_out() {
    let Facts { repository, names, .. } = &*FACTS;
    let (endpoints, fields) = (endpoints(), fields_of_status());
    assert!(endpoints.len() == 4 && fields.len() > 25, "{endpoints:?} {fields:?}");
    none(repository.book().flat_map(|page| reference::problems(page, names, &endpoints, &fields)).collect());
}

#[test]
fn reference_of_the_configuration_is_up_to_date() {
    up_to_date(configuration_page::PATH, &configuration_page::page());
}

#[test]
fn reference_of_messages_is_up_to_date() {
    let Facts { repository, texts, .. } = &*FACTS;
    assert_eq!(catalogue::strays(texts), BTreeSet::new(), "no group of the catalogue has these sources");
    let operate = repository.book().filter(|page| page.path.starts_with("docs/operate"));
    up_to_date(catalogue::PATH, &catalogue::page(texts, operate));
}

/// Compares a generated page with the file, or writes it.
fn up_to_date(path: &str, page: &str) {
    if std::env::var_os(REGENERATE).is_some_and(|value| value == "write") {
        return repository::write(path, page);
    }
    let repository = Repository::read();
    let there = if repository.files.contains(Path::new(path)) { text(path) } else { String::new() };
    let differs = there.lines().zip(page.lines()).find(|(there, page)| there != page);
    assert!(
        there == page,
        "{path} is out of date: `make docs-reference` writes it anew. The first difference: {differs:?}"
    );
}

/// Every name that the documentation may use.
fn names(repository: &Repository, texts: &Texts) -> Names {
    let mut names = Names {
        metrics: texts.metrics.keys().cloned().collect(),
        states: SourceState::ALL.iter().map(ToString::to_string).collect(),
        exit_statuses: [Failure::Runtime, Failure::CommandLine, Failure::Configuration]
            .iter()
            .map(|failure| failure(String::new()).exit_status())
            .chain([0])
            .collect(),
        command: Cli::command(),
        files: repository.files.clone(),
        phrases: catalogue::phrases(texts),
        said: texts
            .texts
            .iter()
            .flat_map(|text| text.what.iter().chain(&text.steps))
            .map(Phrase::shown)
            .collect(),
        ..Names::default()
    };
    names.keys(configuration_page::outboxd().keys());
    assert!(names.metrics.len() > 25 && names.keys.len() > 50, "{:?}", names.metrics);
    let is_page = |path: &Path| {
        path.extension()
            .is_some_and(|extension| extension == "md" || extension == "svg" || extension == "lock")
    };
    for path in repository.files.iter().filter(|path| !is_page(path)) {
        // What is no text has no names.
        let Ok(source) = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)) else {
            continue;
        };
        let is_comment = |line: &&str| line.trim_start().starts_with("//");
        for line in source.lines().filter(|line| !is_comment(line)) {
            let words = line
                .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                .filter(|word| word.contains('_'));
            names.words.extend(words.map(str::to_owned));
        }
        if path.extension().is_some_and(|extension| extension == "rs") {
            names.tests.insert(path.clone(), test_names::test_names(&source));
        }
    }
    names
}

/// Paths that the admin listener answers.
fn endpoints() -> Vec<String> {
    let source = text("src/admin/server.rs");
    let routes = source.split(".route(\"").skip(1);
    routes.filter_map(|rest| Some(rest.split_once('"')?.0.to_owned())).collect()
}

/// Fields of the documents that `/status` is made of.
fn fields_of_status() -> Vec<String> {
    #[derive(Default)]
    struct Fields(Vec<String>);
    impl<'ast> Visit<'ast> for Fields {
        fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
            if item.ident.to_string().contains("Status") {
                visit::visit_item_struct(self, item);
            }
        }
        fn visit_field(&mut self, field: &'ast syn::Field) {
            if matches!(field.vis, syn::Visibility::Public(_)) {
                self.0.extend(field.ident.as_ref().map(ToString::to_string));
            }
        }
    }
    let mut fields = Fields::default();
    for file in ["src/admin/status.rs", "src/admin/subscriptions.rs"] {
        fields.visit_file(&syn::parse_file(&text(file)).unwrap());
    }
    fields.0
}
