//! Events of the copy stream (manual, "Streaming Replication Protocol": XLogData, primary keepalive message).

use bytes::{Buf, Bytes};
use postgres_protocol::message::backend::{COMMAND_COMPLETE_TAG, COPY_DATA_TAG, COPY_DONE_TAG};

use super::{error::ReplicationError, stored_text::Texts};
use crate::{
    Lsn,
    connection::{wire::Frame, wire_error::WireError},
};

const XLOG_DATA_TAG: u8 = b'w';
const KEEPALIVE_TAG: u8 = b'k';
/// wal_start, wal_end, and the server's clock.
const XLOG_DATA_HEADER_BYTES: usize = 24;
/// wal_end, the server's clock, reply requested.
const KEEPALIVE_BYTES: usize = 17;

/// One event of the copy stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplicationEvent {
    /// XLogData: one message of the output plugin.
    WalData {
        /// Position of the change in WAL; zero for messages without one, such as Relation.
        wal_start: Lsn,
        /// The same as `wal_start` in logical replication, although the manual calls it "current end of WAL".
        wal_end: Lsn,
        /// The message, for [`pgoutput::decode`](crate::pgoutput::decode). Shares the receive buffer.
        bytes: Bytes,
    },
    /// Primary keepalive message.
    Keepalive {
        /// End of the WAL that the server has decoded and whose changes it has sent.
        wal_end: Lsn,
        /// The server requests a status update at once, and ends the connection after `wal_sender_timeout` without
        /// one.
        reply_requested: bool,
    },
}

impl ReplicationEvent {
    /// Returns the event's texts that are not ASCII.
    pub(crate) fn texts(&self) -> Texts {
        match self {
            ReplicationEvent::WalData { bytes, .. } => Texts::of(bytes),
            ReplicationEvent::Keepalive { .. } => Texts::default(),
        }
    }
}

/// Decodes the event of a frame.
pub(crate) fn event(frame: Frame) -> Result<ReplicationEvent, ReplicationError> {
    match frame.tag() {
        COPY_DATA_TAG => decode(frame.into_payload())
            .ok_or_else(|| WireError::protocol("copy data that is neither XLogData nor a keepalive"))
            .map_err(ReplicationError::Stream),
        // At shutdown a walsender sends CommandComplete without CopyDone (WalSndDone, walsender.c).
        COPY_DONE_TAG | COMMAND_COMPLETE_TAG => Err(ReplicationError::Ended),
        _ => Err(ReplicationError::Stream(frame.unexpected("streaming"))),
    }
}

fn decode(mut payload: Bytes) -> Option<ReplicationEvent> {
    match payload.try_get_u8().ok()? {
        XLOG_DATA_TAG if payload.len() >= XLOG_DATA_HEADER_BYTES => {
            let wal_start = Lsn(payload.get_u64());
            let wal_end = Lsn(payload.get_u64());
            let _sent_at = payload.get_i64();
            Some(ReplicationEvent::WalData { wal_start, wal_end, bytes: payload })
        }
        KEEPALIVE_TAG if payload.len() == KEEPALIVE_BYTES => {
            let wal_end = Lsn(payload.get_u64());
            let _sent_at = payload.get_i64();
            Some(ReplicationEvent::Keepalive { wal_end, reply_requested: payload.get_u8() != 0 })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn events_that_are_cut_short_or_unknown_are_refused() {
        let mut data = vec![XLOG_DATA_TAG];
        data.extend([0; XLOG_DATA_HEADER_BYTES]);
        assert!(
            matches!(decode(data.clone().into()), Some(ReplicationEvent::WalData { bytes, .. }) if bytes.is_empty())
        );
        data.pop();
        assert_eq!(decode(data.into()), None);
        let mut keepalive = vec![KEEPALIVE_TAG];
        keepalive.extend([0; KEEPALIVE_BYTES + 1]);
        assert_eq!(decode(keepalive.clone().into()), None);
        keepalive.truncate(1 + KEEPALIVE_BYTES);
        assert_eq!(
            decode(keepalive.into()),
            Some(ReplicationEvent::Keepalive { wal_end: Lsn::ZERO, reply_requested: false })
        );
        assert_eq!(decode(Bytes::new()), None);
        assert_eq!(decode(Bytes::from_static(b"x")), None);
    }

    proptest! {
        #[test]
        fn any_copy_data_gives_an_event_or_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = decode(bytes.into());
        }
    }
}
