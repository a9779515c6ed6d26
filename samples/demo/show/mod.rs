//! Common parts of both demos: start, look and end, the use of outboxd, and kept files.

// Each demo compiles the whole module and uses a part.
#![allow(dead_code)]

pub(crate) mod daemon;
pub(crate) mod files;
pub(crate) mod nodes;
pub(crate) mod screen;

use files::{kept_folder, short};
use screen::Screen;
use std::{
    error::Error,
    process::ExitCode,
    sync::LazyLock,
    time::{Duration, Instant},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// Result whose error is a text for the reader.
pub(crate) type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Limit of any wait in a demo, even beside a compiler.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// Set by Ctrl-C.
static INTERRUPTED: LazyLock<watch::Sender<bool>> = LazyLock::new(|| watch::channel(false).0);
/// Exit status after Ctrl-C, as a shell has it.
const INTERRUPTED_STATUS: u8 = 130;
const ENDING: &str = "\nInterrupted. Everything that was started is being stopped.";

/// Runs a demo and returns its exit status, which is 1 if a check fails.
///
/// `play` plays all steps and returns the running programs. With `KEEP=1` they keep running until Ctrl-C while `stay`
/// shows events. `stop` ends them, and is told whether a user looked around, who may have killed something.
pub(crate) async fn perform<S>(
    steps: usize,
    play: impl AsyncFnOnce(Screen) -> Outcome<S>,
    stay: impl AsyncFnOnce(Screen, &mut S) -> Outcome<()>,
    stop: impl AsyncFnOnce(Screen, S, bool) -> Outcome<()>,
) -> ExitCode {
    fail_in_one_text();
    let whole = async {
        let (screen, begin) = (Screen::new(steps), Instant::now());
        listen()?;
        let played = tokio::select! {
            played = play(screen) => Some(played),
            () = interrupted() => None,
        };
        // The other branch is dropped, so everything that it started has ended.
        let mut stage = match played {
            Some(Ok(stage)) => stage,
            Some(Err(_)) if was_interrupted() => return Ok(ExitCode::from(INTERRUPTED_STATUS)),
            Some(Err(error)) => return Err(error),
            None => return Ok(ExitCode::from(INTERRUPTED_STATUS)),
        };
        let took = begin.elapsed().as_secs_f64();
        let keep = std::env::var_os("KEEP").is_some_and(|value| !value.is_empty() && value != "0");
        if keep {
            tokio::select! {
                stayed = stay(screen, &mut stage) => stayed?,
                () = interrupt() => {}
            }
        }
        stop(screen, stage, keep).await?;
        println!("\nEverything added up, in {took:.0} s.");
        Ok(ExitCode::SUCCESS)
    };
    let ended: Outcome<ExitCode> = whole.await;
    ended.unwrap_or_else(|error| {
        failed(&chain(&*error));
        ExitCode::FAILURE
    })
}

/// Fails with a text unless the condition holds.
pub(crate) fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Outcome<()> {
    if holds { Ok(()) } else { Err(otherwise().into()) }
}

/// Interval of waiting for something whose time is shown.
pub(crate) const AT_ONCE: Duration = Duration::from_millis(2);
/// Interval of waiting for something while others need the processor.
pub(crate) const NOW_AND_THEN: Duration = Duration::from_millis(50);

/// Polls until `look` returns a value. Fails after [`LIMIT`] with what was missing.
pub(crate) async fn eventually<T>(
    every: Duration,
    what: &str,
    mut look: impl AsyncFnMut() -> Outcome<Option<T>>,
) -> Outcome<T> {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(seen) = look().await? {
            return Ok(seen);
        }
        ensure(Instant::now() < deadline, || format!("not within {} s: {what}", LIMIT.as_secs()))?;
        tokio::time::sleep(every).await;
    }
}

/// Listens to SIGINT from now on, on a thread of the runtime: another one may wait for a command.
fn listen() -> Outcome<()> {
    let mut signals = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        while signals.recv().await.is_some() {
            INTERRUPTED.send_replace(true);
        }
    });
    Ok(())
}

/// Waits for Ctrl-C.
async fn interrupt() {
    // The sender is never dropped.
    let _ = INTERRUPTED.subscribe().wait_for(|interrupted| *interrupted).await;
}

/// Waits for Ctrl-C, and answers it.
async fn interrupted() {
    interrupt().await;
    println!("{ENDING}");
}

/// Tells, after a failure, whether Ctrl-C is its cause, and answers it then. Ctrl-C reaches a command of the demo as well, whose end
/// looks like a failure, and may be seen first.
fn was_interrupted() -> bool {
    std::thread::sleep(NOW_AND_THEN);
    let interrupted = *INTERRUPTED.borrow();
    if interrupted {
        println!("{ENDING}");
    }
    interrupted
}

/// Reduces a panic to one text and status 1. The nodes' launcher panics when the machine does not do what it needs;
/// its guardian cleans up.
fn fail_in_one_text() {
    std::panic::set_hook(Box::new(|info| {
        if was_interrupted() {
            std::process::exit(INTERRUPTED_STATUS.into());
        }
        let payload = info.payload();
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("without a text");
        let place = info.location().map_or_else(String::new, |place| format!("\n({place})"));
        failed(&format!("{text}{place}"));
        std::process::exit(1);
    }));
}

fn failed(text: &str) {
    eprintln!("\nThe demo failed: {text}\nLogs of what was started: {}", short(&kept_folder()));
}

fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}
