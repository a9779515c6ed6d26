//! The request to end: from the operating system, and as every task sees it.

use std::{
    io,
    time::{Duration, Instant},
};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    task::JoinSet,
};

use crate::clock::now;

/// Held by whoever may end the program.
#[derive(Debug)]
pub struct ShutdownTrigger {
    deadline: watch::Sender<Option<Instant>>,
}

/// Held by each task that is to drain.
#[derive(Clone, Debug)]
pub struct Shutdown {
    deadline: watch::Receiver<Option<Instant>>,
}

/// A trigger and what it reaches. Dropping the trigger requests nothing.
pub fn shutdown() -> (ShutdownTrigger, Shutdown) {
    let (sender, receiver) = watch::channel(None);
    (ShutdownTrigger { deadline: sender }, Shutdown { deadline: receiver })
}

impl ShutdownTrigger {
    /// Asks every task to drain within `drain_timeout`.
    pub fn request(&self, drain_timeout: Duration) {
        self.deadline.send_replace(Some(now() + drain_timeout));
    }
}

impl Shutdown {
    /// Waits until the end is requested; gives the time by which draining must be over. Cancel-safe.
    pub async fn requested(&mut self) -> Instant {
        let requested = match self.deadline.wait_for(Option::is_some).await {
            Ok(deadline) => *deadline,
            Err(_) => None,
        };
        match requested {
            Some(deadline) => deadline,
            None => std::future::pending().await,
        }
    }

    /// Waits until the end is requested and the time for draining is over. Cancel-safe.
    pub async fn overdue(&mut self) {
        let deadline = self.requested().await;
        tokio::time::sleep_until(deadline.into()).await;
    }
}

/// SIGTERM, SIGINT and SIGQUIT, as the operating system sends them: each asks for an end in good order.
#[derive(Debug)]
pub struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
}

impl StopSignals {
    /// From now on none of them ends the process by itself.
    ///
    /// # Errors
    ///
    /// The operating system gives no handler.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    /// Waits for one of them; gives its name. Cancel-safe.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.quit.recv() => "SIGQUIT",
        }
    }
}

/// Signals that would end the process by default, at once and without a line: while this lives, each is logged and ignored.
///
/// Not among them are those of [`StopSignals`], SIGKILL, those of a fault in the program itself, such as SIGSEGV, and SIGPIPE,
/// which Rust ignores.
#[derive(Debug)]
pub struct OtherSignals {
    /// Ends with its owner.
    _hearing: JoinSet<()>,
}

/// A flood of one signal is one line in so much time.
const SIGNAL_PAUSE: Duration = Duration::from_secs(1);
const NO_RELOAD: &str = "configuration reload is not in this version; restart to take changes in";
const NO_MEANING: &str = "it has no meaning here; SIGTERM drains and ends";
/// Linux's numbers of SIGXCPU, SIGXFSZ, SIGVTALRM and SIGPROF, which are BSD's as well.
const LIMITS_AND_TIMERS: [(i32, &str, &str); 4] = [
    (
        24,
        "SIGXCPU",
        "the limit of CPU time (ulimit -t, LimitCPU) is reached; the kernel kills at the hard limit",
    ),
    (25, "SIGXFSZ", "a file has the size that is allowed (ulimit -f, LimitFSIZE); log lines may be lost"),
    (26, "SIGVTALRM", NO_MEANING),
    (27, "SIGPROF", NO_MEANING),
];

impl OtherSignals {
    /// From now on none of them ends the process.
    ///
    /// # Errors
    ///
    /// The operating system gives no handler.
    pub fn listen() -> io::Result<Self> {
        let named = [
            (SignalKind::hangup(), "SIGHUP", NO_RELOAD),
            (SignalKind::user_defined1(), "SIGUSR1", NO_MEANING),
            (SignalKind::user_defined2(), "SIGUSR2", NO_MEANING),
            (SignalKind::alarm(), "SIGALRM", NO_MEANING),
            (SignalKind::io(), "SIGIO", NO_MEANING),
        ];
        let numbered = LIMITS_AND_TIMERS.map(|(number, name, why)| (SignalKind::from_raw(number), name, why));
        let mut hearing = JoinSet::new();
        for (kind, name, why) in named.into_iter().chain(numbered).chain(other_kinds()) {
            hearing.spawn(ignore(signal(kind)?, kind, name, why));
        }
        Ok(Self { _hearing: hearing })
    }
}

/// SIGSTKFLT, SIGPWR and the real-time signals, which begin behind the two that glibc keeps for itself.
#[cfg(target_os = "linux")]
fn other_kinds() -> impl Iterator<Item = (SignalKind, &'static str, &'static str)> {
    let named = [(16, "SIGSTKFLT"), (30, "SIGPWR")].into_iter();
    let real_time = (34..=64).map(|number| (number, "a real-time signal"));
    named.chain(real_time).map(|(number, name)| (SignalKind::from_raw(number), name, NO_MEANING))
}

#[cfg(not(target_os = "linux"))]
fn other_kinds() -> impl Iterator<Item = (SignalKind, &'static str, &'static str)> {
    std::iter::empty()
}

async fn ignore(mut signal: Signal, kind: SignalKind, name: &'static str, why: &'static str) {
    while signal.recv().await.is_some() {
        tracing::warn!(number = kind.as_raw_value(), "{name} is ignored: {why}");
        tokio::time::sleep(SIGNAL_PAUSE).await;
    }
}
