//! Man pages and completions of outboxd, made from what the program itself is made of: the definition of its command line, and its
//! documented configuration file.
//!
//! A package of its own, so that the daemon depends on nothing that only packages need.

pub mod command_pages;
pub mod completions;
pub mod configuration_page;

/// Version of outboxd, as a page's foot shows it.
fn version() -> String {
    format!("outboxd {}", env!("CARGO_PKG_VERSION"))
}

/// Date of the version, by the first section of the changelog that has one: two builds of one version give the same pages.
fn date() -> &'static str {
    let changelog = include_str!("../../../CHANGELOG.md");
    let heading =
        changelog.lines().find(|line| line.starts_with("## ") && line.contains(" - ")).unwrap_or_default();
    heading.rsplit(' ').next().unwrap_or_default()
}
