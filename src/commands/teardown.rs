//! PLACEHOLDER, to be replaced: `outboxd teardown`.

use super::Failure;
use crate::{cli::Teardown, settings::Settings};

pub(super) async fn run(_settings: Settings, _options: &Teardown) -> Result<(), Failure> {
    Err(Failure::Runtime("'teardown' is not available in this version".to_owned()))
}
