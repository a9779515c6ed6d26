//! Programs of this workspace, built when a test first asks for them. A stale executable in `target/` is never used.
//!
//! Each program is built alone, as it is delivered: without features that tests or other programs switch on in its dependencies.

use std::{
    collections::HashMap,
    env,
    path::PathBuf,
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
};

use serde_json::Value;

/// Builds a program from its current source and returns the executable. A release build of this crate builds in release mode, too.
///
/// # Panics
///
/// The program cannot be built. The compiler's messages are on stderr.
pub fn executable(name: &str) -> PathBuf {
    built(name, ["--bin", name])
}

/// Builds an example of a package and returns the executable, as [`executable`] does.
///
/// # Panics
///
/// The example cannot be built. The compiler's messages are on stderr.
pub fn example(package: &str, name: &str) -> PathBuf {
    built(package, ["--example", name])
}

fn built(package: &str, target: [&str; 2]) -> PathBuf {
    static BUILT: Mutex<Option<HashMap<String, PathBuf>>> = Mutex::new(None);
    // A build that failed has panicked in one test; the next test may build again.
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    built.get_or_insert_default().entry(target.join(" ")).or_insert_with(|| build(package, target)).clone()
}

fn build(package: &str, target: [&str; 2]) -> PathBuf {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--locked", "--quiet", "--message-format", "json-render-diagnostics"]);
    command.args(["--package", package]).args(target);
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    // Cargo's variables for the calling test are removed: build scripts that read them, such as ring's, would cause everything to be
    // compiled again, here and once more outside.
    let of_the_caller = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_"];
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(|name| of_the_caller.iter().any(|of| name.starts_with(of))) {
            command.env_remove(name);
        }
    }
    let output = command
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    assert!(output.status.success(), "{command:?} ended with {}", output.status);
    let messages = String::from_utf8_lossy(&output.stdout);
    let executable = messages.lines().rev().find_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        message.get("executable")?.as_str().map(PathBuf::from)
    });
    executable.unwrap_or_else(|| panic!("{command:?} named no executable"))
}
