//! outboxd as a process: started, watched, killed, frozen.

use super::{instance::Instance, process, programs};
use serde_json::Value;
use std::{
    fs, io,
    ops::{Deref, DerefMut},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

/// At most one running `outboxd run`, with its configuration and log. Killed when dropped.
#[derive(Debug)]
pub struct Daemon {
    instance: Instance,
    /// Environment variables of the next start, and of other commands.
    pub environment: Vec<(String, String)>,
}

impl Daemon {
    /// Starts outboxd with `config` and an added `[admin]` table. Does not wait for it.
    pub fn start(config: &str) -> Self {
        let mut daemon = Self::prepare(config);
        daemon.start_again();
        daemon
    }

    /// Writes the configuration as [`Daemon::start`] does, without starting outboxd: for `check` or `setup` first.
    pub fn prepare(config: &str) -> Self {
        let daemon = Self { instance: Instance::new("outboxd"), environment: Vec::new() };
        // At the end, because `config` may begin with keys of the top level.
        let admin = format!("\n[admin]\nlisten = \"127.0.0.1:{}\"\n", daemon.port());
        fs::write(daemon.config_file(), config.to_owned() + &admin).expect("configuration written");
        // The URLs hold passwords.
        fs::set_permissions(daemon.config_file(), fs::Permissions::from_mode(0o600)).expect("mode set");
        daemon
    }

    /// The configuration file, for a test that changes it between two starts.
    pub fn config_file(&self) -> PathBuf {
        self.folder().join("outboxd.toml")
    }

    /// Peak memory of the running process in MB: `VmHWM` of proc(5).
    pub fn memory_peak_mb(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the daemon runs");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"));
        peak.and_then(|kb| kb.trim().parse::<u64>().ok()).expect("a peak in kB") / 1024
    }

    /// Resets the peak memory: `clear_refs` of proc(5). Only root may do so for a process that may not dump core; for other users
    /// the peak stays that of the whole process, which is never less.
    pub fn forget_memory_peak(&self) {
        match fs::write(format!("/proc/{}/clear_refs", self.pid()), "5") {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                println!("the peak of memory counts from the start of the process: clear_refs: {error}");
            }
            Err(error) => panic!("the peak of memory cannot be reset: {error}"),
        }
    }

    /// Starts outboxd after an end. Does not wait for it.
    pub fn start_again(&mut self) {
        self.start_again_logging_to(&self.log_file());
    }

    /// Starts outboxd after an end, with its output in another file, such as `/dev/full`.
    pub fn start_again_logging_to(&mut self, log: &Path) {
        let mut command = process::command(programs::executable("outboxd"));
        command.arg("--config").arg(self.config_file()).arg("run");
        command.envs(self.environment.iter().cloned());
        self.launch(command, log);
    }

    /// Runs another command with the same configuration to its end: `&["check"]`.
    pub async fn command(&self, arguments: &[&str]) -> Output {
        self.begin_command(arguments).wait_with_output().await.expect("the command ends")
    }

    /// Starts another command with the same configuration. Killed when dropped.
    pub fn begin_command(&self, arguments: &[&str]) -> tokio::process::Child {
        let mut command = process::short_command(programs::executable("outboxd"));
        command
            .arg("--config")
            .arg(self.config_file())
            .args(arguments)
            .envs(self.environment.iter().cloned())
            .current_dir(self.folder())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command.spawn().expect("the daemon's executable runs")
    }

    /// `/status`.
    pub async fn status(&self) -> Value {
        let (_, text) = self.get_text("/status").await;
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("/status is no JSON: {error}: {text}"))
    }

    /// Status code and text of `/readyz`.
    pub async fn readyz(&self) -> (u16, String) {
        self.get_text("/readyz").await
    }

    /// Value of a source's counter or gauge without further labels, such as `messages_published_total`. 0 when it is absent.
    pub async fn count(&self, source: &str, name: &str) -> usize {
        self.metric(&format!("outboxd_{name}{{source=\"{source}\"}}")).await.unwrap_or_default() as usize
    }

    /// Reconnects of a source to one side: `postgres` or `rabbitmq`.
    pub async fn reconnects(&self, source: &str, side: &str) -> usize {
        let series = format!("outboxd_reconnects_total{{side=\"{side}\",source=\"{source}\"}}");
        self.metric(&series).await.unwrap_or_else(|| panic!("no series {series}")) as usize
    }

    /// Stops outboxd like an operator, and starts it again.
    pub async fn restart(&mut self) {
        let status = self.sigterm(Duration::from_secs(30)).await;
        assert!(status.success(), "the daemon ended with {status}; {}", self.log_tail());
        self.start_again();
    }
}

impl Deref for Daemon {
    type Target = Instance;

    fn deref(&self) -> &Instance {
        &self.instance
    }
}

impl DerefMut for Daemon {
    fn deref_mut(&mut self) -> &mut Instance {
        &mut self.instance
    }
}
