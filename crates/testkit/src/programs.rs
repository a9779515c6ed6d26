//! The programs of this workspace, built when they are first asked for: never what happens to lie in `target/`.
//!
//! Each is built alone, as it is delivered: a feature that a test or another program switches on in a dependency is not in it.

use std::{
    collections::HashMap,
    env,
    path::PathBuf,
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
};

use serde_json::Value;

/// The executable of a program, with everything that was changed in its source. In a release build of this crate it is one, too.
///
/// # Panics
///
/// The program cannot be built: the compiler's words are on stderr.
pub fn executable(name: &str) -> PathBuf {
    static BUILT: Mutex<Option<HashMap<String, PathBuf>>> = Mutex::new(None);
    // A test that failed in here has said why, and the next one may build.
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    built.get_or_insert_default().entry(name.to_owned()).or_insert_with(|| build(name)).clone()
}

fn build(name: &str) -> PathBuf {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--locked", "--quiet", "--message-format", "json-render-diagnostics"]);
    command.args(["--package", name, "--bin", name]);
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    // What cargo says to a program of its caller is not for another build: build scripts that look at it, such as ring's, would have
    // everything compiled again, here and once more outside.
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
