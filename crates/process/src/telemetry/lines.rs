//! Log lines on their way to stderr. A thread writes them, so that an unread stderr blocks only this thread.
//!
//! The queue is bounded. A caller waits briefly for room, because a reader may merely be slow. After that stderr
//! counts as stuck, and lines are lost at once until it has taken all waiting ones. Lost lines are counted, and
//! reported when stderr accepts lines again.

use std::{
    cell::Cell,
    io::{self, Write},
    mem,
    sync::{
        Condvar, LazyLock, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use super::LogFormat;
use diagnostics::legible;
use prometheus::IntCounter;
use tracing_subscriber::fmt::MakeWriter;

/// Most bytes in the queue. The thread holds at most as many.
const BYTES_MAX: usize = 1024 * 1024;
/// Time for which a caller waits for room, once, before stderr counts as stuck.
const ROOM_PATIENCE: Duration = Duration::from_millis(200);
/// Time for which the program's end waits for the last lines.
const END_PATIENCE: Duration = Duration::from_secs(2);
/// Pause before the next write to a non-blocking stderr.
const WOULD_BLOCK_PAUSE: Duration = Duration::from_millis(20);

/// Counter of lines that never reached stderr.
pub(super) static LOST: LazyLock<IntCounter> = LazyLock::new(|| {
    // A valid name without labels cannot fail. A default counter would have no name.
    #[allow(clippy::expect_used)]
    IntCounter::new("log_lines_lost_total", "Log lines lost because stderr did not accept them")
        .expect("a valid name")
});

thread_local! {
    /// Set in the writing thread, whose own lines must not wait for itself.
    static WRITES: Cell<bool> = const { Cell::new(false) };
}

/// Queue of lines.
#[derive(Debug, Default)]
pub(super) struct Lines {
    state: Mutex<State>,
    arrived: Condvar,
    /// Signals that room was made, or everything is written.
    taken: Condvar,
    /// Without a thread, each caller writes its own line.
    direct: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    /// Complete lines.
    waiting: Vec<u8>,
    /// Set if the thread is writing lines.
    writing: bool,
    /// Set if stderr failed to make room in time, and has not caught up since.
    stuck: bool,
    /// Lines lost since the last report.
    lost: u64,
}

/// Returns the process's only queue. Its thread starts with the first use.
pub(super) fn lines() -> &'static Lines {
    static LINES: LazyLock<&'static Lines> = LazyLock::new(|| {
        let lines: &'static Lines = Box::leak(Box::default());
        let thread = thread::Builder::new().name("stderr".to_owned());
        let started = thread.spawn(|| {
            WRITES.set(true);
            lines.write_on(&mut write_whole)
        });
        lines.direct.store(started.is_err(), Ordering::Relaxed);
        lines
    });
    &LINES
}

impl Lines {
    /// Queues one line, or counts it as lost.
    pub(super) fn push(&self, line: &[u8]) {
        if self.direct.load(Ordering::Relaxed) {
            let _ = write_whole(line);
            return;
        }
        let is_full =
            |state: &State| !state.waiting.is_empty() && state.waiting.len() + line.len() > BYTES_MAX;
        let mut state = self.lock();
        if is_full(&state) && !state.stuck {
            let waited = self.taken.wait_timeout_while(state, ROOM_PATIENCE, |state| is_full(state));
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
            state.stuck = is_full(&state);
        }
        if is_full(&state) {
            state.lost += 1;
            LOST.inc();
            return;
        }
        state.waiting.extend_from_slice(line);
        self.arrived.notify_one();
    }

    /// Waits until everything is written, for at most [`END_PATIENCE`].
    pub(super) fn flush(&self) {
        let is_written = |state: &mut State| state.waiting.is_empty() && !state.writing;
        let waited = self.taken.wait_timeout_while(self.lock(), END_PATIENCE, |state| !is_written(state));
        drop(waited);
    }

    /// Loop of the writing thread.
    fn write_on(&self, write: &mut impl FnMut(&[u8]) -> io::Result<()>) -> ! {
        let mut works = true;
        loop {
            works = self.write_waiting(write, works);
        }
    }

    /// Reports lost lines, or waits for lines and writes them. `works` tells whether stderr accepted the last line;
    /// the result is the same for the next call.
    fn write_waiting(&self, write: &mut impl FnMut(&[u8]) -> io::Result<()>, works: bool) -> bool {
        let mut state = self.lock();
        state.writing = false;
        self.taken.notify_all();
        if state.waiting.is_empty() {
            state.stuck = false;
            if state.lost > 0 && works {
                let lost = mem::take(&mut state.lost);
                state.writing = true;
                drop(state);
                tracing::warn!(
                    lost,
                    "log lines were lost here, because stderr was not read or could not be written; no message is affected"
                );
                return works;
            }
            let waited = self.arrived.wait_while(state, |state| state.waiting.is_empty());
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
        let waiting = mem::take(&mut state.waiting);
        state.writing = true;
        drop(state);
        self.taken.notify_all();
        let mut works = works;
        let mut lost = 0;
        for line in waiting.split_inclusive(|byte| *byte == b'\n') {
            works = write(line).is_ok();
            lost += u64::from(!works);
        }
        LOST.inc_by(lost);
        self.lock().lost += lost;
        works
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes to stderr, however long that takes.
fn write_whole(mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match io::stderr().write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(WOULD_BLOCK_PAUSE),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writer of whole lines that escapes hidden characters in JSON. The other format escapes its fields before, and a
/// line may hold colours.
pub(super) struct Shown<W> {
    pub(super) to: W,
    pub(super) format: LogFormat,
}

impl<W: Write> Write for Shown<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match self.format {
            LogFormat::Pretty => self.to.write_all(line)?,
            LogFormat::Json => {
                self.to.write_all(legible::json(&String::from_utf8_lossy(line)).as_bytes())?;
            }
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// Writer of one line into the queue.
pub(super) struct Line;

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match WRITES.get() {
            true => write_whole(line)?,
            false => lines().push(line),
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Maker of a [`Line`] for each event.
pub(super) struct ToStderr {
    pub(super) format: LogFormat,
}

impl MakeWriter<'_> for ToStderr {
    type Writer = Shown<Line>;

    fn make_writer(&self) -> Shown<Line> {
        Shown { to: Line, format: self.format }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const LINE: &[u8] = &[b'x'; 1023];

    fn fill(lines: &Lines) -> usize {
        let mut line = LINE.to_vec();
        line.push(b'\n');
        let count = BYTES_MAX / line.len();
        for _ in 0..count {
            lines.push(&line);
        }
        count
    }

    #[test]
    fn a_full_queue_waits_once_and_then_loses_lines_and_counts_them() {
        let lines = Lines::default();
        fill(&lines);
        assert_eq!(lines.lock().lost, 0);
        for _ in 0..10_000 {
            lines.push(b"more\n");
        }
        assert_eq!(lines.lock().lost, 10_000, "waiting for each would take half an hour");
        assert!(lines.lock().waiting.len() <= BYTES_MAX);
    }

    #[test]
    fn what_waits_is_written_line_by_line_in_order_and_the_loss_is_said_once() {
        let lines = Lines::default();
        let count = fill(&lines);
        lines.push(b"lost\n");
        let mut written = Vec::new();
        let works = lines.write_waiting(
            &mut |line| {
                written.push(line.to_vec());
                Ok(())
            },
            true,
        );
        assert!(works && written.len() == count && written.iter().all(|line| line.ends_with(b"x\n")));
        assert_eq!(lines.lock().lost, 1);
        lines.write_waiting(&mut |_| Ok(()), works);
        assert!(lines.lock().lost == 0 && !lines.lock().stuck);
    }

    #[test]
    fn a_broken_stderr_is_told_of_its_losses_only_when_it_works_again() {
        let lines = Lines::default();
        lines.push(b"one\ntwo\n");
        let works = lines.write_waiting(&mut |_| Err(io::ErrorKind::StorageFull.into()), true);
        assert!(!works && lines.lock().lost == 2);
        lines.push(b"three\n");
        let works = lines.write_waiting(&mut |_| Ok(()), works);
        assert!(works && lines.lock().lost == 2);
        lines.write_waiting(&mut |_| Ok(()), works);
        assert_eq!(lines.lock().lost, 0);
    }
}
