//! outboxd(1) and a page for each command, from the definition of the command line.

use std::io;

use clap::{Command, CommandFactory as _};
use clap_mangen::{
    Man,
    roff::{Inline, Roff, bold, roman},
};
use outboxd::cli::Cli;

use crate::{configuration_page, date, version};

/// A man page.
#[derive(Debug)]
pub struct Page {
    /// File name with its section.
    pub file: String,
    /// The page.
    pub text: Vec<u8>,
}

/// outboxd(1), and the pages of all commands.
///
/// # Errors
///
/// Returns the failure of a writer, which a page in memory does not have.
pub fn all() -> io::Result<Vec<Page>> {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let mut pages = Vec::new();
    add(&command, None, &mut pages)?;
    Ok(pages)
}

fn add(command: &Command, parent: Option<&str>, pages: &mut Vec<Page>) -> io::Result<()> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    pages.push(Page { file: format!("{name}.1"), text: page(command, parent)? });
    for child in command.get_subcommands() {
        add(child, Some(&name), pages)?;
    }
    Ok(())
}

/// clap's own order of sections, with the text below the help as sections of its own: its lines are aligned.
fn page(command: &Command, parent: Option<&str>) -> io::Result<Vec<u8>> {
    let man = Man::new(command.clone()).date(date()).source(version()).manual("outboxd");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    let mut rest = Roff::new();
    if let Some(text) = command.get_after_help() {
        aligned(&mut rest, &text.to_string());
    }
    if parent.is_none() {
        rest.control("SH", ["FILES"]);
        for (file, what) in FILES {
            rest.control("TP", []);
            rest.text([bold(file)]);
            rest.text([roman(what)]);
        }
    }
    rest.control("SH", ["SEE ALSO"]);
    rest.text(see_also(command, parent));
    rest.to_writer(&mut page)?;
    Ok(page)
}

const FILES: [(&str, &str); 2] = [
    ("/etc/outboxd/outboxd.toml", "The configuration; see outboxd.toml(5)."),
    ("/etc/default/outboxd", "Variables for the service outboxd.service. Commands do not read this file."),
];

/// Sections of a text whose headings end with a colon, and whose other lines are aligned.
fn aligned(page: &mut Roff, text: &str) {
    let mut is_open = false;
    for line in text.lines() {
        if let Some(heading) = line.strip_suffix(':').filter(|heading| !heading.starts_with(' ')) {
            if is_open {
                page.control("fi", []);
            }
            page.control("SH", [heading.to_uppercase().as_str()]);
            page.control("nf", []);
            is_open = true;
        } else if !line.is_empty() {
            page.text([roman(line)]);
        }
    }
    if is_open {
        page.control("fi", []);
    }
}

fn see_also(command: &Command, parent: Option<&str>) -> Vec<Inline> {
    let children = command
        .get_subcommands()
        .map(|child| child.get_display_name().unwrap_or_else(|| child.get_name()).to_owned());
    let names = parent.map(str::to_owned).into_iter().chain(children);
    let configuration = configuration_page::FILE.split_once(".5").map_or("", |(name, _)| name);
    let pages = names.map(|name| (name, "1")).chain([(configuration.to_owned(), "5")]);
    let mut line = Vec::new();
    for (name, section) in pages {
        if !line.is_empty() {
            line.push(roman(", "));
        }
        line.extend([bold(name), roman(format!("({section})"))]);
    }
    line
}
