//! Connections as the server sees them: they open, break, hang, and are closed once the server notices.

use std::time::Duration;

use tokio::time::Instant;

use super::state::{Session, SessionId};
use crate::{
    link::{Link, Said},
    world::WorldState,
};

impl WorldState {
    /// Closes sessions whose clients are gone.
    pub(crate) fn reap(&mut self) {
        let now = self.now();
        let timeout = self.scenario.wal_sender_timeout;
        let ids: Vec<SessionId> = self.postgres.sessions.keys().copied().collect();
        for id in ids {
            self.apply_statuses(id, now);
            let Some(session) = self.postgres.sessions.get(&id) else { continue };
            let timed_out = session.streaming.as_ref().is_some_and(|s| s.heard_at + timeout <= now);
            // A walsender without answers times out. Any other session ends with its link, sooner or later.
            let vanished = match session.link {
                Link::Up => timed_out,
                Link::Cut => false,
                Link::Hung(since) => timed_out || session.streaming.is_none() && since + timeout <= now,
            };
            if vanished || session.closes_at.is_some_and(|at| at <= now) {
                self.end_session(id);
            }
        }
    }

    /// Ends a session on the server's side.
    pub(crate) fn end_session(&mut self, id: SessionId) {
        let now = self.now();
        let server = &mut self.postgres;
        server.parked_lock.take_if(|holder| *holder == id);
        if let Some(session) = server.sessions.get_mut(&id) {
            // A client on a silent link does not notice.
            let knows = !matches!(session.link, Link::Hung(_));
            if knows {
                session.link = Link::Cut;
            }
            session.streaming = None;
            session.closes_at = None;
            let process = session.process;
            let had_slot = server.active.take_if(|active| *active == id).is_some();
            let had_backlog = server.backlog.take_if(|holder| *holder == id).is_some();
            if had_slot || had_backlog {
                // Nobody listens on the connection that holds the temporary slot. Its loss is noticed at the end.
                self.oracle.left_slot(process, (knows && had_slot).then_some(now));
                self.note(|| format!("postgres: process {process} has the slot no longer"));
            }
        }
    }

    /// Drops the client's end of a session. Some of what it sent last arrives.
    pub(super) fn abandon_session(&mut self, id: SessionId) {
        let now = self.now();
        let delay = self.millis(0..=20);
        let arrives = self.rng.bool();
        let Some(session) = self.postgres.sessions.get_mut(&id) else { return };
        if let Some(streaming) = &mut session.streaming
            && (!arrives || session.link != Link::Up)
        {
            streaming.statuses.retain(|(at, _)| *at <= now);
        }
        match session.link {
            Link::Up => session.closes_at = Some(now + delay),
            Link::Cut => {
                self.end_session(id);
                self.postgres.sessions.remove(&id);
            }
            Link::Hung(_) => {}
        }
    }

    /// Ends every session, as a crash does.
    pub(crate) fn end_all_sessions(&mut self) {
        for id in self.postgres.sessions.keys().copied().collect::<Vec<_>>() {
            self.end_session(id);
        }
    }

    pub(super) fn open_session(&mut self, process: u64) -> SessionId {
        self.postgres.last_session += 1;
        let id = self.postgres.last_session;
        let session = Session { process, link: Link::Up, closes_at: None, streaming: None };
        self.postgres.sessions.insert(id, session);
        id
    }

    pub(super) fn link(&self, id: SessionId) -> Link {
        self.postgres.sessions.get(&id).map_or(Link::Cut, |session| session.link)
    }

    /// `TCP_USER_TIMEOUT` and keepalives end every wait.
    pub(super) fn until_tcp_gives_up<T, E>(&self, hung: Instant, error: E) -> Said<Result<T, E>> {
        let until = hung + Duration::from_secs(60);
        if until <= self.now() { Said::This(Err(error)) } else { Said::NothingBefore(Some(until)) }
    }
}
