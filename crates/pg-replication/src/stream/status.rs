//! Standby status updates (manual, "Streaming Replication Protocol": standby status update).

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{BufMut, BytesMut};
use postgres_protocol::message::backend::COPY_DATA_TAG;

use crate::Lsn;

const STATUS_UPDATE_TAG: u8 = b'r';
/// 2000-01-01T00:00:00Z, PostgreSQL's epoch, in seconds since 1970.
const EPOCH_S: u64 = 946_684_800;

/// Flushed position of a standby status update.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Flushed {
    /// The slot moves to this position.
    At(Lsn),
    /// No flushed position, after this one was reported: the slot stays, and `pg_stat_replication` shows this
    /// position as written and replayed.
    TakenBack(Lsn),
}

/// Appends a standby status update as CopyData.
pub(crate) fn put_status(output: &mut BytesMut, flushed: Flushed, reply_requested: bool, now: SystemTime) {
    const LENGTH: u32 = 4 + 1 + 3 * 8 + 8 + 1;
    output.put_u8(COPY_DATA_TAG);
    output.put_u32(LENGTH);
    output.put_u8(STATUS_UPDATE_TAG);
    let (written, flushed, applied) = match flushed {
        Flushed::At(at) => (at, at, at),
        Flushed::TakenBack(at) => (at, Lsn::ZERO, at),
    };
    for position in [written, flushed, applied] {
        output.put_u64(position.0);
    }
    let since_1970 = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let micros = since_1970.as_micros() as i64 - EPOCH_S as i64 * 1_000_000;
    output.put_i64(micros);
    output.put_u8(reply_requested.into());
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_status_update_has_the_layout_of_the_manual() {
        let mut output = BytesMut::new();
        let now = UNIX_EPOCH + Duration::from_secs(EPOCH_S) + Duration::from_micros(7);
        let (lsn, none) = ([1, 2, 3, 4, 5, 6, 7, 8], [0; 8]);
        for (flushed, shown) in [
            (Flushed::At(Lsn(0x0102_0304_0506_0708)), lsn),
            (Flushed::TakenBack(Lsn(0x0102_0304_0506_0708)), none),
        ] {
            output.clear();
            put_status(&mut output, flushed, true, now);
            let mut expected = vec![b'd', 0, 0, 0, 38, b'r'];
            expected.extend([lsn, shown, lsn, [0, 0, 0, 0, 0, 0, 0, 7]].concat());
            expected.push(1);
            assert_eq!(output, expected);
        }
    }

    #[test]
    fn a_clock_before_2000_does_not_panic() {
        let mut output = BytesMut::new();
        put_status(&mut output, Flushed::At(Lsn::ZERO), false, UNIX_EPOCH - Duration::from_secs(1));
        assert_eq!(output.len(), 39);
    }
}
