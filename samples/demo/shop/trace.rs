//! Trace of an order in three logs.

use super::{
    show::{
        AT_ONCE, Outcome, eventually,
        files::{kept_folder, short},
        screen::{Cell, Screen},
    },
    stage::Stage,
};
use serde_json::Value;
use std::collections::BTreeSet;

/// Programs whose logs name each order's trace.
const PROGRAMS: [&str; 3] = ["order-service", "customer-service", "order-history"];

/// Returns the lines of each instance's log with this trace id, as soon as a log of each program has one.
pub(crate) async fn find(stage: &Stage, trace_id: &str) -> Outcome<Vec<(&'static str, Vec<Value>)>> {
    eventually(AT_ONCE, &format!("trace {trace_id} is in the logs of all services"), async || {
        let mut found: Vec<(&str, Vec<Value>)> = Vec::new();
        let mut programs = BTreeSet::new();
        for (name, service) in stage.services() {
            let log = service.log();
            let lines = log.lines().filter(|line| line.contains(trace_id));
            let lines: Vec<Value> = lines.filter_map(|line| serde_json::from_str(line).ok()).collect();
            if !lines.is_empty() {
                programs.insert(service.program());
            }
            found.push((name, lines));
        }
        Ok(programs.is_superset(&PROGRAMS.into()).then_some(found))
    })
    .await
}

/// Shows the lines.
pub(crate) async fn show(screen: Screen, stage: &Stage, trace_id: &str) -> Outcome<()> {
    let mut lines: Vec<(&str, Value)> = Vec::new();
    for (program, found) in find(stage, trace_id).await? {
        lines.extend(found.into_iter().map(|line| (program, line)));
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    lines.sort_by_key(|(_, line)| text(&line["timestamp"]));
    let rows = lines.iter().map(|(program, line)| {
        // 2026-01-02T03:04:05.678901Z
        let time: String = text(&line["timestamp"]).chars().skip(11).take(12).collect();
        let (span, event) = (&line["span"], &line["event_type"]);
        let doing = match text(&span["queue"]) {
            queue if queue.is_empty() => format!("{} {}", text(&span["method"]), text(&span["path"])),
            _ => text(&span["event_type"]),
        };
        let said = format!("{} {}", text(&line["message"]), text(event));
        vec![Cell::plain(time), Cell::plain(*program), Cell::plain(doing), Cell::plain(said.trim())]
    });
    screen.table(&["time", "log of", "while handling", "it says"], rows.collect());
    println!();
    screen.fact("try", &format!("grep -h {trace_id} {}/*.log", short(&kept_folder())));
    Ok(())
}
