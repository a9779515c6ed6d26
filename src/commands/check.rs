//! PLACEHOLDER, to be replaced: `outboxd check`.

use super::Failure;
use crate::{cli::Check, settings::Settings};

pub(super) async fn run(_settings: Settings, _options: &Check) -> Result<(), Failure> {
    Err(Failure::Runtime("'check' is not available in this version".to_owned()))
}
