//! `outboxd schema`: prints the DDL for a service's migrations.

use super::{Failure, answer};
use crate::cli::{Schema, SchemaPreset};
use outbox_schema::{INBOX, OUTBOX_STANDARD};

pub(super) fn run(options: &Schema) -> Result<(), Failure> {
    let outbox = match options.preset {
        SchemaPreset::Standard => OUTBOX_STANDARD,
    };
    answer(&format!("{outbox}\n{INBOX}"))
}
