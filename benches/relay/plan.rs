//! What is to be measured, from the command line.

/// Fewer rounds are for looking: the figures are printed and not recorded.
pub const ROUNDS_RECORDED: u32 = 5;

/// Everything that can be measured, in the order in which it is, with what it tells.
pub const SUBJECTS: &[(&str, &str)] = &[
    ("drain", "raw ceilings, then throughput, CPU per message and peak memory of a drain"),
    ("latency", "commit to consumer at 500 events/s, beside a service that publishes after its commit"),
    ("memory", "resident memory: idle, draining, one huge transaction, broker away"),
    ("start", "start to first message with one row waiting"),
    ("takeover", "kill -9 to the first message of a standby"),
    ("kill", "lost, duplicated, out of order after a kill -9 in the middle of a drain"),
    ("growth", "sources, backlogs, payloads, transactions, aggregates, queues, round-trip times"),
];

/// What is to be measured.
pub struct Plan {
    /// Names from [`SUBJECTS`].
    pub subjects: Vec<&'static str>,
    /// How often each measurement is repeated, in alternation.
    pub rounds: u32,
    /// Measure the peers too: all, or the one of this folder.
    pub peers: Option<String>,
}

impl Plan {
    /// Reads the program's arguments; none asks for nothing, as when `cargo bench` runs every bench there is.
    pub fn from_arguments() -> Result<Option<Self>, String> {
        let mut plan = Self { subjects: Vec::new(), rounds: ROUNDS_RECORDED, peers: None };
        for argument in std::env::args().skip(1) {
            if argument == "--bench" {
                // Cargo's own.
            } else if let Some(peers) = argument.strip_prefix("--peers=") {
                plan.peers = Some(peers.to_owned());
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

    /// Whether the peer of that folder is measured.
    pub fn wants_peer(&self, folder: &str) -> bool {
        self.peers.as_ref().is_some_and(|peers| peers == "all" || peers == folder)
    }

    /// How the program is used.
    pub fn usage() -> String {
        let mut text = "make bench [ONLY=\"SUBJECT ...\"] [ROUNDS=n] [PEERS=all]\nsubjects:\n".to_owned();
        for (name, tells) in SUBJECTS {
            text += &format!("  {name:<12}{tells}\n");
        }
        text
    }
}
