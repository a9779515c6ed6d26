//! Peer: another relay behind a script `benches/peers/NAME/relay.sh` with the verbs `fetch`, `prepare` and `run`.
//!
//! `run` replaces the script by the relay, so that the process id is the relay's. `benches/peers/README.md` describes
//! the script's environment.

use crate::{
    queue::EXCHANGE,
    stage::{DATABASE, Stage, VHOST},
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};
use testkit::{
    process::{self, Process},
    run,
};
use tokio::process::Command;

/// Limit of a download; the largest archive has 700 MB.
const FETCH_LIMIT: Duration = Duration::from_secs(600);

/// Peer with its settings.
pub struct Entry {
    /// Folder in `benches/peers`.
    pub folder: &'static str,
    settings: &'static str,
    name: &'static str,
    /// Table of its service: another one if the relay removes rows, or needs other columns.
    table: &'static str,
    /// Most rows of a backlog: enough for a figure if 100,000 would take minutes.
    rows_max: u32,
}

const ALL: u32 = u32::MAX;

/// All peers, in their usual and their best settings.
pub const PEERS: &[Entry] = &[
    Entry {
        folder: "polling",
        settings: "usual",
        name: "polling loop",
        table: "outbox_polled",
        rows_max: ALL,
    },
    Entry {
        folder: "polling",
        settings: "best",
        name: "polling loop, tuned",
        table: "outbox_polled",
        rows_max: ALL,
    },
    Entry {
        folder: "debezium-server",
        settings: "usual",
        name: "Debezium Server",
        table: "outbox",
        rows_max: ALL,
    },
    Entry {
        folder: "debezium-server",
        settings: "best",
        name: "Debezium Server, tuned",
        table: "outbox",
        rows_max: ALL,
    },
    Entry {
        folder: "pg-transactional-outbox",
        settings: "usual",
        name: "pg-transactional-outbox",
        table: "outbox_passed_on",
        rows_max: 10_000,
    },
    Entry {
        folder: "pg-transactional-outbox",
        settings: "best",
        name: "pg-transactional-outbox, tuned",
        table: "outbox_passed_on_too",
        rows_max: 10_000,
    },
];

/// Fetched peer, ready to start.
pub struct Peer {
    entry: &'static Entry,
    script: PathBuf,
    folder: PathBuf,
    environment: Vec<(&'static str, String)>,
    process: Option<Process>,
}

impl Peer {
    /// Fetches missing files.
    ///
    /// # Errors
    ///
    /// The script's output when the download fails.
    pub async fn fetch(stage: &Stage, entry: &'static Entry) -> Result<Self, String> {
        let Entry { folder, settings, name, table, .. } = *entry;
        let benches = Path::new(env!("CARGO_MANIFEST_DIR"));
        let script = benches.join("peers").join(folder).join("relay.sh");
        let environment = vec![
            ("PEER_HOME", benches.join("../target/peers").join(folder).display().to_string()),
            ("PEER_NAME", format!("{}_{settings}", folder.replace('-', "_"))),
            ("PEER_SETTINGS", settings.to_owned()),
            ("PGHOST", "127.0.0.1".to_owned()),
            ("PGPORT", stage.postgres.port().to_string()),
            ("PGDATABASE", DATABASE.to_owned()),
            ("PGUSER", "postgres".to_owned()),
            ("AMQP_HOST", "127.0.0.1".to_owned()),
            ("AMQP_PORT", stage.broker.port().to_string()),
            ("AMQP_VHOST", VHOST.to_owned()),
            ("OUTBOX", table.to_owned()),
            ("EXCHANGE", EXCHANGE.to_owned()),
        ];
        let peer = Self { entry, script, folder: run::folder(folder), environment, process: None };
        let output = tokio::time::timeout(FETCH_LIMIT, peer.command("fetch").output()).await;
        match output {
            Err(_) => Err(format!("{name} was not fetched within {FETCH_LIMIT:?}")),
            Ok(Err(error)) => Err(format!("{}: {error}", peer.script.display())),
            Ok(Ok(output)) if !output.status.success() => {
                Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
            }
            Ok(Ok(_)) => Ok(peer),
        }
    }

    /// Returns the name in the tables.
    pub fn name(&self) -> &'static str {
        self.entry.name
    }

    /// Returns the table of its service.
    pub fn table(&self) -> &'static str {
        self.entry.table
    }

    /// Creates what the peer needs in the database, before the rows exist.
    pub async fn prepare(&self) -> Output {
        self.command("prepare").output().await.expect("the script runs")
    }

    /// Starts the peer.
    pub fn start(&mut self) {
        assert!(self.process.is_none(), "{} runs", self.name());
        let mut command = process::command(&self.script);
        command.arg("run").envs(self.environment.iter().cloned());
        self.process = Some(Process::spawn(command, &self.folder, &self.log_file()));
    }

    /// Returns the process id.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("it runs").pid()
    }

    /// Stops the peer in order, and kills it after `limit`.
    pub async fn stop(&mut self, limit: Duration) {
        let mut process = self.process.take().expect("it runs");
        process.signal("TERM");
        process.wait_or_kill(limit).await;
    }

    /// Kills the peer.
    pub async fn kill9(&mut self) {
        let mut process = self.process.take().expect("it runs");
        process.signal("KILL");
        process.wait_or_kill(Duration::from_secs(10)).await;
    }

    /// Returns the most rows of a backlog.
    pub fn rows_max(&self) -> u32 {
        self.entry.rows_max
    }

    /// Returns the output.
    pub fn log(&self) -> String {
        fs::read(self.log_file())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    fn log_file(&self) -> PathBuf {
        self.folder.join("log")
    }

    fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.script);
        command
            .arg(verb)
            .envs(self.environment.iter().cloned())
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }
}
