//! Time from the start of the process to the first message, with one row waiting.

use crate::{
    arrivals::Arrivals,
    contender::Contender,
    drain,
    figures::{Column, Table},
    stage::Stage,
};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(120);

/// Starts each contender in turn, `rounds` times.
pub async fn run(stage: &Stage, contenders: &mut Vec<Contender>, rounds: u32) -> Vec<Table> {
    let columns = [Column { name: "ms", decimals: 0 }];
    let mut table =
        Table::new("Start of the process to the consumer's first message, one row waiting", &columns);
    table.notes = drain::prepare(stage, contenders).await;
    for _ in 0..rounds {
        for contender in contenders.iter_mut() {
            let _queue = stage.fresh_queue().await;
            let mut arrivals = Arrivals::of(&stage.amqp_url()).await;
            stage.write_one(contender.table(), 1).await;
            stage.slots_are_free().await;
            let begun = Instant::now();
            contender.start();
            let Some(first) = arrivals.next(PATIENCE).await else {
                println!("{}", contender.log_tail());
                table.notes.push(format!("{} published nothing within {PATIENCE:?}", contender.name));
                contender.kill9().await;
                continue;
            };
            table.add(&contender.name, &[(first.at - begun).as_secs_f64() * 1e3]);
            println!("{}", table.last_as_text(&contender.name));
            // The other slots have the row, too, so each contender starts with the same amount or less.
            while arrivals.next(Duration::from_millis(500)).await.is_some() {}
            contender.stop().await;
            stage.clear(contender.table()).await;
        }
    }
    vec![table]
}
