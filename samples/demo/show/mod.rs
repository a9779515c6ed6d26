//! What both demos have in common: how they begin, look and end, how they run outboxd, and what they leave behind.

// Each demo compiles all of it and uses the part it needs.
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
    time::{Duration, Instant},
};

/// A result whose error is one text for the reader.
pub(crate) type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Longer than anything in a demo takes, even beside a compiler.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// A demo from its beginning to the exit status, which is 1 when something does not add up.
///
/// `play` is everything that there is to see, and gives what is running then. With `KEEP=1` that stays up, with `stay` to show what
/// happens to it, until Ctrl-C. `stop` ends it; it is told whether somebody was invited to look around, who may have killed something.
pub(crate) async fn perform<S>(
    steps: usize,
    play: impl AsyncFnOnce(Screen) -> Outcome<S>,
    stay: impl AsyncFnOnce(Screen, &mut S) -> Outcome<()>,
    stop: impl AsyncFnOnce(Screen, S, bool) -> Outcome<()>,
) -> ExitCode {
    fail_in_one_text();
    let whole = async {
        let (screen, begin) = (Screen::new(steps), Instant::now());
        let mut stage = tokio::select! {
            played = play(screen) => played?,
            // The other branch is dropped before this one is entered: whatever it had started has ended.
            () = interrupted() => return Ok(ExitCode::from(130)),
        };
        let took = begin.elapsed().as_secs_f64();
        let keep = std::env::var_os("KEEP").is_some_and(|value| !value.is_empty() && value != "0");
        if keep {
            tokio::select! {
                stayed = stay(screen, &mut stage) => stayed?,
                () = ctrl_c() => {}
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

/// Fails with that text unless it holds.
pub(crate) fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Outcome<()> {
    if holds { Ok(()) } else { Err(otherwise().into()) }
}

/// How often to look for something whose time is shown.
pub(crate) const AT_ONCE: Duration = Duration::from_millis(2);
/// How often to look for something while others need the processor.
pub(crate) const NOW_AND_THEN: Duration = Duration::from_millis(50);

/// Looks every so often until there is something to see. Fails after [`LIMIT`] and says what was missing.
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

async fn interrupted() {
    ctrl_c().await;
    println!("\nInterrupted. Everything that was started is being stopped.");
}

/// Waits for SIGINT.
async fn ctrl_c() {
    if let Err(error) = tokio::signal::ctrl_c().await {
        failed(&format!("cannot listen to Ctrl-C: {error}"));
    }
}

/// The nodes' launcher panics when a machine does not do what it needs; so does a mistake of ours. The reader gets one
/// text and status 1 then too, and the launcher's guardian clears everything away.
fn fail_in_one_text() {
    std::panic::set_hook(Box::new(|info| {
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
