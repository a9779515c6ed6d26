//! What is to be measured, from the command line.

/// Rounds that figures have to have; fewer are for looking.
const ROUNDS: u32 = 5;

/// Something that can be measured.
pub struct Subject {
    /// As on the command line.
    pub name: &'static str,
    /// What it tells.
    pub tells: &'static str,
    /// With fewer rounds its figures are printed and not recorded.
    pub rounds: u32,
    /// One of those that `growth` stands for.
    pub of_growth: bool,
}

const fn subject(name: &'static str, tells: &'static str) -> Subject {
    Subject { name, tells, rounds: ROUNDS, of_growth: false }
}

/// Its cases are compared with one another more than with themselves.
const fn growth(name: &'static str, tells: &'static str) -> Subject {
    Subject { name, tells, rounds: 1, of_growth: true }
}

/// Everything that can be measured, in the order in which it is, with what it tells.
pub const SUBJECTS: &[Subject] = &[
    subject("drain", "raw ceilings, then throughput, CPU per message and peak memory of a drain"),
    subject("peers", "the same drain beside all peers (with PEERS=all)"),
    subject(
        "latency",
        "commit to consumer at 500 events/s, beside a service that publishes after its commit",
    ),
    Subject {
        rounds: 3,
        ..subject("memory", "resident memory: idle, draining, one huge transaction, broker away")
    },
    subject("start", "start to first message with one row waiting"),
    subject("takeover", "kill -9 to the first message of a standby"),
    subject("kill", "lost, duplicated, out of order after a kill -9 in the middle of a drain"),
    growth("sources", "how many in one process, each its own database; 320,000 rows in all"),
    growth("backlog", "rows waiting when outboxd starts (10,000,000 with BACKLOG_MAX=10000000)"),
    growth("payload", "bytes of each row"),
    growth("transactions", "rows of each transaction"),
    growth("aggregates", "how many share the rows, in both orderings"),
    growth("queues", "bound, each of which gets every message"),
    growth("kinds", "of queue"),
    growth("distance", "round-trip time to the nodes, with in_flight_max at its default"),
    growth("window", "in_flight_max at 10 ms to the broker"),
];

/// What is to be measured.
pub struct Plan {
    /// Some of [`SUBJECTS`].
    pub subjects: Vec<&'static Subject>,
    /// How often each measurement is repeated, in alternation, when it is not as often as its subject needs.
    rounds: Option<u32>,
    /// Record figures of too few rounds as well, marked as preliminary.
    pub record: bool,
    /// Measure nothing, but write what is made from the recorded figures anew.
    pub write: bool,
    /// Measure the peers too: all, or the one of this folder.
    pub peers: Option<String>,
}

impl Plan {
    /// Reads the program's arguments; none asks for nothing, as when `cargo bench` runs every bench there is.
    pub fn from_arguments() -> Result<Option<Self>, String> {
        let mut plan = Self { subjects: Vec::new(), rounds: None, record: false, write: false, peers: None };
        for argument in std::env::args().skip(1) {
            if argument == "--bench" {
                // Cargo's own.
            } else if argument == "write" {
                plan.write = true;
            } else if argument == "--record" {
                plan.record = true;
            } else if let Some(peers) = argument.strip_prefix("--peers=") {
                plan.peers = Some(peers.to_owned());
            } else if argument == "all" {
                plan.subjects = SUBJECTS.iter().collect();
            } else if argument == "growth" {
                plan.subjects.extend(SUBJECTS.iter().filter(|subject| subject.of_growth));
            } else if let Some(rounds) = argument.strip_prefix("--rounds=") {
                let rounds = rounds.parse().map_err(|error| format!("--rounds={rounds}: {error}"))?;
                plan.rounds = Some(rounds);
            } else if let Some(subject) = SUBJECTS.iter().find(|subject| subject.name == argument) {
                plan.subjects.push(subject);
            } else {
                return Err(format!("{argument:?} is nothing that can be measured"));
            }
        }
        Ok(Some(plan).filter(|plan| plan.write || !plan.subjects.is_empty()))
    }

    /// How often a subject is measured.
    pub fn rounds_of(&self, subject: &Subject) -> u32 {
        self.rounds.unwrap_or(subject.rounds).max(1)
    }

    /// Whether what is measured of a subject goes on record: with too few rounds only when that is asked for.
    pub fn is_recorded(&self, subject: &Subject) -> bool {
        self.record || self.rounds_of(subject) >= subject.rounds
    }

    /// Whether the peer of that folder is measured.
    pub fn wants_peer(&self, subject: &Subject, folder: &str) -> bool {
        // What peers write to their own tables is WAL that every slot of the server reads.
        let alone = subject.name == "drain";
        !alone && self.peers.as_ref().is_some_and(|peers| peers == "all" || peers == folder)
    }

    /// Whether a subject is nothing without peers, and there are none.
    pub fn lacks_peers(&self, subject: &Subject) -> bool {
        subject.name == "peers" && self.peers.is_none()
    }

    /// How the program is used.
    pub fn usage() -> String {
        let mut text =
            "make bench [ONLY=\"SUBJECT ...\"] [ROUNDS=n] [PEERS=all] [RECORD=1]\nsubjects:\n".to_owned();
        for Subject { name, tells, .. } in SUBJECTS {
            text += &format!("  {name:<12}{tells}\n");
        }
        text += "  growth      all from sources to window\n";
        text += "  write       nothing new: RESULTS.md and pictures from what is on record in results\n";
        text
    }
}
