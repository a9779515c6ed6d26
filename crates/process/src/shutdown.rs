//! Shutdown: the request from the operating system, as every task sees it.

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

/// Handle that requests the shutdown.
#[derive(Debug)]
pub struct ShutdownTrigger {
    deadline: watch::Sender<Option<Instant>>,
}

/// Handle of a task that drains at the shutdown.
#[derive(Clone, Debug)]
pub struct Shutdown {
    deadline: watch::Receiver<Option<Instant>>,
}

/// Returns a trigger and the handle that it reaches. Dropping the trigger requests nothing.
pub fn shutdown() -> (ShutdownTrigger, Shutdown) {
    let (sender, receiver) = watch::channel(None);
    (ShutdownTrigger { deadline: sender }, Shutdown { deadline: receiver })
}

impl ShutdownTrigger {
    /// Requests every task to drain within `drain_timeout`.
    pub fn request(&self, drain_timeout: Duration) {
        self.deadline.send_replace(Some(now() + drain_timeout));
    }
}

impl Shutdown {
    /// Waits for the request and returns the deadline for draining. Cancel-safe.
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

    /// Waits until the deadline for draining has passed. Cancel-safe.
    pub async fn overdue(&mut self) {
        let deadline = self.requested().await;
        tokio::time::sleep_until(deadline.into()).await;
    }
}

/// Signals that request a shutdown: SIGTERM, SIGINT and SIGQUIT.
#[derive(Debug)]
pub struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
}

impl StopSignals {
    /// Catches these signals from now on.
    ///
    /// # Errors
    ///
    /// [`io::Error`] when the operating system refuses a handler.
    pub fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
        })
    }

    /// Waits for one of the signals and returns its name. Cancel-safe.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.quit.recv() => "SIGQUIT",
        }
    }
}

/// Signals that would end the process at once by default. While this value lives, each is logged and ignored.
///
/// Excluded are those of [`StopSignals`], SIGKILL, signals of a fault in the program such as SIGSEGV, and SIGPIPE,
/// which Rust ignores.
#[derive(Debug)]
pub struct OtherSignals {
    /// Task that ends with this value.
    _hearing: JoinSet<()>,
}

/// Interval between log lines of one signal.
const SIGNAL_PAUSE: Duration = Duration::from_secs(1);
const NO_RELOAD: &str = "this version does not reload its configuration; restart it to apply changes";
const NO_MEANING: &str = "the signal has no effect; SIGTERM drains and ends the program";
/// Numbers of SIGXCPU, SIGXFSZ, SIGVTALRM and SIGPROF on Linux and BSD.
const LIMITS_AND_TIMERS: [(i32, &str, &str); 4] = [
    (
        24,
        "SIGXCPU",
        "the soft limit of CPU time (ulimit -t, LimitCPU) is reached; the kernel kills the program at the hard limit",
    ),
    (25, "SIGXFSZ", "a file has reached its size limit (ulimit -f, LimitFSIZE); log lines may be lost"),
    (26, "SIGVTALRM", NO_MEANING),
    (27, "SIGPROF", NO_MEANING),
];

impl OtherSignals {
    /// Catches these signals from now on.
    ///
    /// # Errors
    ///
    /// [`io::Error`] when the operating system refuses a handler.
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

/// Returns SIGSTKFLT, SIGPWR and the real-time signals, which begin after the two that glibc reserves.
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
