//! The client's end of a session, and the server's answers while it is not available.

use pg_replication::{ReplicationError, ServerError, WireError};

use super::state::{Mode, SessionId};
use crate::{
    link::{Link, Said},
    world::{World, WorldState},
};

/// The client's end of a session. Closed when dropped.
pub(super) struct Connection {
    pub(super) world: World,
    pub(super) id: SessionId,
    pub(super) process: u64,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.world.change(|state| state.abandon_session(self.id));
    }
}

impl Connection {
    pub(super) async fn open(world: &World, process: u64) -> Result<Self, WireError> {
        world.pause(0..=world.look(|state| state.scenario.connect_ms)).await;
        let id = world.look(|state| match state.postgres.mode {
            Mode::Up => Ok(state.open_session(process)),
            Mode::Down => Err(WireError::Io {
                doing: "connecting",
                source: std::io::ErrorKind::ConnectionRefused.into(),
            }),
            Mode::Ending => Err(server_error("FATAL", "57P03", "the database system is shutting down")),
        })?;
        Ok(Self { world: world.clone(), id, process })
    }

    /// Makes one round trip.
    pub(super) async fn ask<T>(&self, mut answer: impl FnMut(&mut WorldState) -> T) -> Result<T, WireError> {
        self.world.pause(0..=2).await;
        self.world
            .hear(|state| match state.link(self.id) {
                Link::Up => Said::This(Ok(answer(state))),
                Link::Cut => Said::This(Err(closed())),
                Link::Hung(since) => state.until_tcp_gives_up(since, closed()),
            })
            .await
    }
}

pub(super) fn closed() -> WireError {
    WireError::Closed { mid_message: false }
}

pub(super) fn server_error(severity: &str, code: &str, message: &str) -> WireError {
    WireError::Server(Box::new(ServerError {
        severity: severity.to_owned(),
        code: code.to_owned(),
        message: message.to_owned(),
        detail: None,
        hint: None,
    }))
}

pub(super) fn command_failed(cause: WireError) -> ReplicationError {
    ReplicationError::Command { command: "a command".to_owned(), cause }
}
