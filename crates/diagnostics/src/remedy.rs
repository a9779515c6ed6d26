//! Remedy of a cause that keeps a source from its work: the cure, and who applies it.
//!
//! Each room names its own causes: `postgres::remedy` those of connections and statements, `postgres::preflight` those of the
//! catalog, `rabbitmq::refusal` those of the broker. `check` prints the cure, and `run` puts the same words into the log, `/readyz`
//! and `status`.

/// Who mends a cause. Decides the state of a source, never whether it tries again: it always does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mender {
    /// Time may, or somebody who does not know of outboxd: a server that restarts, a failover, a full limit. State `connecting`.
    Time,
    /// Only a person who follows the cure. State `halted`.
    Person,
}

/// What to do about a cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remedy {
    /// The statement, the setting or the act that mends it.
    pub cure: String,
    /// Who has to apply it.
    pub mender: Mender,
}

impl Remedy {
    /// A remedy that a person applies.
    pub fn by_person(cure: impl Into<String>) -> Self {
        Self { cure: cure.into(), mender: Mender::Person }
    }

    /// A remedy for what may also pass by itself.
    pub fn by_time(cure: impl Into<String>) -> Self {
        Self { cure: cure.into(), mender: Mender::Time }
    }
}
