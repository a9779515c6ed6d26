//! Another relay, behind a script of its own in `benches/peers/NAME/relay.sh`: `fetch`, `prepare`, `run`.
//!
//! `run` replaces the script by the relay, so that its process id is the relay's. `benches/peers/README.md` says what
//! a script finds in its environment.

use crate::{
    queue::EXCHANGE,
    stage::{DATABASE, Stage, VHOST},
    support::process::{self, Process},
    support::run,
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};
use tokio::process::Command;

/// An archive of 700 MB is the largest.
const FETCH_LIMIT: Duration = Duration::from_secs(600);

/// Every peer, in its usual and in its best settings: folder, settings, what its rows are called.
pub const PEERS: &[(&str, &str, &str)] = &[
    ("polling", "usual", "polling loop"),
    ("polling", "best", "polling loop, tuned"),
    ("debezium-server", "usual", "Debezium Server"),
    ("debezium-server", "best", "Debezium Server, tuned"),
];

/// A peer, fetched and ready to be started.
pub struct Peer {
    name: String,
    script: PathBuf,
    folder: PathBuf,
    environment: Vec<(&'static str, String)>,
    process: Option<Process>,
}

impl Peer {
    /// Fetches what is not there yet. The error is what the script said.
    pub async fn fetch(stage: &Stage, folder: &str, settings: &str, name: &str) -> Result<Self, String> {
        let package = Path::new(env!("CARGO_MANIFEST_DIR"));
        let script = package.join("benches/peers").join(folder).join("relay.sh");
        let environment = vec![
            ("PEER_HOME", package.join("target/peers").join(folder).display().to_string()),
            ("PEER_NAME", format!("{}_{settings}", folder.replace('-', "_"))),
            ("PEER_SETTINGS", settings.to_owned()),
            ("PGHOST", "127.0.0.1".to_owned()),
            ("PGPORT", stage.postgres.port().to_string()),
            ("PGDATABASE", DATABASE.to_owned()),
            ("PGUSER", "postgres".to_owned()),
            ("AMQP_HOST", "127.0.0.1".to_owned()),
            ("AMQP_PORT", stage.broker.port().to_string()),
            ("AMQP_VHOST", VHOST.to_owned()),
            ("EXCHANGE", EXCHANGE.to_owned()),
        ];
        let peer =
            Self { name: name.to_owned(), script, folder: run::folder(folder), environment, process: None };
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

    /// What its rows are called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Makes what it needs in the database, before there are rows.
    pub async fn prepare(&self) -> Output {
        self.command("prepare").output().await.expect("the script runs")
    }

    /// Starts it.
    pub fn start(&mut self) {
        assert!(self.process.is_none(), "{} runs", self.name);
        let mut command = process::command(&self.script);
        command.arg("run").envs(self.environment.iter().cloned());
        self.process = Some(Process::spawn(command, &self.folder, &self.log_file()));
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("it runs").pid()
    }

    /// Asks it to end, and kills it when it does not.
    pub async fn stop(&mut self, limit: Duration) {
        let mut process = self.process.take().expect("it runs");
        process.signal("TERM");
        process.wait_or_kill(limit).await;
    }

    /// Kills it.
    pub async fn kill9(&mut self) {
        let mut process = self.process.take().expect("it runs");
        process.signal("KILL");
        process.wait_or_kill(Duration::from_secs(10)).await;
    }

    /// What it has printed.
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
