//! What is to be measured, from the command line.

/// Fewer rounds are for looking: the figures are printed and not recorded.
pub const ROUNDS_RECORDED: u32 = 5;

/// Everything that can be measured, in the order in which it is, with what it tells.
pub const SUBJECTS: &[(&str, &str)] =
    &[("drain", "raw ceilings, then throughput, CPU per message and peak memory of a drain")];

/// What is to be measured.
pub struct Plan {
    /// Names from [`SUBJECTS`].
    pub subjects: Vec<&'static str>,
    /// How often each measurement is repeated, in alternation.
    pub rounds: u32,
}

impl Plan {
    /// Reads the program's arguments; none asks for nothing, as when `cargo bench` runs every bench there is.
    pub fn from_arguments() -> Result<Option<Self>, String> {
        let mut plan = Self { subjects: Vec::new(), rounds: ROUNDS_RECORDED };
        for argument in std::env::args().skip(1) {
            if argument == "--bench" {
                // Cargo's own.
            } else if argument == "all" {
                plan.subjects = SUBJECTS.iter().map(|(name, _)| *name).collect();
            } else if let Some(rounds) = argument.strip_prefix("--rounds=") {
                plan.rounds = rounds.parse().map_err(|error| format!("--rounds={rounds}: {error}"))?;
            } else if let Some((name, _)) = SUBJECTS.iter().find(|(name, _)| *name == argument) {
                plan.subjects.push(name);
            } else {
                return Err(format!("{argument:?} is nothing that can be measured"));
            }
        }
        Ok(Some(plan).filter(|plan| !plan.subjects.is_empty() && plan.rounds > 0))
    }

    /// How the program is used.
    pub fn usage() -> String {
        let mut text = "make bench [ONLY=\"SUBJECT ...\"] [ROUNDS=n]\nsubjects:\n".to_owned();
        for (name, tells) in SUBJECTS {
            text += &format!("  {name:<12}{tells}\n");
        }
        text
    }
}
