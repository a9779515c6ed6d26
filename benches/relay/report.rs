//! What is left of a run: tables on standard output, `benches/results/latest.json`, pictures, and `benches/RESULTS.md`.
//!
//! The JSON has one section for each subject, replaced when the subject is measured again; everything else is made from it.

use crate::{
    figures::{Series, Table},
    pictures,
    plan::{Plan, SUBJECTS, Subject},
    stage::Stage,
    targets,
};
use hyper::Method;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt::Write, fs, path::PathBuf, process::Command};

/// One subject, measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Section {
    /// The command that measures it again.
    command: String,
    /// How often everything was repeated.
    rounds: u32,
    /// Day, in UTC.
    date: String,
    /// The state of the sources, as `git describe` names it.
    revision: String,
    /// Versions of the nodes, and what the machine is.
    setting: String,
    /// What was measured.
    pub tables: Vec<Table>,
    /// What the pictures show.
    #[serde(default)]
    pub series: Vec<Series>,
}

const LATEST: &str = "results/latest.json";

/// All sections, by subject.
pub type Results = BTreeMap<String, Section>;

impl Section {
    /// What was measured on this stage, with how and when.
    pub async fn of(
        stage: &Stage,
        plan: &Plan,
        subject: &Subject,
        tables: Vec<Table>,
        series: Vec<Series>,
    ) -> Self {
        let overview = stage.broker.api(Method::GET, "/api/overview", serde_json::Value::Null).await;
        let server: String =
            stage.client.query_one("SHOW server_version", &[]).await.expect("a version").get(0);
        let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = processors.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let setting = format!(
            "PostgreSQL {}, RabbitMQ {} on Erlang {}, {} x {}; load average {} at the end",
            server.split(' ').next().unwrap_or_default(),
            overview["rabbitmq_version"].as_str().unwrap_or("?"),
            overview["erlang_version"].as_str().unwrap_or("?"),
            processors.lines().filter(|line| line.starts_with("processor")).count(),
            model.map_or("unknown CPU", |(_, name)| name),
            load.split(' ').next().unwrap_or("?"),
        );
        let peers = plan.peers.as_ref().map(|peers| format!(" PEERS={peers}")).unwrap_or_default();
        Self {
            command: format!("make bench ONLY={} ROUNDS={}{peers}", subject.name, plan.rounds_of(subject)),
            rounds: plan.rounds_of(subject),
            date: said_by("date", &["-u", "+%Y-%m-%d"]),
            revision: said_by("git", &["describe", "--always", "--dirty"]),
            setting,
            tables,
            series,
        }
    }

    /// For whoever watches.
    pub fn print(&self) {
        for table in &self.tables {
            println!("\n## {}\n\n{}", table.title, table.as_markdown());
        }
    }
}

/// Puts a section into `benches/results`, when there were rounds enough for it to stand, and makes the rest anew.
pub fn record(subject: &Subject, section: Section, plan: &Plan) -> std::io::Result<()> {
    let rounds = plan.rounds_of(subject);
    if rounds < subject.rounds && !plan.record {
        println!("Not recorded: {rounds} rounds are for looking, {} for figures.", subject.rounds);
        return Ok(());
    }
    let mut results = recorded()?;
    results.insert(subject.name.to_owned(), section);
    fs::create_dir_all(benches().join("results"))?;
    fs::write(benches().join(LATEST), serde_json::to_string_pretty(&results)? + "\n")?;
    write(&results)
}

/// What is recorded so far.
pub fn recorded() -> std::io::Result<Results> {
    match fs::read(benches().join(LATEST)) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Results::new()),
        Err(error) => Err(error),
    }
}

/// Writes the pictures and `RESULTS.md`.
pub fn write(results: &Results) -> std::io::Result<()> {
    let mut drawn = Vec::new();
    for (name, svg) in pictures::draw(results) {
        fs::write(benches().join("results").join(name), svg)?;
        drawn.push(name);
    }
    fs::write(benches().join("RESULTS.md"), as_markdown(results, &drawn))
}

fn as_markdown(results: &Results, pictures: &[&str]) -> String {
    let mut text = format!("{INTRODUCTION}\n## Targets\n\n{}", targets::as_markdown(results));
    for Subject { name: subject, tells, rounds, .. } in SUBJECTS {
        let Some(section) = results.get(*subject) else { continue };
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

fn benches() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn said_by(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}
