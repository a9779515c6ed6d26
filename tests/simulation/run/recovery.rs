//! Somebody who runs `outboxd recover`.

use std::time::Duration;

use outboxd::{admin::Board, relay::recover, shutdown::shutdown};

use super::{Run, process::GAP};

impl Run {
    /// `outboxd recover`, by somebody who sees that an instance has halted for its slot. Some are killed, or asked to end: the
    /// gap stays, and the next one begins anew.
    pub(super) async fn recover(&mut self) {
        if !self.processes.iter().any(|process| process.is_halted(GAP)) {
            return;
        }
        let (id, source) = self.source();
        let (trigger, shutdown) = shutdown();
        let report = Board::new().reporter("orders");
        self.world.look(|state| state.note(|| format!("process {id} recovers")));
        let mut task = tokio::spawn(async move { recover(&source, None, &report, shutdown).await });
        let limit = self.world.look(|state| {
            let ends_early = !state.peace && state.one_in(3);
            ends_early.then(|| (state.millis(0..=300), state.rng.bool()))
        });
        let ended = match limit {
            None => task.await,
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
