//! Logs: where they go, how they look, and which are worth an operator's time.
//!
//! They go to stderr, stdout being for what a command answers. A stderr that nobody reads stops neither a relay nor a service:
//! `lines` has what waits for it. Knows no room of the product. Libraries that log through
//! the `log` crate (tokio-postgres, rustls) are not heard at all: what happens to a connection is in the error that
//! they return.

mod lines;

use clap::ValueEnum;
use lines::{ToStderr, lines};
use prometheus::IntCounter;
use std::{
    backtrace::{Backtrace, BacktraceStatus},
    env,
    io::{self, IsTerminal},
    panic::{self, PanicHookInfo},
};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    Layer,
    filter::{ParseError, Targets},
    fmt,
    layer::SubscriberExt,
    util::{SubscriberInitExt, TryInitError},
};

/// Names the levels: `info`, or `warn,outboxd::relay=debug`.
pub const VARIABLE: &str = "OUTBOXD_LOG";

const DEFAULT: &str = "info";

/// Silent unless [`VARIABLE`] names them, and then as loud as it says: their errors reach the relay, which reports them
/// in its own words, and lapin's warnings hold whole messages.
const SILENT: [&str; 5] = ["lapin", "amq_protocol", "async_rs", "hyper", "tcp_stream"];

/// How a line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people; coloured when stderr is a terminal and `NO_COLOR` is not set.
    #[default]
    Pretty,
    /// For machines: one JSON object a line.
    Json,
}

/// The logs cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The variable does not parse.
    #[error("{VARIABLE}='{value}' is not a list of levels such as 'info' or 'warn,outboxd::relay=debug'")]
    Levels {
        /// What it holds.
        value: String,
        /// Where it fails.
        source: ParseError,
    },
    /// Called twice in one process.
    #[error("the logs are already set up")]
    Twice(#[from] TryInitError),
}

/// Sets the logs up for the whole process.
pub fn init(format: LogFormat) -> Result<(), TelemetryError> {
    let value = env::var_os(VARIABLE).unwrap_or_default();
    let levels = levels(&value.to_string_lossy())?;
    // A stderr that is gone must not end the relay: without this, a failed write is reported by `eprintln!`, which panics.
    let lines = fmt::layer().with_writer(ToStderr).log_internal_errors(false);
    let lines = match format {
        LogFormat::Pretty => {
            let coloured =
                io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
            lines.compact().with_ansi(coloured).boxed()
        }
        LogFormat::Json => lines.json().flatten_event(true).with_span_list(false).with_ansi(false).boxed(),
    };
    tracing_subscriber::registry().with(lines.with_filter(levels)).try_init()?;
    // The standard library's own hook writes to stderr itself, and waits for it.
    panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// Says `last_words`, if there are any, and waits for stderr to take what was logged: two seconds at most.
pub fn finish(last_words: Option<&str>) {
    if let Some(words) = last_words {
        lines().push(format!("{words}\n").as_bytes());
    }
    lines().flush();
}

/// Counts the log lines that stderr did not take.
pub fn lost_lines() -> &'static IntCounter {
    &lines::LOST
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let text = panic.to_string().replace('\n', " ");
    let backtrace = Backtrace::capture();
    match backtrace.status() {
        BacktraceStatus::Captured => tracing::error!(%backtrace, "{text}"),
        _ => tracing::error!("{text}"),
    }
}

/// Empty means the default. [`SILENT`] libraries are added unless they are named.
fn levels(value: &str) -> Result<Targets, TelemetryError> {
    let directives = if value.trim().is_empty() { DEFAULT } else { value };
    let parsed: Targets =
        directives.parse().map_err(|source| TelemetryError::Levels { value: value.to_owned(), source })?;
    let unnamed = SILENT.iter().filter(|library| parsed.iter().all(|(target, _)| target != **library));
    Ok(parsed.clone().with_targets(unnamed.map(|library| (*library, LevelFilter::OFF))))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use tracing::Level;

    #[test]
    fn lapin_is_silent_unless_it_is_named() {
        for value in ["", " ", "info", "debug", "error,outboxd=debug"] {
            let levels = levels(value).unwrap();
            for target in ["lapin", "lapin::io_loop", "amq_protocol_tcp", "hyper_util::client"] {
                assert!(!levels.would_enable(target, &Level::ERROR), "{value}: {target}");
            }
        }
        let named = levels("info,lapin=warn").unwrap();
        assert!(named.would_enable("lapin::channel", &Level::WARN));
        assert!(!named.would_enable("lapin::channel", &Level::INFO));
        let part = levels("info,lapin::channel=debug").unwrap();
        assert!(part.would_enable("lapin::channel", &Level::DEBUG));
        assert!(!part.would_enable("lapin::io_loop", &Level::ERROR));
    }

    #[test]
    fn our_own_level_is_info_unless_it_is_set() {
        let default = levels("").unwrap();
        assert!(default.would_enable("outboxd::relay", &Level::INFO));
        assert!(!default.would_enable("outboxd::relay", &Level::DEBUG));
        let one_room = levels("warn,outboxd::relay=debug").unwrap();
        assert!(one_room.would_enable("outboxd::relay::pipeline", &Level::DEBUG));
        assert!(!one_room.would_enable("outboxd::admin", &Level::INFO));
    }

    #[test]
    fn nonsense_is_refused_by_the_name_of_the_variable() {
        for value in ["info,outboxd=loud", "outboxd=info=debug"] {
            let text = levels(value).unwrap_err().to_string();
            assert!(text.contains(VARIABLE) && text.contains(value), "{text}");
        }
    }
}
