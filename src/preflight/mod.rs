//! The readiness of a source's database for `run`: facts read from it, checks that judge the facts and name the cures, and the script
//! by which a DBA creates what is missing.
//!
//! Knows what outboxd needs of PostgreSQL. Does not know RabbitMQ.

mod checks;
pub mod condition;
pub mod dba_script;
pub mod facts;
pub mod inspection;

pub use checks::{PARKED, PUBLICATION, SLOT, checks, mender};
pub(crate) use checks::{RECORDED_TABLE, recovery_checks, slot_refusal};
pub use facts::Facts;

pub use diagnostics::check::{Check, Finding, Problem};
