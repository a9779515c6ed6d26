//! Record of each subject's last run, with its circumstances: one file for each in `benches/results`.
//!
//! A run replaces only the files of its subjects. Does not know the report.

use crate::{
    figures::{Series, Table},
    plan::{Plan, SUBJECTS, Subject},
    stage::Stage,
};
use hyper::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fmt::Write,
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

/// Figures of one subject.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Section {
    /// Command that repeats the measurement.
    pub command: String,
    /// Number of rounds.
    pub rounds: u32,
    /// Day, in UTC.
    pub date: String,
    /// Revision of the sources, as `git describe` names it.
    pub revision: String,
    /// Versions of the nodes, and the machine.
    pub setting: String,
    /// Tables of figures.
    pub tables: Vec<Table>,
    /// Lines of the charts.
    pub series: Vec<Series>,
}

/// All sections, by subject.
pub type Results = BTreeMap<&'static str, Section>;

impl Section {
    /// Returns the figures with their circumstances.
    pub async fn of(
        stage: &Stage,
        plan: &Plan,
        subject: &Subject,
        tables: Vec<Table>,
        series: Vec<Series>,
    ) -> Self {
        let overview = stage.broker.api(Method::GET, "/api/overview", Value::Null).await;
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

    /// Prints the figures.
    pub fn print(&self) {
        for table in &self.tables {
            println!("\n## {}\n\n{}", table.title, table.as_markdown());
        }
    }
}

/// Replaces the record of a subject.
///
/// # Errors
///
/// [`io::Error`] when the file cannot be written.
pub fn keep(subject: &Subject, section: &Section) -> io::Result<()> {
    fs::create_dir_all(folder())?;
    let mut text = String::new();
    write_lines(&serde_json::to_value(section)?, 0, &mut text);
    fs::write(file_of(subject), text + "\n")
}

/// Returns the record of all subjects.
///
/// # Errors
///
/// [`io::Error`] when a file cannot be read or parsed.
pub fn recorded() -> io::Result<Results> {
    let mut results = Results::new();
    for subject in SUBJECTS {
        match fs::read(file_of(subject)) {
            Ok(bytes) => drop(results.insert(subject.name, serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(results)
}

/// Returns the folder of the record and charts.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("results")
}

fn file_of(subject: &Subject) -> PathBuf {
    folder().join(subject.name).with_extension("json")
}

/// Writes JSON with everything that holds no object on one line, such as a row of a table, so that a diff is as long
/// as the change.
fn write_lines(value: &Value, depth: usize, text: &mut String) {
    let (open, close, entries): (_, _, Vec<(String, &Value)>) = match value {
        Value::Array(items) if holds_object(value) => {
            ('[', ']', items.iter().map(|item| (String::new(), item)).collect())
        }
        Value::Object(fields) if fields.values().any(holds_object) => {
            ('{', '}', fields.iter().map(|(name, field)| (format!("{}: ", json!(name)), field)).collect())
        }
        flat => {
            let _ = write!(text, "{flat}");
            return;
        }
    };
    text.push(open);
    for (at, (name, entry)) in entries.into_iter().enumerate() {
        let comma = if at == 0 { "" } else { "," };
        let _ = write!(text, "{comma}\n{:indent$}{name}", "", indent = depth + 1);
        write_lines(entry, depth + 1, text);
    }
    let _ = write!(text, "\n{:depth$}{close}", "");
}

fn holds_object(value: &Value) -> bool {
    value.is_object() || value.as_array().is_some_and(|items| items.iter().any(holds_object))
}

fn said_by(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}
