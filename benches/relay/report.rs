//! Report of the record: `benches/RESULTS.md`, the table in the README, and the charts. Everything comes from the record, so
//! nothing can contradict it.

use crate::{
    comparison, pictures,
    plan::{SUBJECTS, Subject},
    record::{self, Results},
    targets,
};
use std::{fmt::Write, fs, io, path::Path};

/// Lines of the README around its table.
const TABLE: (&str, &str) =
    ("<!-- benchmark: `make bench` writes this table -->\n", "<!-- end of benchmark -->\n");

/// Writes the charts, the README's table and `RESULTS.md`.
///
/// # Errors
///
/// [`io::Error`] when a file cannot be written.
pub fn write(results: &Results) -> io::Result<()> {
    let folder = record::folder();
    let root = folder.ancestors().nth(2).expect("benches/results lies in the repository");
    fs::write(root.join("docs/images/benchmark.svg"), comparison::draw(results))?;
    write_table(&root.join("README.md"), &comparison::as_markdown(results))?;
    let mut drawn = Vec::new();
    for (name, svg) in pictures::draw(results) {
        fs::write(folder.join(name), svg)?;
        drawn.push(name);
    }
    fs::write(folder.with_file_name("RESULTS.md"), as_markdown(results, &drawn))
}

/// Replaces the README's table.
fn write_table(readme: &Path, table: &str) -> io::Result<()> {
    let text = fs::read_to_string(readme)?;
    let (before, rest) = text.split_once(TABLE.0).expect("the README has the table's first mark");
    let (_, after) = rest.split_once(TABLE.1).expect("the README has the table's last mark");
    fs::write(readme, format!("{before}{}{table}{}{after}", TABLE.0, TABLE.1))
}

fn as_markdown(results: &Results, pictures: &[&str]) -> String {
    let mut text = format!("{INTRODUCTION}\n## Targets\n\n{}", targets::as_markdown(results));
    for Subject { name: subject, tells, rounds, .. } in SUBJECTS {
        let Some(section) = results.get(subject) else { continue };
        let _ = write!(
            text,
            "\n## {subject}: {tells}\n\n`{}`, {}, outboxd {}. {}.\n",
            section.command, section.date, section.revision, section.setting
        );
        if section.rounds < *rounds {
            let _ = writeln!(
                text,
                "\nPreliminary: {} of the {rounds} rounds that a figure should have.",
                section.rounds
            );
        }
        for picture in pictures.iter().filter(|picture| picture.starts_with(subject)) {
            let _ = writeln!(text, "\n![{subject}](results/{picture})");
        }
        for table in &section.tables {
            let _ = write!(text, "\n### {}\n\n{}", table.title, table.as_markdown());
        }
    }
    text
}

const INTRODUCTION: &str = include_str!("introduction.md");
