//! Processes of this run: in a session of their own, with output in a log file. The guardian finds them by working
//! directory or record.

use std::{
    ffi::OsStr,
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// Shell command that writes `PID.process` into the working directory: the process's line of proc(5), with its id and
/// start time. Only root sees the working directory of a process that may not dump core.
const RECORD: &str = r#"IFS= read -r stat <"/proc/$$/stat" && printf '%s\n' "$stat" >"$$.process""#;

/// Running process. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

/// Returns a command that runs `program`, to complete with arguments and environment and to pass to
/// [`Process::spawn`].
///
/// It runs in a session of its own, so that Ctrl-C ends the test first, and without core dumps, because nodes are
/// killed here. The child keeps its process id: the program replaces the shell and setsid.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!(r#"ulimit -c 0; {RECORD}; exec setsid "$@""#)).arg("sh").arg(program);
    command
}

/// As [`command`], but in the test's session, for a command that the test waits for. Run it in a folder of this run.
pub fn short_command(program: impl AsRef<OsStr>) -> tokio::process::Command {
    let mut command = tokio::process::Command::new("sh");
    command.arg("-c").arg(format!(r#"{RECORD}; exec "$@""#)).arg("sh").arg(program);
    command
}

impl Process {
    /// Starts a command made by [`command`] in `directory`, inside the run's folder. Appends its output to `log`.
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

    /// Returns the process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by name: `TERM`, `KILL`, `STOP`. Ignores a process that has ended.
    pub fn signal(&self, name: &str) {
        signal(&[self.pid()], name);
    }

    /// Returns the exit status if the process has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Waits for the end of the process, at most `limit`.
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

    /// Waits for the end of the process, and kills it after `limit`. Returns whether it ended by itself.
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

/// Sends a signal to processes by the shell's `kill`.
pub fn signal(pids: &[u32], name: &str) {
    let _ = Command::new("sh")
        .args(["-c", r#"kill -s "$@""#, "sh", name])
        .args(pids.iter().map(u32::to_string))
        .stderr(Stdio::null())
        .status();
}

/// Returns the children of `parent`.
pub fn children(parent: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| stat_fields(*pid).is_some_and(|(_, its_parent)| its_parent == parent))
        .collect()
}

/// Tells whether a process runs. A zombie does not.
pub fn is_running(pid: u32) -> bool {
    stat_fields(pid).is_some_and(|(state, _)| state != "Z")
}

fn stat_fields(pid: u32) -> Option<(String, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}

/// Returns the last lines of a log, for the message of a failure.
pub fn tail(log: &Path) -> String {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let shown = &lines[lines.len().saturating_sub(40)..];
    format!("the end of {}:\n{}", log.display(), shown.join("\n"))
}

/// Returns the first existing path.
pub fn first_existing(candidates: impl IntoIterator<Item = PathBuf>) -> Option<PathBuf> {
    candidates.into_iter().find(|path| path.exists())
}
