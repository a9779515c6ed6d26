//! Connections of an HTTP server, up to a limit. At the limit the connection whose client has been silent longest is
//! closed for a new one, so clients that send nothing or do not read keep nobody out.
//!
//! Does not know requests or answers.

use std::{
    collections::HashMap,
    io,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    task::{AbortHandle, Id, JoinSet},
    time::{Instant, sleep},
};

/// Least silence of a client whose connection is closed for another. A client that has just connected is kept.
const PATIENCE: Duration = Duration::from_millis(200);
/// Pause before a server whose clients are all active looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Pause after a failed accept, mostly for lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// Linux errors of a process (`EMFILE`) or system (`ENFILE`) that can open no more files.
const NO_MORE_FILES: [i32; 2] = [24, 23];
/// Limit of open files if the system reports none.
const OPEN_FILES: usize = 256;
/// Least number of connections of a server, whatever the limit of open files.
const CONNECTIONS_MIN: usize = 8;

/// Connections of one server.
pub struct Connections {
    max: usize,
    tasks: JoinSet<()>,
    open: HashMap<Id, (AbortHandle, Turn)>,
    dropped: u64,
}

/// Whose turn it is on a connection: the client's or the server's. Clones share it.
#[derive(Clone, Debug)]
pub struct Turn(Arc<Mutex<Course>>);

/// History of a connection.
#[derive(Debug)]
struct Course {
    /// Time since which the client's data is awaited; `None` during the server's turn.
    client_since: Option<Instant>,
    /// Set if a request has arrived.
    has_asked: bool,
}

/// Accepts connections until `end`, at most `max` at a time, and serves each by `serve`, which receives and updates
/// its [`Turn`]. Returns the connections that are open then. `server` is the listener's name in the log.
pub async fn accept<F>(
    listener: TcpListener,
    server: &str,
    max: usize,
    end: impl Future<Output = ()>,
    serve: impl Fn(TcpStream, Turn) -> F,
) -> Connections
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut connections = Connections::new(max);
    let mut accepted: Option<TcpStream> = None;
    let mut end = pin!(end);
    loop {
        if let Some(stream) = accepted.take_if(|_| connections.has_room()) {
            connections.add(|turn| serve(stream, turn));
        }
        tokio::select! {
            biased;
            // 1. The end comes first.
            () = &mut end => return connections,
            // 2. Finished connections make room.
            () = connections.ended() => {}
            // 3. New ones, one at a time.
            new = listener.accept(), if accepted.is_none() => match new {
                Ok((stream, _)) => accepted = Some(stream),
                Err(error) => {
                    tracing::warn!(%error, "the {server} listener could not accept a connection");
                    connections.make_room_after(&error);
                    tokio::select! { () = &mut end => return connections, () = sleep(ACCEPT_PAUSE) => {} }
                }
            },
            // 4. Somebody may have become silent for long enough.
            () = sleep(LOOK_AGAIN), if accepted.is_some() => {}
        }
    }
}

impl Connections {
    fn new(max: usize) -> Self {
        Self { max, tasks: JoinSet::new(), open: HashMap::new(), dropped: 0 }
    }

    /// Tells whether another connection may be accepted, if necessary after closing one.
    fn has_room(&mut self) -> bool {
        self.open.len() < self.max
            || self.drop_longest_awaited(
                "all HTTP connections are in use, so those with the longest silent clients are closed for new ones; check which client \
                 connects and then neither sends nor reads",
            )
    }

    /// Closes a connection if an accept failed for lack of open files.
    fn make_room_after(&mut self, error: &io::Error) {
        if error.raw_os_error().is_some_and(|code| NO_MORE_FILES.contains(&code)) {
            self.drop_longest_awaited(
                "no more files can be opened, so HTTP connections with the longest silent clients are closed for new ones; raise the \
                 limit of open files (LimitNOFILE=, ulimit -n), or check what uses them",
            );
        }
    }

    /// Closes the connection whose client has been silent longest. `false` if no client has been silent for a while.
    fn drop_longest_awaited(&mut self, why: &str) -> bool {
        let awaited = self.open.iter().filter_map(|(id, (_, turn))| Some((turn.client_since()?, *id)));
        let Some((_, id)) = awaited.min().filter(|(since, _)| since.elapsed() >= PATIENCE) else {
            return false;
        };
        if let Some((task, _)) = self.open.remove(&id) {
            task.abort();
            self.dropped += 1;
            // An endless flood is logged at 1, 2, 4, ... connections.
            if self.dropped.is_power_of_two() {
                tracing::warn!(open = self.open.len() + 1, max = self.max, dropped = self.dropped, "{why}");
            }
        }
        true
    }

    /// Adds a connection.
    fn add<F>(&mut self, serve: impl FnOnce(Turn) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let turn = Turn::of_client();
        let task = self.tasks.spawn(serve(turn.clone()));
        self.open.insert(task.id(), (task, turn));
    }

    /// Waits for the end of any connection, for ever without one. Cancel-safe.
    async fn ended(&mut self) {
        match self.tasks.join_next_with_id().await {
            Some(Ok((id, ()))) => drop(self.open.remove(&id)),
            Some(Err(error)) => drop(self.open.remove(&error.id())),
            None => std::future::pending().await,
        }
    }

    /// Waits for the end of all connections.
    pub async fn all_ended(&mut self) {
        while !self.tasks.is_empty() {
            self.ended().await;
        }
    }
}

impl Turn {
    fn of_client() -> Self {
        Self(Arc::new(Mutex::new(Course { client_since: Some(Instant::now()), has_asked: false })))
    }

    /// Answers a request in the server's turn.
    pub async fn answering<T>(self, answer: impl Future<Output = T>) -> T {
        self.is_servers();
        let answer = answer.await;
        self.is_clients();
        answer
    }

    /// Begins the server's turn: it has all that it needs from the client for now.
    pub fn is_servers(&self) {
        *self.course() = Course { client_since: None, has_asked: true };
    }

    /// Begins the client's turn: it has to send or read.
    pub fn is_clients(&self) {
        self.course().client_since.get_or_insert_with(Instant::now);
    }

    /// Tells whether a request has arrived.
    pub fn has_asked(&self) -> bool {
        self.course().has_asked
    }

    fn client_since(&self) -> Option<Instant> {
        self.course().client_since
    }

    fn course(&self) -> MutexGuard<'_, Course> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the number of connections: `wanted`, or as many as the limit of open files leaves beside `others`.
pub fn within_open_files(wanted: usize, others: usize) -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let files = open_files(&limits).unwrap_or(OPEN_FILES);
    wanted.min(files.saturating_sub(others)).max(CONNECTIONS_MIN)
}

/// Returns the soft limit of open files from proc(5).
fn open_files(limits: &str) -> Option<usize> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(usize::MAX),
        number => number.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_limit_of_open_files_is_the_soft_one() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max processes             94011                94011                processes \n\
                      Max open files            1024                 524288               files     \n";
        assert_eq!(open_files(limits), Some(1024));
        assert_eq!(open_files(&limits.replace("1024  ", "unlimited")), Some(usize::MAX));
        assert_eq!(open_files(""), None);
        assert_eq!(within_open_files(800, usize::MAX), CONNECTIONS_MIN);
        assert_eq!(within_open_files(9, 0), 9);
    }

    #[tokio::test(start_paused = true)]
    async fn the_client_that_was_waited_for_the_longest_makes_room_and_none_that_is_at_work() {
        let mut connections = Connections::new(3);
        let mut turns = Vec::new();
        for _ in 0..3 {
            assert!(connections.has_room());
            connections.add(|turn| {
                turns.push(turn);
                std::future::pending()
            });
            tokio::time::sleep(Duration::from_millis(60)).await;
        }
        assert!(!connections.has_room(), "nobody has been waited for long");
        turns[0].is_servers();
        tokio::time::sleep(Duration::from_secs(1)).await;
        turns[2].is_servers();
        turns[2].is_clients();
        assert!(connections.has_room());
        assert_eq!(connections.open.len(), 2);
        connections.add(|_| std::future::pending());
        turns[2].is_servers();
        assert!(!connections.has_room(), "the new one has just come, the others are at work");
        turns[2].is_clients();
        tokio::time::sleep(Duration::from_secs(1)).await;
        connections.make_room_after(&io::ErrorKind::ConnectionAborted.into());
        assert_eq!(
            connections.open.len(),
            3,
            "a client that went away before it was accepted costs nobody a connection"
        );
        connections.make_room_after(&io::Error::from_raw_os_error(NO_MORE_FILES[0]));
        assert_eq!(connections.open.len(), 2);
        for _ in 0..2 {
            tokio::time::timeout(Duration::from_secs(1), connections.ended()).await.unwrap();
        }
        assert_eq!(connections.open.len(), 2);
    }
}
