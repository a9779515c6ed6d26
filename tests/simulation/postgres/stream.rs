//! The client's end of a stream.

use std::time::Duration;

use outboxd::{ledger::ConfirmedLsn, relay::database::Stream};
use pg_replication::{ReplicationError, ReplicationEvent};
use tokio::time::Instant;

use super::connection::{Connection, closed};
use crate::{
    link::{Link, Said},
    scenario::Sabotage,
};

pub(crate) struct SimulatedStream {
    connection: Connection,
    last_heard: Instant,
    /// The last row handed out, for [`Sabotage`].
    seen: u64,
}

impl SimulatedStream {
    pub(super) fn new(connection: Connection) -> Self {
        Self { connection, last_heard: Instant::now(), seen: 0 }
    }

    fn received(&mut self, event: &ReplicationEvent) -> bool {
        self.last_heard = Instant::now();
        let is_row = matches!(event, ReplicationEvent::WalData { bytes, .. } if bytes.first() == Some(&b'I'));
        self.seen += u64::from(is_row);
        let sabotage = self.connection.world.look(|state| state.scenario.sabotage);
        // The first row of a connection is skipped.
        !(sabotage == Some(Sabotage::SkipOnResume) && is_row && self.seen == 1 && self.connection.id > 20)
    }

    fn report(&self, confirmed: Option<ConfirmedLsn>, reply_requested: bool) -> Result<(), ReplicationError> {
        let (id, process) = (self.connection.id, self.connection.process);
        self.connection.world.change(|state| {
            if state.link(id) == Link::Cut {
                return Err(ReplicationError::Stream(closed()));
            }
            let mut lsn = confirmed.map_or(0, |confirmed| confirmed.lsn().0);
            if state.scenario.sabotage == Some(Sabotage::AcknowledgeReceived)
                && let Some(streaming) = state.postgres.sessions.get(&id).and_then(|s| s.streaming.as_ref())
            {
                lsn = streaming.sent;
            }
            // On a silent link the status never arrives. The server at the other end may be another one.
            if state.link(id) == Link::Up {
                state.acknowledged(process, lsn);
            }
            state.status(id, lsn, reply_requested);
            Ok(())
        })
    }
}

impl Stream for SimulatedStream {
    async fn next(&mut self) -> Result<ReplicationEvent, ReplicationError> {
        loop {
            let id = self.connection.id;
            let heard = self.connection.world.hear(|state| state.stream(id)).await;
            let event = heard.inspect_err(|_| {
                let process = self.connection.process;
                self.connection.world.look(|state| state.oracle.heard_of_the_end(process));
            })?;
            if self.received(&event) {
                return Ok(event);
            }
        }
    }

    fn next_ready(&mut self) -> Result<Option<ReplicationEvent>, ReplicationError> {
        let id = self.connection.id;
        let said = self
            .connection
            .world
            .look(|state| if state.one_in(8) { Said::NothingBefore(None) } else { state.stream(id) });
        match said {
            Said::This(event) => event.map(|event| self.received(&event).then_some(event)),
            Said::NothingBefore(_) => Ok(None),
        }
    }

    fn last_heard(&self) -> Instant {
        self.last_heard
    }

    async fn send_status(
        &mut self,
        confirmed: Option<ConfirmedLsn>,
        reply_requested: bool,
    ) -> Result<(), ReplicationError> {
        let stuck =
            self.connection.world.look(|state| state.scenario.sabotage == Some(Sabotage::StuckInTheLoop));
        if stuck {
            std::future::pending::<()>().await;
        }
        self.report(confirmed, reply_requested)
    }

    async fn finish(self, confirmed: Option<ConfirmedLsn>) -> Result<(), ReplicationError> {
        if confirmed.is_some() {
            self.report(confirmed, false)?;
        }
        let (id, process) = (self.connection.id, self.connection.process);
        let arrived = Instant::now() + Duration::from_millis(20);
        self.connection
            .world
            .hear(|state| match state.link(id) {
                Link::Cut => Said::This(Err(ReplicationError::Stream(closed()))),
                Link::Hung(since) => state.until_tcp_gives_up(since, ReplicationError::Stream(closed())),
                Link::Up if state.now() < arrived => Said::NothingBefore(Some(arrived)),
                Link::Up => {
                    state.apply_statuses(id, arrived);
                    state.end_session(id);
                    state.oracle.finished(process);
                    Said::This(Ok(()))
                }
            })
            .await?;
        self.connection.world.change(|_| ());
        Ok(())
    }
}
