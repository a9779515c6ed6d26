//! Completions of the command line for bash, zsh and fish.

use clap::CommandFactory as _;
use clap_complete::{Shell, generate};
use outboxd::cli::Cli;

/// The completions of one shell.
#[derive(Debug)]
pub struct Completion {
    /// Name that the shell looks for.
    pub file: &'static str,
    /// The script.
    pub text: Vec<u8>,
}

/// The completions of every shell.
pub fn all() -> Vec<Completion> {
    let shells = [(Shell::Bash, "outboxd"), (Shell::Zsh, "_outboxd"), (Shell::Fish, "outboxd.fish")];
    let completions = shells.map(|(shell, file)| {
        let mut text = Vec::new();
        generate(shell, &mut Cli::command(), "outboxd", &mut text);
        Completion { file, text }
    });
    completions.into()
}
