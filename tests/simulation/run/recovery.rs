//! Runs of `outboxd recover`.

use std::time::Duration;

use outboxd::{admin::Board, backfill::recover::recover};
use process::shutdown::shutdown;

use super::{Run, process::GAP};

/// Longest recovery. Everything that may delay it is repaired sooner.
const PATIENCE: Duration = Duration::from_secs(600);

impl Run {
    /// Runs `outboxd recover` when an instance has halted for its slot. Some runs are killed or asked to end: the gap stays, and
    /// the next run starts again.
    pub(super) async fn recover(&mut self) {
        let slot = &self.options.slot;
        let halted: Vec<(u64, String)> =
            self.processes.iter().filter_map(|process| Some((process.id, process.halted(GAP)?))).collect();
        self.world.look(|state| {
            halted.iter().for_each(|(process, reason)| state.oracle.halted_for(*process, slot, reason));
        });
        if halted.is_empty() {
            return;
        }
        let (id, source) = self.source();
        let (trigger, shutdown) = shutdown();
        let report = Board::new().reporter("orders");
        self.world.look(|state| {
            state.oracle.recovering.insert(id);
            state.note(|| format!("process {id} recovers"));
        });
        let mut task = tokio::spawn(async move { recover(&source, None, &report, shutdown).await });
        let limit = self.world.look(|state| {
            let ends_early = !state.peace && state.one_in(3);
            ends_early.then(|| (state.millis(0..=300), state.rng.bool()))
        });
        let ended = match limit {
            None => match tokio::time::timeout(PATIENCE, &mut task).await {
                Ok(ended) => ended,
                Err(_) => {
                    task.abort();
                    let what = format!("process {id} recovers for more than {} s", PATIENCE.as_secs());
                    return self.world.look(|state| state.oracle.violated(what));
                }
            },
            Some((limit, kill)) => match tokio::time::timeout(limit, &mut task).await {
                Ok(ended) => ended,
                Err(_) if kill => {
                    task.abort();
                    task.await
                }
                Err(_) => {
                    trigger.request(Duration::from_millis(100));
                    task.await
                }
            },
        };
        self.world.look(|state| {
            let outcome = match ended {
                Ok(Ok(recovered)) => format!("{recovered:?}"),
                Ok(Err(error)) => error.to_string(),
                Err(error) if error.is_cancelled() => "killed".to_owned(),
                Err(_) => return state.oracle.violated(format!("process {id} panicked as it recovered")),
            };
            state.note(|| format!("process {id} recovered: {outcome}"));
        });
    }
}
