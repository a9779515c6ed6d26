//! What a reader sees of the record: `benches/RESULTS.md` and its pictures. All of it is made from the record, so nothing of it can
//! disagree.

use crate::{
    pictures,
    plan::{SUBJECTS, Subject},
    record::{self, Results},
    targets,
};
use std::{fmt::Write, fs, io};

/// Writes the pictures and `RESULTS.md`.
pub fn write(results: &Results) -> io::Result<()> {
    let folder = record::folder();
    let mut drawn = Vec::new();
    for (name, svg) in pictures::draw(results) {
        fs::write(folder.join(name), svg)?;
        drawn.push(name);
    }
    fs::write(folder.with_file_name("RESULTS.md"), as_markdown(results, &drawn))
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
