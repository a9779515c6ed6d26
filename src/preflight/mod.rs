//! The readiness of a source's database for `run`: facts, read in one go; checks that judge them, each with its cure; and the
//! script by which somebody else makes what is missing.

mod checks;
pub mod condition;
pub mod dba_script;
pub mod facts;
pub mod inspection;

pub use checks::{PARKED, PUBLICATION, SLOT, checks, mender};
pub(crate) use checks::{RECORDED_TABLE, recovery_checks, slot_refusal};
pub use facts::Facts;

pub use diagnostics::check::{Check, Finding, Problem};
