//! Logs: destination, format, and levels.
//!
//! Logs go to stderr, because stdout is for the output of commands. An unread stderr stops neither a relay nor a
//! service: `lines` queues what waits for it. Knows no room of the product. Libraries that log through the crate
//! `log` (tokio-postgres, rustls) are not shown: their errors say what happened.

mod lines;

use clap::ValueEnum;
use diagnostics::legible::{self, Escaping};
use lines::{ToStderr, lines};
use prometheus::IntCounter;
use std::{
    backtrace::{Backtrace, BacktraceStatus},
    env,
    io::{self, IsTerminal},
    panic::{self, PanicHookInfo},
};
use tracing::{Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{
    Layer,
    field::RecordFields,
    filter::{ParseError, Targets},
    fmt::{
        self, FormatFields,
        format::{DefaultFields, Writer},
    },
    layer::SubscriberExt,
    registry::LookupSpan,
    util::{SubscriberInitExt, TryInitError},
};

/// Variable with the levels: `info`, or `warn,outboxd::relay=debug`.
pub const VARIABLE: &str = "OUTBOXD_LOG";

const DEFAULT: &str = "info";

/// Libraries that are silent unless [`VARIABLE`] names them: the relay reports their errors itself, and lapin's
/// warnings hold whole messages.
const SILENT: [&str; 5] = ["lapin", "amq_protocol", "async_rs", "hyper", "tcp_stream"];

/// Format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people; coloured when stderr is a terminal and `NO_COLOR` is not set.
    #[default]
    Pretty,
    /// For machines: one JSON object a line.
    Json,
}

/// Error of the set-up of logs.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The variable is invalid.
    #[error("{VARIABLE}='{value}' is not a list of levels such as 'info' or 'warn,outboxd::relay=debug'")]
    Levels {
        /// Value of the variable.
        value: String,
        /// Error of the parser.
        source: ParseError,
    },
    /// The set-up ran before in this process.
    #[error("the logs are already set up")]
    Twice(#[from] TryInitError),
}

/// Sets the logs up for the whole process.
///
/// # Errors
///
/// [`TelemetryError`] when the variable is invalid, or the logs are already set up.
pub fn init(format: LogFormat) -> Result<(), TelemetryError> {
    let value = env::var_os(VARIABLE).unwrap_or_default();
    let levels = levels(&value.to_string_lossy())?;
    let coloured = io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
    let lines = layer(format, coloured, ToStderr { format });
    tracing_subscriber::registry().with(lines.with_filter(levels)).try_init()?;
    // The standard library's hook would write to stderr directly and wait for it.
    panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// Returns the layer that writes lines in this format.
fn layer<S, W>(format: LogFormat, coloured: bool, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'w> fmt::MakeWriter<'w> + Send + Sync + 'static,
{
    // A closed stderr must not end the relay: otherwise a failed write is reported by `eprintln!`, which panics.
    let lines = fmt::layer().with_writer(writer).log_internal_errors(false);
    match format {
        LogFormat::Pretty => lines.compact().fmt_fields(LegibleFields).with_ansi(coloured).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_span_list(false).with_ansi(false).boxed(),
    }
}

/// Formatter of the fields of events and spans, including the message, that escapes hidden characters: rows and peers
/// choose some texts. Colours, which are control characters, stand outside of fields.
struct LegibleFields;

impl<'w> FormatFields<'w> for LegibleFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'w>, fields: R) -> std::fmt::Result {
        DefaultFields::new().format_fields(Writer::new(&mut Escaping(writer)), fields)
    }
}

/// Writes `last_words`, and waits at most two seconds for stderr to accept the log.
pub fn finish(last_words: Option<&str>) {
    if let Some(words) = last_words {
        lines().push(format!("{}\n", legible::lines(words)).as_bytes());
    }
    lines().flush();
}

/// Returns the counter of log lines that stderr did not accept.
pub fn lost_lines() -> &'static IntCounter {
    &lines::LOST
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    let text = panic.to_string().replace('\n', " ");
    tracing::error!("{text}");
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        backtrace.to_string().lines().for_each(|frame| tracing::error!("{frame}"));
    }
}

/// Parses the variable. Empty means the default. [`SILENT`] libraries are silent unless named.
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
    use std::sync::{Arc, Mutex};
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

    /// Bytes written by all clones.
    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_is_one_line_and_holds_nothing_hidden_whatever_its_texts_are() {
        const HOSTILE: &str = "a\n2026-01-01T00:00:00Z ERROR forged\r\u{1b}[2J\u{9b}\u{202e}\u{200b}\u{7f}";
        for format in [LogFormat::Pretty, LogFormat::Json] {
            let written = Written::default();
            let writer = written.clone();
            let lines = layer(format, false, move || lines::Shown { to: writer.clone(), format });
            tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), || {
                let span = tracing::info_span!("message", event_type = HOSTILE, id = %HOSTILE);
                let error = io::Error::other(HOSTILE);
                span.in_scope(
                    || tracing::warn!(text = HOSTILE, shown = %error, debug = ?HOSTILE, "failed: {HOSTILE}"),
                );
            });
            let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
            println!("{text}");
            let line = text.strip_suffix('\n').unwrap();
            assert!(!line.contains(legible::is_hidden), "{line:?}");
            assert_eq!(line.matches("forged").count(), 6, "{line}");
            if format == LogFormat::Json {
                let event: serde_json::Value = serde_json::from_str(line).unwrap();
                assert_eq!(
                    (&event["text"], &event["span"]["event_type"]),
                    (&HOSTILE.into(), &HOSTILE.into())
                );
            }
        }
    }
}
