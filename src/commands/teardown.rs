//! `outboxd teardown`: removes one source's slot, record and publication, and prints a line for each.

use super::{Failure, answer, source};
use crate::{cli::Teardown, settings::Settings, setup::teardown::tear_down};

const APPLICATION_NAME: &str = "outboxd teardown";

pub(super) async fn run(settings: Settings, options: &Teardown) -> Result<(), Failure> {
    let database = &source(&settings, &options.source)?.database;
    let mut answered = Ok(());
    let done = tear_down(database, APPLICATION_NAME, |removed| {
        if answered.is_ok() {
            answered = answer(&format!("{removed}\n"));
        }
    })
    .await;
    done.map_err(|error| Failure::runtime(&error))?;
    answered
}
