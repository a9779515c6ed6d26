//! Man pages and completions hold what the program has, and shells take them.

#![allow(clippy::unwrap_used)]

use std::{fs, process::Command};

use clap::CommandFactory as _;
use outboxd::{cli::Cli, settings};
use release_pages::{command_pages, completions, configuration_page};

/// Text of a page without roff's own marks.
fn read(page: &[u8]) -> String {
    String::from_utf8(page.to_vec())
        .unwrap()
        .replace("\\-", "-")
        .replace("\\*(Aq", "'")
        .replace("\\fB", "")
        .replace("\\fR", "")
}

/// Name of the page and definition of every command.
fn commands(command: &clap::Command, name: String, all: &mut Vec<(String, clap::Command)>) {
    for child in command.get_subcommands() {
        commands(child, format!("{name}-{}", child.get_name()), all);
    }
    all.push((format!("{name}.1"), command.clone()));
}

#[test]
fn every_command_has_a_page_with_its_options() {
    let pages = command_pages::all().unwrap();
    let mut expected = Vec::new();
    commands(&Cli::command(), "outboxd".to_owned(), &mut expected);
    assert_eq!(pages.len(), expected.len());
    for (file, command) in &expected {
        let page = pages.iter().find(|page| page.file == *file).unwrap_or_else(|| panic!("no page {file}"));
        let text = read(&page.text);
        assert!(text.contains(&command.get_about().unwrap().to_string()), "{file}: {text}");
        for option in command.get_arguments().filter_map(|argument| argument.get_long()) {
            assert!(text.contains(&format!("--{option}")), "{file} lacks --{option}");
        }
    }
    let first = read(&pages[0].text);
    for wanted in [
        "EXIT STATUS",
        "78  bad configuration",
        "ENVIRONMENT",
        "OUTBOXD_LOG",
        "outboxd-parked(1)",
        "outboxd.toml(5)",
    ] {
        assert!(first.contains(wanted), "{wanted}: {first}");
    }
}

#[test]
fn every_key_is_in_the_page_of_the_configuration() {
    let file = include_str!("../../../config/outboxd.toml");
    let documentation = configuration::documentation::read(file, settings::from_root);
    let page = read(configuration_page::page().as_bytes());
    let lines: Vec<&str> = page.lines().collect();
    let mut count = 0;
    for key in documentation.keys() {
        let name = key.pattern.strip_prefix("sources.<source>.").unwrap_or(&key.pattern);
        assert!(lines.iter().any(|line| line.starts_with(&format!("{name}  "))), "{name}");
        count += 1;
    }
    assert!(count > 50, "{count}");
    assert!(page.contains("[sources.NAME]") && page.contains("1 to 3600; default 30"), "{page}");
}

#[test]
fn bash_completes_commands_and_options() {
    let completions = completions::all();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("outboxd");
    let bash = completions.iter().find(|completion| completion.file == "outboxd").unwrap();
    fs::write(&file, &bash.text).unwrap();
    for (line, expected) in
        [("outboxd te", "teardown"), ("outboxd parked re", "requeue"), ("outboxd check --off", "--offline")]
    {
        let script = format!(
            ". {}; COMP_WORDS=({line}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             _outboxd outboxd \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD - 1]}}\"; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            file.display()
        );
        let bash = Command::new("bash").args(["--norc", "-c", &script]).output().unwrap();
        let reply = String::from_utf8_lossy(&bash.stdout);
        assert_eq!(reply.trim(), expected, "{line}: {}", String::from_utf8_lossy(&bash.stderr));
    }
    let names: Vec<_> = completions.iter().map(|completion| completion.file).collect();
    assert_eq!(names, ["outboxd", "_outboxd", "outboxd.fish"]);
}
