//! A connection in replication mode that does not stream yet.

use outboxd::{
    position::Lsn,
    relay::database::Replication,
    slot::{facts::SlotFacts, open_transactions::OpenTransaction},
};
use pg_replication::{BeforeStream, ReplicationError, SystemIdentity};

use super::{
    connection::{Connection, command_failed, server_error},
    facts::slots,
    stream::SimulatedStream,
    streaming::Streaming,
};
use crate::world::WorldState;

pub(crate) struct SimulatedReplication(pub(super) Connection);

impl Replication for SimulatedReplication {
    type Stream = SimulatedStream;

    async fn identify_system(&mut self) -> Result<SystemIdentity, ReplicationError> {
        let process = self.0.process;
        let identify = |state: &mut WorldState| {
            let data = &state.postgres.data;
            state.oracle.identified(process, (data.system_id, data.timeline));
            SystemIdentity {
                system_id: data.system_id.to_string(),
                timeline: data.timeline,
                xlogpos: Lsn(data.wal_end),
                database: Some("orders".to_owned()),
            }
        };
        self.0.ask(identify).await.map_err(command_failed)
    }

    async fn slots(&mut self, _: &str, slot: &str) -> Result<Vec<SlotFacts>, ReplicationError> {
        self.0.ask(|state| slots(state, slot)).await.map_err(command_failed)
    }

    async fn awaited_transactions(&mut self, _: &str) -> Result<Vec<OpenTransaction>, ReplicationError> {
        self.0.ask(|_| Vec::new()).await.map_err(command_failed)
    }

    async fn before_stream(&mut self, _: &str) -> Result<BeforeStream, ReplicationError> {
        let flushed =
            |state: &mut WorldState| state.postgres.data.slot.as_ref().map(|slot| Lsn(slot.confirmed_flush));
        let confirmed_flush = self.0.ask(flushed).await.map_err(command_failed)?;
        Ok(BeforeStream { pid: self.0.id as i32, confirmed_flush })
    }

    async fn make_failover(&mut self, _: &str) -> Result<bool, ReplicationError> {
        Ok(true)
    }

    async fn start(
        self,
        _: &str,
        _: &str,
        from: Lsn,
    ) -> Result<SimulatedStream, (Option<Self>, ReplicationError)> {
        let (id, process) = (self.0.id, self.0.process);
        let start = |state: &mut WorldState| {
            if state.postgres.active.is_some() {
                return Err(server_error("ERROR", "55006", "replication slot is active"));
            }
            let Some(slot) = &state.postgres.data.slot else {
                return Err(server_error("ERROR", "42704", "replication slot does not exist"));
            };
            if slot.lost {
                let message = "can no longer get changes from replication slot";
                return Err(server_error("ERROR", "55000", message));
            }
            // A server may send more than it was asked for.
            let flushed = slot.confirmed_flush;
            let asked = from.0;
            let from = if state.one_in(5) { flushed } else { asked.max(flushed) };
            let now = state.now();
            let before = state.postgres.data.transactions.iter().take_while(|t| t.commit_lsn < asked);
            let skips = before.flat_map(|t| &t.rows).map(|row| row.id).max();
            let next = state.postgres.data.transactions.partition_point(|t| t.commit_lsn < from);
            let streaming = Streaming::new(next, from, now);
            state.postgres.active = Some(id);
            if let Some(session) = state.postgres.sessions.get_mut(&id) {
                session.streaming = Some(streaming);
            }
            state.oracle.got_slot(process);
            state.oracle.session_began(process, id);
            state.oracle.asked_for_rows_after(process, skips.unwrap_or(0));
            state.note(|| {
                format!("postgres: process {process} streams from {from}, the slot is at {flushed}")
            });
            Ok(())
        };
        match self.0.ask(start).await {
            Ok(Ok(())) => Ok(SimulatedStream::new(self.0)),
            Ok(Err(refused)) => Err((Some(self), command_failed(refused))),
            Err(broken) => Err((None, command_failed(broken))),
        }
    }
}
