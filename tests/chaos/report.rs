//! The report of a run, in Markdown.

use std::{
    collections::BTreeMap,
    fmt::{self, Write},
    time::Duration,
};

use crate::{
    faults::FAULTS,
    verdict::Verdict,
    watch::Totals,
    world::{DELIVERY, IN_FLIGHT_MAX, RABBITMQ},
    writers::{ROWS_MAX, WRITERS},
};

/// Result of one round.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) name: String,
    pub(crate) faults: usize,
    pub(crate) recovery: Duration,
    pub(crate) duplicates: u64,
    pub(crate) allowed: Allowed,
}

/// Number of duplicates that the promise allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Allowed {
    pub(crate) duplicates: u64,
    /// True when PostgreSQL was restarted, and the process that knew the confirmed position did not get the slot again.
    pub(crate) slot_set_back: bool,
}

/// Environment of the run.
#[derive(Debug, Default)]
pub(crate) struct Setting {
    pub(crate) seed: u64,
    /// Part of the names of the selected faults.
    pub(crate) only: String,
    pub(crate) began: String,
    pub(crate) postgres: String,
    pub(crate) rabbitmq: String,
    pub(crate) clocks: bool,
}

/// Counts of the writers and of the arrivals.
#[derive(Debug, Default)]
pub(crate) struct Sums {
    pub(crate) transactions: u64,
    pub(crate) rolled_back: u64,
    pub(crate) savepoints: u64,
    pub(crate) unknown: u64,
    pub(crate) broken: u64,
    pub(crate) duplicates: u64,
    pub(crate) redelivered: u64,
    pub(crate) out_of_order: u64,
    pub(crate) unlike: u64,
}

/// A whole run.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) setting: Setting,
    pub(crate) took: Duration,
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) sums: Sums,
    pub(crate) witness: Verdict,
    pub(crate) service: Verdict,
    pub(crate) totals: Totals,
    /// Broken promises; empty in a good run.
    pub(crate) failures: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# Chaos\n")?;
        match self.failures.as_slice() {
            [] => writeln!(f, "Every promise held.\n")?,
            failures => {
                writeln!(f, "**FAILED**\n")?;
                failures.iter().try_for_each(|failure| writeln!(f, "- {failure}"))?;
                writeln!(f)?;
            }
        }
        self.setting(f)?;
        self.promises(f)?;
        self.faults(f)
    }
}

impl Report {
    fn setting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Setting { seed, only, began, postgres, rabbitmq, clocks } = &self.setting;
        let assertions = if cfg!(debug_assertions) { "on" } else { "off" };
        let level = option_env!("CARGO_PROFILE_DEV_OPT_LEVEL").unwrap_or("0");
        let minutes = self.took.as_secs_f64() / 60.0;
        rows(
            f,
            ["run", ""],
            &[
                ("began", began.clone()),
                ("seed", seed.to_string()),
                ("duration under faults", format!("{minutes:.1} minutes")),
                (
                    "outboxd",
                    format!(
                        "{}, opt-level {level}, debug assertions {assertions}",
                        env!("CARGO_PKG_VERSION")
                    ),
                ),
                ("PostgreSQL, RabbitMQ", format!("{postgres}, {rabbitmq}")),
                ("machine", machine()),
                ("`[rabbitmq]`", settings(RABBITMQ)),
                (
                    "`[sources.orders]`",
                    settings(&format!("delivery.in_flight_max = {IN_FLIGHT_MAX}\n{DELIVERY}")),
                ),
                ("writers", format!("{WRITERS}, transactions of 1 to {ROWS_MAX} rows")),
                ("faults", if only.is_empty() { "all".to_owned() } else { format!("those with \"{only}\"") }),
                ("clock jumps", if *clocks { "yes" } else { "left out: no C compiler" }.to_owned()),
            ],
        )
    }

    fn promises(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sums, totals) = (&self.sums, &self.totals);
        rows(
            f,
            ["found", ""],
            &[
                ("rows committed", self.witness.rows.to_string()),
                ("transactions committed", sums.transactions.to_string()),
                ("transactions rolled back", sums.rolled_back.to_string()),
                ("savepoints rolled back", sums.savepoints.to_string()),
                ("commits whose answer got lost", sums.unknown.to_string()),
                ("transactions broken off", sums.broken.to_string()),
                (
                    "faults survived",
                    self.outcomes.iter().map(|outcome| outcome.faults).sum::<usize>().to_string(),
                ),
                ("**rows lost**", format!("**{}**", self.witness.lost.len() + self.service.lost.len())),
                (
                    "**published but not committed**",
                    format!("**{}**", self.witness.ghosts + self.service.ghosts),
                ),
                (
                    "**out of order**",
                    format!(
                        "**{}**",
                        sums.out_of_order as usize + self.witness.transaction_out_of_order.len()
                    ),
                ),
                (
                    "altered, or copies unlike the first",
                    (sums.unlike as usize + self.witness.altered.len()).to_string(),
                ),
                ("duplicates published", format!("{} ({})", sums.duplicates, self.share(sums.duplicates))),
                ("most duplicates after one round", self.worst(false)),
                (
                    "the same where a restarted PostgreSQL had forgotten how far its slot was confirmed",
                    self.worst(true),
                ),
                ("delivered again by the broker to a service", sums.redelivered.to_string()),
                ("most in flight", totals.in_flight_peak.to_string()),
                ("most confirmed in a second", totals.rate_peak.to_string()),
                ("connections made anew by outboxd", totals.reconnects.to_string()),
                ("outboxd's peak memory", format!("{} MB", totals.memory_peak_mb)),
            ],
        )
    }

    fn faults(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| fault | rounds | recovery: median | longest | most duplicates |\n| --- | --- | --- | --- | --- |"
        )?;
        let mut by_name: BTreeMap<(usize, &str), Vec<&Outcome>> = BTreeMap::new();
        for outcome in &self.outcomes {
            let place =
                FAULTS.iter().position(|kind| outcome.name.starts_with(kind.name)).unwrap_or(FAULTS.len());
            let key = match outcome.faults {
                1 => (place, outcome.name.as_str()),
                _ => (FAULTS.len(), "two faults at a time"),
            };
            by_name.entry(key).or_default().push(outcome);
        }
        for ((_, name), outcomes) in by_name {
            let mut recoveries: Vec<Duration> = outcomes.iter().map(|outcome| outcome.recovery).collect();
            recoveries.sort_unstable();
            let (median, longest) = (recoveries[recoveries.len() / 2], recoveries[recoveries.len() - 1]);
            let most = outcomes.iter().map(|outcome| outcome.duplicates).max().unwrap_or_default();
            let [median, longest] = [median, longest].map(|time| format!("{:.2} s", time.as_secs_f64()));
            writeln!(f, "| {name} | {} | {median} | {longest} | {most} |", outcomes.len())?;
        }
        Ok(())
    }

    fn worst(&self, slot_set_back: bool) -> String {
        let outcomes = self.outcomes.iter().filter(|outcome| outcome.allowed.slot_set_back == slot_set_back);
        match outcomes.max_by_key(|outcome| outcome.duplicates) {
            Some(worst) => {
                format!("{} of {} allowed ({})", worst.duplicates, worst.allowed.duplicates, worst.name)
            }
            None => "no such round".to_owned(),
        }
    }

    fn share(&self, count: u64) -> String {
        format!("{:.2} % of the rows", count as f64 * 100.0 / (self.witness.rows.max(1)) as f64)
    }
}

fn rows(f: &mut fmt::Formatter<'_>, [left, right]: [&str; 2], rows: &[(&str, String)]) -> fmt::Result {
    writeln!(f, "| {left} | {right} |\n| --- | --- |")?;
    rows.iter().try_for_each(|(left, right)| writeln!(f, "| {left} | {right} |"))?;
    writeln!(f)
}

fn settings(lines: &str) -> String {
    let mut text = String::new();
    for (number, line) in lines.lines().enumerate() {
        let _ = write!(text, "{}`{line}`", if number == 0 { "" } else { ", " });
    }
    text
}

fn machine() -> String {
    let read = |file: &str, field: &str| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find_map(|line| {
            line.strip_prefix(field)?.split_once(':').map(|(_, value)| value.trim().to_owned())
        });
        line.unwrap_or_default()
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory_gb =
        read("/proc/meminfo", "MemTotal").trim_end_matches(" kB").parse::<u64>().unwrap_or_default() >> 20;
    format!("{cores} cores ({}), {memory_gb} GB", read("/proc/cpuinfo", "model name"))
}
