//! PLACEHOLDER, to be replaced: `outboxd run`.

use super::Failure;
use crate::settings::Settings;

pub(super) async fn run(_settings: Settings) -> Result<(), Failure> {
    Err(Failure::Runtime("'run' is not available in this version".to_owned()))
}
