//! `outboxd schema`: the DDL to paste into a service's migrations.

use super::{Failure, answer};
use crate::{
    cli::{Schema, SchemaPreset},
    outbox::ddl,
};

pub(super) fn run(options: &Schema) -> Result<(), Failure> {
    let outbox = match options.preset {
        SchemaPreset::Standard => ddl::OUTBOX_STANDARD,
    };
    answer(&format!("{outbox}\n{}", ddl::INBOX))
}
