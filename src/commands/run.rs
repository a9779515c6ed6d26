//! `outboxd run`: one task for each source, the admin endpoints, and the drain at the end.

use std::{collections::HashMap, path::Path, time::Duration};

use tokio::task::{Id, JoinSet};

use super::{Failure, service_manager::inform};
use crate::{
    admin::{self, Board, SourceState},
    relay::{self, Ended, Source},
    settings::Settings,
};
use amqp_publisher::subscriptions::SubscriptionWatch;
use process::{
    service_manager::ServiceManager,
    shutdown::{self, Shutdown, StopSignals},
};

pub(super) async fn run(settings: Settings, file: Option<&Path>) -> Result<(), Failure> {
    let board = Board::new();
    // Binds before anything is published: an address in use ends outboxd at once.
    let admin = match settings.admin_listen {
        Some(address) => Some(admin::bind(address).await.map_err(|error| Failure::runtime(&error))?),
        None => None,
    };
    tell_start(&settings, file);
    let mut stop = StopSignals::listen().map_err(|error| Failure::runtime(&error))?;
    let (trigger, shutdown) = shutdown::shutdown();
    let mut broker = settings.broker;
    broker.watch = SubscriptionWatch::new(&broker.topology);
    // Watches during the drain, too: a message that is returned then waits for a look at the queue.
    let (stop_watching, watched) = shutdown::shutdown();
    let watching = broker.watch.is_active().then(|| {
        let watching = relay::watch_subscriptions(broker.clone(), board.subscriptions(), watched);
        tokio::spawn(watching)
    });
    let informed = ServiceManager::of_environment().unwrap_or_else(|error| {
        tracing::warn!(%error, "NOTIFY_SOCKET names no socket: the service manager is told nothing");
        None
    });
    let mut sources = Sources::new(board.clone(), shutdown.clone());
    for (name, source) in settings.sources {
        sources.start(source.at(&name, &broker), Duration::ZERO);
    }
    // Whatever the servers do, the process is ready: waiting for them is its work.
    let informing = informed.map(|manager| tokio::spawn(inform(manager, board.clone(), shutdown)));
    let (admin_end, admin_ended) = tokio::sync::oneshot::channel::<()>();
    let admin = admin.map(|listener| {
        let ended = async move {
            let _ = admin_ended.await;
        };
        tokio::spawn(admin::serve(listener, board, ended))
    });

    tokio::select! {
        signal = stop.next() => tracing::info!(
            signal, drain_timeout_s = settings.drain_timeout.as_secs(), "draining: waiting for the confirms of messages in flight; a second signal ends outboxd at once"
        ),
        () = sources.watch() => {}
    }
    trigger.request(settings.drain_timeout);
    let asked = tokio::time::Instant::now();
    let undrained = tokio::select! {
        undrained = sources.ended(asked + settings.drain_timeout) => undrained,
        _ = stop.next() => return Err(Failure::Runtime("ended by a second signal; the next start publishes unconfirmed messages again".to_owned())),
    };
    drop(admin_end);
    stop_watching.request(Duration::ZERO);
    if let Some(watching) = watching {
        // Nothing depends on the clean end of this connection.
        let _ = tokio::time::timeout(GOODBYE_TIMEOUT, watching).await;
    }
    if let Some(admin) = admin {
        let _ = admin.await;
    }
    if let Some(informing) = informing {
        informing.abort();
    }
    if undrained.is_empty() {
        tracing::info!("drained");
        return Ok(());
    }
    Err(Failure::Runtime(format!(
        "not every message was confirmed; the next start publishes the unconfirmed ones again: {}",
        undrained.join("; ")
    )))
}

/// Logs what this process is and where it can be asked.
fn tell_start(settings: &Settings, file: Option<&Path>) {
    let sources: Vec<&str> = settings.sources.keys().map(String::as_str).collect();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        configuration = file.map_or("environment".into(), Path::to_string_lossy).as_ref(),
        sources = sources.join(", "),
        admin = settings.admin_listen.map_or("off".to_owned(), |address| address.to_string()),
        "outboxd starts"
    );
}

/// The sources' tasks. Tasks share nothing but the board, so the failure of one leaves the others running.
struct Sources {
    board: Board,
    shutdown: Shutdown,
    tasks: JoinSet<Ended>,
    running: HashMap<Id, Source>,
}

/// Time limit for the clean end of a connection that nothing depends on.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);

/// Wait before a source that panicked starts again, so that a repeated panic is no tight loop.
const AFTER_PANIC: Duration = Duration::from_secs(5);

impl Sources {
    fn new(board: Board, shutdown: Shutdown) -> Self {
        Self { board, shutdown, tasks: JoinSet::new(), running: HashMap::new() }
    }

    fn start(&mut self, source: Source, after: Duration) {
        let reporter = self.board.reporter(&source.name);
        let heartbeat = reporter.heartbeat().clone();
        let supervised = relay::supervise(source.clone(), reporter, self.shutdown.clone());
        let task = self.tasks.spawn(async move {
            heartbeat.through(tokio::time::sleep(after)).await;
            let ended = supervised.await;
            heartbeat.end();
            ended
        });
        self.running.insert(task.id(), source);
    }

    /// Restarts a source that panicked. Never returns: sources end only at shutdown. Cancel-safe.
    async fn watch(&mut self) {
        loop {
            match self.tasks.join_next_with_id().await {
                Some(Err(error)) => {
                    let Some(source) = self.running.remove(&error.id()) else { continue };
                    let reason = "an internal error ended this source; outboxd starts it again from its slot, and may repeat \
                                  messages that were in flight. Please report the panic message in the log";
                    self.board.reporter(&source.name).state(SourceState::Connecting, reason);
                    self.start(source, AFTER_PANIC);
                }
                Some(Ok(_)) => {}
                None => std::future::pending().await,
            }
        }
    }

    /// Waits for all sources. Returns those that could not drain by `deadline`, with the reason.
    async fn ended(&mut self, deadline: tokio::time::Instant) -> Vec<String> {
        let mut undrained = Vec::new();
        while let Some(ended) = self.tasks.join_next_with_id().await {
            let (id, drained) = match ended {
                Ok((id, ended)) => (id, ended == Ended::Drained),
                Err(error) => (error.id(), false),
            };
            let source = self.running.remove(&id);
            if let Some(source) = &source {
                // A source that panicked is not started again.
                self.board.reporter(&source.name).heartbeat().end();
            }
            if let (Some(source), false) = (source, drained) {
                undrained.push(self.why_undrained(&source.name, deadline));
            }
        }
        undrained.sort_unstable();
        undrained
    }

    /// Returns the source's last reason, or that its time is up, or that a connection was lost.
    fn why_undrained(&self, name: &str, deadline: tokio::time::Instant) -> String {
        let shown = self.board.status().sources.into_iter().find(|source| source.name == name);
        match shown {
            Some(source) if !source.reason.is_empty() => {
                format!("{name} is {}: {}", source.state, source.reason)
            }
            _ if tokio::time::Instant::now() >= deadline => {
                format!("{name}: confirms are missing after drain_timeout_s")
            }
            _ => format!("{name}: a connection was lost, or a message is unconfirmed before confirmed ones"),
        }
    }
}
