//! Remedy of a cause that stops a source: the cure, and who applies it.
//!
//! The crates and rooms above name the causes: `pg_replication` those of connections, `postgres` those of statements,
//! `preflight` those of the catalog, `amqp_publisher::refusal` those of the broker. `check` prints the cure, and
//! `run` shows the same text in the log, `/readyz` and `status`.

/// Agent of a cure: a person or time. Decides the state of a source, not whether it retries: a source always does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mender {
    /// Time, or somebody who does not know of outboxd: a server restarts, a failover ends, a limit clears. State
    /// `connecting`.
    Time,
    /// Only a person who applies the cure. State `halted`.
    Person,
}

/// Cure of a cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remedy {
    /// The statement, setting or command.
    pub cure: String,
    /// Agent of the cure.
    pub mender: Mender,
}

impl Remedy {
    /// Creates a remedy that a person applies.
    pub fn by_person(cure: impl Into<String>) -> Self {
        Self { cure: cure.into(), mender: Mender::Person }
    }

    /// Creates a remedy for a cause that may also end by itself.
    pub fn by_time(cure: impl Into<String>) -> Self {
        Self { cure: cure.into(), mender: Mender::Time }
    }
}
