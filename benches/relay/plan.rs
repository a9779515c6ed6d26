//! Plan of a run, from the command line.

/// Rounds that recorded figures need. Fewer are for a look.
const ROUNDS: u32 = 5;

/// Subject of a measurement.
pub struct Subject {
    /// Name on the command line.
    pub name: &'static str,
    /// Description.
    pub tells: &'static str,
    /// Rounds that its recorded figures need.
    pub rounds: u32,
    /// Set if `growth` includes it.
    pub of_growth: bool,
}

const fn subject(name: &'static str, tells: &'static str) -> Subject {
    Subject { name, tells, rounds: ROUNDS, of_growth: false }
}

/// Creates a subject of growth, whose cases are compared with one another.
const fn growth(name: &'static str, tells: &'static str) -> Subject {
    Subject { name, tells, rounds: 1, of_growth: true }
}

/// All subjects in their order, with descriptions.
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

/// Plan of a run.
pub struct Plan {
    /// Subjects to measure.
    pub subjects: Vec<&'static Subject>,
    /// Rounds of each measurement, in alternation, if not those of its subject.
    rounds: Option<u32>,
    /// Set to record figures of too few rounds, marked as preliminary.
    pub record: bool,
    /// Set to measure nothing and only write the report of the recorded figures.
    pub write: bool,
    /// Peers to measure: all, or the one in this folder.
    pub peers: Option<String>,
}

impl Plan {
    /// Reads the program's arguments. Without any, as when `cargo bench` runs every bench, there is no plan.
    ///
    /// # Errors
    ///
    /// The problem of an invalid argument.
    pub fn from_arguments() -> Result<Option<Self>, String> {
        let mut plan = Self { subjects: Vec::new(), rounds: None, record: false, write: false, peers: None };
        for argument in std::env::args().skip(1) {
            if argument == "--bench" {
                // Cargo's argument.
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

    /// Returns the rounds of a subject.
    pub fn rounds_of(&self, subject: &Subject) -> u32 {
        self.rounds.unwrap_or(subject.rounds).max(1)
    }

    /// Tells whether a subject's figures are recorded: those of too few rounds only on request.
    pub fn is_recorded(&self, subject: &Subject) -> bool {
        self.record || self.rounds_of(subject) >= subject.rounds
    }

    /// Tells whether the peer in this folder is measured.
    pub fn wants_peer(&self, subject: &Subject, folder: &str) -> bool {
        // Peers' own tables write WAL that every slot of the server decodes.
        let alone = subject.name == "drain";
        !alone && self.peers.as_ref().is_some_and(|peers| peers == "all" || peers == folder)
    }

    /// Tells whether a subject needs peers and has none.
    pub fn lacks_peers(&self, subject: &Subject) -> bool {
        subject.name == "peers" && self.peers.is_none()
    }

    /// Returns the usage.
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
