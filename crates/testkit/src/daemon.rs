//! The real daemon as a process: started, watched, killed, frozen.

use super::{
    http,
    ports::Port,
    process::{self, Process},
    programs, run,
};
use serde_json::Value;
use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

/// One `outboxd run` at a time, with its configuration and log. Killed when dropped.
#[derive(Debug)]
pub struct Daemon {
    folder: PathBuf,
    admin: Port,
    process: Option<Process>,
    /// Variables of its next life, and of its other commands.
    pub environment: Vec<(String, String)>,
}

impl Daemon {
    /// Starts the daemon with `config`, which has no `[admin]` table: that one is added here. Does not wait for it.
    pub fn start(config: &str) -> Self {
        let mut daemon = Self::prepare(config);
        daemon.start_again();
        daemon
    }

    /// As [`Daemon::start`], without starting it: for `check` or `setup` first.
    pub fn prepare(config: &str) -> Self {
        let daemon = Self {
            folder: run::folder("outboxd"),
            admin: Port::reserve(),
            process: None,
            environment: Vec::new(),
        };
        // Behind the rest, which may begin with keys of the top level.
        let admin = format!("\n[admin]\nlisten = \"127.0.0.1:{}\"\n", daemon.admin.number());
        fs::write(daemon.config_file(), config.to_owned() + &admin).expect("configuration written");
        // Its URLs hold passwords.
        fs::set_permissions(daemon.config_file(), fs::Permissions::from_mode(0o600)).expect("mode set");
        daemon
    }

    /// Its configuration file, for a test that changes it between two lives.
    pub fn config_file(&self) -> PathBuf {
        self.folder.join("outboxd.toml")
    }

    /// What it printed so far, in all its lives.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// The port of its admin endpoints.
    pub fn admin_port(&self) -> u16 {
        self.admin.number()
    }

    /// Its process id. Panics when it does not run.
    pub fn pid(&self) -> u32 {
        self.running().pid()
    }

    /// The most memory it had at any time of this life, in MB: `VmHWM` of proc(5).
    pub fn memory_peak_mb(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the daemon runs");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        peak.and_then(|kb| kb.trim().parse::<u64>().ok()).expect("a peak in kB") / 1024
    }

    /// The peak counts from now on: `clear_refs` of proc(5). Of a process that may not dump core only root may write that; to
    /// others the peak stays that of the whole life, which is never less.
    pub fn forget_memory_peak(&self) {
        match fs::write(format!("/proc/{}/clear_refs", self.pid()), "5") {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                println!("the peak of memory counts from the start of the process: clear_refs: {error}");
            }
            Err(error) => panic!("the peak is not forgotten: {error}"),
        }
    }

    /// Whether it was started and nobody has stopped it.
    pub fn is_wanted(&self) -> bool {
        self.process.is_some()
    }

    /// How it ended by itself, when it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.as_mut().and_then(Process::ended)
    }

    /// Starts it again after an end.
    pub fn start_again(&mut self) {
        self.start_again_logging_to(&self.log_file());
    }

    /// As [`Daemon::start_again`], with its output going elsewhere: to `/dev/full`.
    pub fn start_again_logging_to(&mut self, log: &Path) {
        assert!(self.process.is_none(), "the daemon has not been stopped");
        let mut command = process::command(programs::executable("outboxd"));
        command.arg("--config").arg(self.config_file()).arg("run");
        command.envs(self.environment.iter().cloned());
        self.process = Some(Process::spawn(command, &self.folder, log));
    }

    /// Runs another command of the same configuration to its end: `&["check"]`.
    pub async fn command(&self, arguments: &[&str]) -> Output {
        self.begin_command(arguments).wait_with_output().await.expect("the command ends")
    }

    /// Begins another command, for a test that does something to it. Killed when dropped.
    pub fn begin_command(&self, arguments: &[&str]) -> tokio::process::Child {
        let mut command = process::short_command(programs::executable("outboxd"));
        command
            .arg("--config")
            .arg(self.config_file())
            .args(arguments)
            .envs(self.environment.iter().cloned())
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command.spawn().expect("the daemon's executable runs")
    }

    /// Waits until `/readyz` answers 200.
    pub async fn wait_ready(&mut self, limit: Duration) {
        let deadline = Instant::now() + limit;
        loop {
            let answer = http::get(self.admin_port(), "/readyz").await;
            if matches!(&answer, Ok((status, _)) if status.is_success()) {
                return;
            }
            if let Some(status) = self.process.as_mut().and_then(Process::ended) {
                panic!("the daemon ended ({status}) before it was ready; {}", self.log_tail());
            }
            assert!(Instant::now() < deadline, "the daemon is not ready: {answer:?}; {}", self.log_tail());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// `/status`.
    pub async fn status(&self) -> Value {
        let text = self.get("/status").await;
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("/status is no JSON: {error}: {text}"))
    }

    /// Status code and text of `/readyz`.
    pub async fn readyz(&self) -> (u16, String) {
        let answer = http::get(self.admin_port(), "/readyz").await;
        let (status, text) = answer.unwrap_or_else(|error| panic!("/readyz: {error}; {}", self.log_tail()));
        (status.as_u16(), text)
    }

    /// One counter or gauge of a source that has no other label: `messages_published_total`. Not there yet is 0.
    pub async fn count(&self, source: &str, name: &str) -> usize {
        self.metric(&format!("outboxd_{name}{{source=\"{source}\"}}")).await.unwrap_or_default() as usize
    }

    /// How often a source has made one of its connections anew: `postgres` or `rabbitmq`.
    pub async fn reconnects(&self, source: &str, side: &str) -> usize {
        let series = format!("outboxd_reconnects_total{{side=\"{side}\",source=\"{source}\"}}");
        self.metric(&series).await.unwrap_or_else(|| panic!("no series {series}")) as usize
    }

    /// `/metrics`.
    pub async fn metrics(&self) -> String {
        self.get("/metrics").await
    }

    /// The value of one series of `/metrics`, named as it stands there: `name{source="orders"}`.
    pub async fn metric(&self, series: &str) -> Option<f64> {
        let metrics = self.metrics().await;
        metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
    }

    /// Kills it.
    pub async fn kill9(&mut self) {
        self.running().signal("KILL");
        self.wait(Duration::from_secs(10)).await;
    }

    /// Asks it to stop and waits for its end.
    pub async fn sigterm(&mut self, limit: Duration) -> ExitStatus {
        self.running().signal("TERM");
        self.wait(limit).await
    }

    /// Waits until it ends by itself.
    pub async fn wait(&mut self, limit: Duration) -> ExitStatus {
        let mut process = self.process.take().expect("the daemon runs");
        let ended = process.wait(limit).await;
        ended.unwrap_or_else(|| panic!("the daemon did not end within {limit:?}; {}", self.log_tail()))
    }

    /// Freezes it: it keeps its connections and does nothing.
    pub fn suspend(&self) {
        self.running().signal("STOP");
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.running().signal("CONT");
    }

    /// Stops it as an operator does, and starts it again.
    pub async fn restart(&mut self) {
        let status = self.sigterm(Duration::from_secs(30)).await;
        assert!(status.success(), "the daemon ended with {status}; {}", self.log_tail());
        self.start_again();
    }

    async fn get(&self, path: &str) -> String {
        let answer = http::get(self.admin_port(), path).await;
        answer.unwrap_or_else(|error| panic!("{path}: {error}; {}", self.log_tail())).1
    }

    fn running(&self) -> &Process {
        self.process.as_ref().expect("the daemon runs")
    }

    /// Where its output goes.
    pub fn log_file(&self) -> PathBuf {
        self.folder.join("log")
    }

    fn log_tail(&self) -> String {
        process::tail(&self.log_file())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.process = None;
        if std::thread::panicking() {
            eprintln!("{}", self.log_tail());
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}
