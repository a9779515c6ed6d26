//! PLACEHOLDER, to be replaced: `outboxd setup`.

use super::Failure;
use crate::{cli::Setup, settings::Settings};

pub(super) async fn run(_settings: Settings, _options: &Setup) -> Result<(), Failure> {
    Err(Failure::Runtime("'setup' is not available in this version".to_owned()))
}
