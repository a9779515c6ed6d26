//! Folder of this run, `target/nodes/<pid>-<start time>`, and the guardian that removes it.
//!
//! libtest has no hook after the last test, statics are not dropped, and a killed process cleans nothing up. So a
//! shell process in a session of its own holds one end of a pipe. When this process ends, in whatever way, the
//! guardian ends every process in the folder and removes the folder.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

const GUARDIAN: &str = include_str!("guardian.sh");

struct Run {
    directory: PathBuf,
    short_directory: PathBuf,
    /// Holds the pipe open as long as this process lives.
    _guardian: Child,
}

/// Returns the run's folder, absolute, created on first use.
pub fn directory() -> &'static Path {
    &run().directory
}

/// Creates a folder `<name>-<n>` in the run's folder.
pub fn folder(name: &str) -> PathBuf {
    let folder = directory().join(unique(name).replace('_', "-"));
    fs::create_dir(&folder).unwrap_or_else(|error| panic!("cannot create {}: {error}", folder.display()));
    folder
}

/// Returns a path below `/tmp` that this run may create, for sockets whose path in the run's folder would be too
/// long.
pub fn short_folder(name: &str) -> PathBuf {
    run().short_directory.join(name)
}

/// Returns `<prefix>_<n>` with a number that is unique in this process: for databases, slots, virtual hosts, queues.
pub fn unique(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("{prefix}_{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Ends every process in `folder` at once, and removes the folder.
pub fn sweep(folder: &Path) {
    let _ = guardian(folder, Path::new("")).stdin(Stdio::null()).status();
}

fn run() -> &'static Run {
    static RUN: OnceLock<Run> = OnceLock::new();
    RUN.get_or_init(|| {
        let nodes = target_directory().join("nodes");
        let name = run_name(std::process::id()).expect("this process is in /proc");
        let directory = nodes.join(&name);
        let short_directory = short_directory(&name);
        fs::create_dir_all(&directory)
            .unwrap_or_else(|error| panic!("cannot create {}: {error}", directory.display()));
        let guardian = guardian(&directory, &short_directory)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start setsid, of util-linux: {error}"));
        sweep_dead_runs(&nodes);
        Run { directory, short_directory, _guardian: guardian }
    })
}

/// Removes the remains of dead runs, whose guardian ended too, as in a power failure.
fn sweep_dead_runs(nodes: &Path) {
    for entry in fs::read_dir(nodes).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(pid) = name.split_once('-').and_then(|(pid, _)| pid.parse().ok()) else { continue };
        if run_name(pid).as_deref() != Some(&name) {
            // Not waited for, because it may take seconds and nothing depends on it.
            let _ = guardian(&entry.path(), &short_directory(&name)).stdin(Stdio::null()).spawn();
        }
    }
}

fn guardian(directory: &Path, short_directory: &Path) -> Command {
    let mut command = Command::new("setsid");
    command
        .args(["sh", "-c", GUARDIAN, "guardian"])
        .arg(directory)
        .arg(short_directory)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

fn short_directory(run_name: &str) -> PathBuf {
    Path::new("/tmp").join(format!("outboxd-nodes-{run_name}"))
}

/// Returns `<pid>-<start time in clock ticks since boot>`, which differs for a later process with the same pid.
fn run_name(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may contain anything, so fields are counted after it: 22 is the start time, 3 the first one here.
    let start_time = stat.rsplit_once(") ")?.1.split(' ').nth(22 - 3)?;
    Some(format!("{pid}-{start_time}"))
}

/// Returns the target folder from the executable's path, which also holds with `CARGO_TARGET_DIR`.
pub(super) fn target_directory() -> PathBuf {
    let executable = std::env::current_exe().expect("this process has an executable");
    target_of(&executable).expect("cargo puts executables into target/<profile>").to_owned()
}

/// Programs are in `target/<profile>`, tests in `target/<profile>/deps`, examples in `target/<profile>/examples`.
fn target_of(executable: &Path) -> Option<&Path> {
    let folder = executable.parent()?;
    let profile =
        if folder.ends_with("deps") || folder.ends_with("examples") { folder.parent()? } else { folder };
    profile.parent()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_tests_and_examples_share_the_target_folder() {
        for executable in ["debug/demo", "release/demo", "debug/deps/it-0123", "debug/examples/reader"] {
            let executable = Path::new("/src/target").join(executable);
            assert_eq!(target_of(&executable), Some(Path::new("/src/target")), "{}", executable.display());
        }
    }
}
