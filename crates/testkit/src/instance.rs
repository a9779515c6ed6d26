//! A program of this workspace as a process: one at a time, with its folder, port and log.
//!
//! [`Daemon`](super::Daemon) and [`Service`](super::Service) add how their program is started and asked.

use super::{
    http,
    ports::Port,
    process::{self, Process},
    run,
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    time::{Duration, Instant},
};

/// At most one running process of a program. Killed when dropped.
#[derive(Debug)]
pub struct Instance {
    program: &'static str,
    folder: PathBuf,
    port: Port,
    process: Option<Process>,
}

impl Instance {
    /// Makes the folder and reserves the port. Starts nothing.
    pub(super) fn new(program: &'static str) -> Self {
        Self { program, folder: run::folder(program), port: Port::reserve(), process: None }
    }

    /// Starts `command` (of [`process::command`]), with its output appended to `log`.
    pub(super) fn launch(&mut self, command: Command, log: &Path) {
        assert!(self.process.is_none(), "{} has not been stopped", self.program);
        self.process = Some(Process::spawn(command, &self.folder, log));
    }

    /// Name of the program.
    pub fn program(&self) -> &'static str {
        self.program
    }

    /// Folder of the process.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Port of the HTTP endpoints.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Output of all processes so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// File with the output.
    pub fn log_file(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// The last lines of the log, for the message of a failure.
    pub(super) fn log_tail(&self) -> String {
        process::tail(&self.log_file())
    }

    /// Tells whether the process was started and not stopped since.
    pub fn is_wanted(&self) -> bool {
        self.process.is_some()
    }

    /// Process id. Panics when no process runs.
    pub fn pid(&self) -> u32 {
        self.running().pid()
    }

    /// Waits until `/readyz` answers 200.
    pub async fn wait_ready(&mut self, limit: Duration) {
        let deadline = Instant::now() + limit;
        loop {
            // Decided before the question: whoever was held up for the whole limit still asks once.
            let is_last = Instant::now() >= deadline;
            let answer = http::get(self.port(), "/readyz").await;
            if matches!(&answer, Ok((status, _)) if status.is_success()) {
                return;
            }
            if let Some(status) = self.ended() {
                panic!("{} ended ({status}) before it was ready; {}", self.program, self.log_tail());
            }
            assert!(!is_last, "{} is not ready: {answer:?}; {}", self.program, self.log_tail());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// `/metrics`.
    pub async fn metrics(&self) -> String {
        self.get_text("/metrics").await.1
    }

    /// Value of one series of `/metrics`, with its labels: `name{source="orders"}`.
    pub async fn metric(&self, series: &str) -> Option<f64> {
        let metrics = self.metrics().await;
        metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
    }

    /// Status and body of a GET. Panics without an answer.
    pub async fn get_text(&self, path: &str) -> (u16, String) {
        let answer = http::get(self.port(), path).await;
        let (status, text) =
            answer.unwrap_or_else(|error| panic!("{} {path}: {error}; {}", self.program, self.log_tail()));
        (status.as_u16(), text)
    }

    /// Exit status of a process that ended by itself.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.as_mut().and_then(Process::ended)
    }

    /// Kills the process with SIGKILL.
    pub async fn kill9(&mut self) {
        self.running().signal("KILL");
        self.wait(Duration::from_secs(10)).await;
    }

    /// Sends SIGTERM and waits for the end.
    pub async fn sigterm(&mut self, limit: Duration) -> ExitStatus {
        self.running().signal("TERM");
        self.wait(limit).await
    }

    /// Waits until the process ends by itself.
    pub async fn wait(&mut self, limit: Duration) -> ExitStatus {
        let mut process =
            self.process.take().unwrap_or_else(|| panic!("no process of {} runs", self.program));
        let ended = process.wait(limit).await;
        ended.unwrap_or_else(|| panic!("{} did not end within {limit:?}; {}", self.program, self.log_tail()))
    }

    /// Freezes the process, which keeps its connections.
    pub fn suspend(&self) {
        self.running().signal("STOP");
    }

    /// Resumes a frozen process.
    pub fn resume(&self) {
        self.running().signal("CONT");
    }

    fn running(&self) -> &Process {
        self.process.as_ref().unwrap_or_else(|| panic!("no process of {} runs", self.program))
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.process = None;
        if std::thread::panicking() {
            eprintln!("{}", self.log_tail());
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}
