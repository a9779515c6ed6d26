//! The streaming replication protocol on top of `wire`: START_REPLICATION, keepalives, status updates, clean end of copy. (sketch)
use crate::{ledger::ConfirmedLsn, position::Lsn};
use bytes::Bytes;

/// IDENTIFY_SYSTEM's answer (manual, "Streaming Replication Protocol").
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemIdentity {
    pub system_id: String,
    pub timeline: u32,
    pub xlogpos: Lsn,
    pub database: Option<String>,
}

/// One event of the copy stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplicationEvent {
    /// 'w' XLogData: one pgoutput message.
    WalData { wal_start: Lsn, wal_end: Lsn, bytes: Bytes },
    /// 'k' primary keepalive.
    Keepalive { wal_end: Lsn, reply_requested: bool },
}

/// What went wrong on a replication connection. Carries SQLSTATE where the server sent one (see wire::ConnectError / ServerError).
#[derive(Debug, thiserror::Error)]
#[error("sketch")]
pub struct ReplicationError;

/// A connection in replication mode (`replication=database`), not yet streaming: can run replication commands and simple SQL.
pub struct ReplicationConnection;
/// A connection in CopyBoth mode.
pub struct ReplicationStream;

impl ReplicationConnection {
    pub async fn connect(
        database: &super::SourceDatabase,
        application_name: &str,
    ) -> Result<Self, ReplicationError> {
        todo!()
    }
    pub async fn identify_system(&mut self) -> Result<SystemIdentity, ReplicationError> {
        todo!()
    }
    /// Simple query: rows of text values (IDENTIFY_SYSTEM, CREATE_REPLICATION_SLOT, pg_copy_logical_replication_slot...).
    pub async fn query(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>, ReplicationError> {
        todo!()
    }
    /// START_REPLICATION SLOT ... LOGICAL from (proto_version '1', publication_names ...). On a server error
    /// (object_in_use 55006 above all) gives the connection back, so that a standby can ask again.
    pub async fn start(
        self,
        slot: &str,
        publication: &str,
        from: Lsn,
    ) -> Result<ReplicationStream, (Option<Self>, ReplicationError)> {
        todo!()
    }
}

impl ReplicationStream {
    /// Next event. Cancel-safe. An already received event is returned without a system call.
    pub async fn next(&mut self) -> Result<ReplicationEvent, ReplicationError> {
        todo!()
    }
    /// The next event if one has already been received; no waiting, no system call.
    pub fn next_ready(&mut self) -> Result<Option<ReplicationEvent>, ReplicationError> {
        todo!()
    }
    /// Standby status update: written = flushed = applied = confirmed. Cancel-safe or cheap enough to await in place.
    pub async fn send_status(
        &mut self,
        confirmed: ConfirmedLsn,
        reply_requested: bool,
    ) -> Result<(), ReplicationError> {
        todo!()
    }
    /// Sends the last status, CopyDone; reads until the server's CopyDone and CommandComplete, then Terminate: when this
    /// returns Ok the server has taken in the position.
    pub async fn finish(self, confirmed: Option<ConfirmedLsn>) -> Result<(), ReplicationError> {
        todo!()
    }
}
