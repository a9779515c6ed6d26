//! A process that belongs to this run: own session, output in a log file, found by the guardian through its working
//! directory or its record.

use std::{
    ffi::OsStr,
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// Writes `PID.process` into the working directory, what proc(5) says of the process: its id, and the time of its start. The working
/// directory of a process that may not dump core is shown to root only.
const RECORD: &str = r#"IFS= read -r stat <"/proc/$$/stat" && printf '%s\n' "$stat" >"$$.process""#;

/// A running process; killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

/// `program` as a command to complete with arguments and environment and to hand to [`Process::spawn`].
///
/// In a session of its own, so that Ctrl-C ends the test first; without core dumps, because nodes get killed here.
/// The process id stays the one of the child: both the shell and setsid are replaced by what they run.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!(r#"ulimit -c 0; {RECORD}; exec setsid "$@""#)).arg("sh").arg(program);
    command
}

/// As [`command`], in the session of the test: for what it waits for. To be run in a folder of this run.
pub fn short_command(program: impl AsRef<OsStr>) -> tokio::process::Command {
    let mut command = tokio::process::Command::new("sh");
    command.arg("-c").arg(format!(r#"{RECORD}; exec "$@""#)).arg("sh").arg(program);
    command
}

impl Process {
    /// Starts `command` (of [`command`]) in `directory`, which lies in the run's folder, with its output appended to `log`.
    pub fn spawn(mut command: Command, directory: &Path, log: &Path) -> Self {
        let out = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .unwrap_or_else(|error| panic!("cannot write {}: {error}", log.display()));
        let err = out.try_clone().expect("a file can be duplicated");
        let child = command
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        Self { child }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends the signal of that name: `TERM`, `KILL`, `STOP`. One that is no longer there is no error.
    pub fn signal(&self, name: &str) {
        signal(&[self.pid()], name);
    }

    /// How it ended, when it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Waits for its end, at most that long.
    pub async fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.ended() {
                return Some(status);
            }
            if Instant::now() > deadline {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits for its end, and kills it when it has not ended after `limit`. Says whether it ended by itself.
    pub async fn wait_or_kill(&mut self, limit: Duration) -> bool {
        if self.wait(limit).await.is_some() {
            return true;
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        false
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal to many, by the `kill` that every shell has.
pub fn signal(pids: &[u32], name: &str) {
    let _ = Command::new("sh")
        .args(["-c", r#"kill -s "$@""#, "sh", name])
        .args(pids.iter().map(u32::to_string))
        .stderr(Stdio::null())
        .status();
}

/// The processes whose parent is `parent`.
pub fn children(parent: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| stat_fields(*pid).is_some_and(|(_, its_parent)| its_parent == parent))
        .collect()
}

/// Whether a process of that id runs; one that ended and that nobody has waited for does not.
pub fn is_running(pid: u32) -> bool {
    stat_fields(pid).is_some_and(|(state, _)| state != "Z")
}

fn stat_fields(pid: u32) -> Option<(String, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}

/// The last lines of a log, for the message of a failure.
pub fn tail(log: &Path) -> String {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let shown = &lines[lines.len().saturating_sub(40)..];
    format!("the end of {}:\n{}", log.display(), shown.join("\n"))
}

/// The first of `candidates` that is there.
pub fn first_existing(candidates: impl IntoIterator<Item = PathBuf>) -> Option<PathBuf> {
    candidates.into_iter().find(|path| path.exists())
}
