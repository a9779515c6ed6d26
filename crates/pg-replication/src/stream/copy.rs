//! Copy stream: receives events, sends status updates, and ends in order.

use std::{
    future::poll_fn,
    marker::PhantomData,
    task::{Context, Poll},
    time::SystemTime,
};

use postgres_protocol::message::{
    backend::{COMMAND_COMPLETE_TAG, COPY_DATA_TAG, COPY_DONE_TAG, READY_FOR_QUERY_TAG},
    frontend,
};
use tokio::time::Instant;

use super::{
    error::ReplicationError,
    event::{ReplicationEvent, event},
    status::{Flushed, put_status},
    stored_text::{Texts, Translator},
};
use crate::{
    Lsn,
    connection::{wire::Wire, wire_error::WireError},
};

/// Connection in CopyBoth mode. Unusable after an error.
///
/// `A` is the type of acknowledged positions. A caller that may acknowledge a position only with a proof, such as
/// "stored", makes that proof a type. Acknowledging a merely received position then does not compile:
///
/// ```compile_fail,E0308
/// use pg_replication::{Lsn, ReplicationError, ReplicationStream};
///
/// /// Made where rows are stored, and nowhere else.
/// struct Stored(Lsn);
///
/// impl From<Stored> for Lsn {
///     fn from(stored: Stored) -> Self {
///         stored.0
///     }
/// }
///
/// async fn acknowledge(stream: &mut ReplicationStream<Stored>, received: Lsn) -> Result<(), ReplicationError> {
///     stream.send_status(Some(received), false).await
/// }
/// ```
///
/// Callers without such a type use `A = Lsn`.
#[derive(Debug)]
pub struct ReplicationStream<A = Lsn> {
    acknowledges: PhantomData<fn(A)>,
    wire: Wire,
    /// Newest status update that is not in the output yet, because an older one is still being written.
    status: Option<(Lsn, bool)>,
    /// Translator for a database whose encoding is not UTF8.
    translator: Option<Box<Translator>>,
    /// Event with text that the translator does not know yet.
    untranslated: Option<(ReplicationEvent, Texts)>,
    /// Last position reported as flushed.
    flushed: Lsn,
}

impl<A: Into<Lsn>> ReplicationStream<A> {
    pub(crate) fn new(wire: Wire, translator: Option<Box<Translator>>) -> Self {
        Self {
            acknowledges: PhantomData,
            wire,
            status: None,
            flushed: Lsn::ZERO,
            translator,
            untranslated: None,
        }
    }

    /// Returns the next event. Cancel-safe. Also continues a status update that the socket did not accept at once. An
    /// event that has been received is returned without a system call.
    ///
    /// An idle server that receives status updates sends nothing. To detect a hanging server, request a reply with
    /// [`Self::send_status`] and watch [`Self::last_heard`].
    ///
    /// # Errors
    /// [`ReplicationError::Ended`] when the server shuts down, otherwise [`ReplicationError::Stream`].
    pub async fn next(&mut self) -> Result<ReplicationEvent, ReplicationError> {
        loop {
            if let Some(event) = self.next_ready()? {
                return Ok(event);
            }
            if self.learn().await? {
                continue;
            }
            poll_fn(|cx| {
                self.write_status(cx);
                self.wire.poll_receive(cx)
            })
            .await
            .map_err(ReplicationError::Stream)?;
        }
    }

    /// Returns the next event if it has been received. Neither waits nor makes a system call.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub fn next_ready(&mut self) -> Result<Option<ReplicationEvent>, ReplicationError> {
        if self.translator.is_none() {
            return self.next_as_it_comes();
        }
        let next = match self.untranslated.take() {
            Some(untranslated) => Some(untranslated),
            None => self.next_as_it_comes()?.map(|event| {
                let texts = event.texts();
                (event, texts)
            }),
        };
        let (Some((event, texts)), Some(translator)) = (next, &self.translator) else { return Ok(None) };
        if let ReplicationEvent::WalData { wal_start, wal_end, bytes } = &event
            && !texts.is_empty()
        {
            if !translator.knows(texts.iter(bytes)) {
                self.untranslated = Some((event, texts));
                return Ok(None);
            }
            let bytes = texts.replaced(bytes, |text| translator.translate(text));
            return Ok(Some(ReplicationEvent::WalData { wal_start: *wal_start, wal_end: *wal_end, bytes }));
        }
        Ok(Some(event))
    }

    fn next_as_it_comes(&mut self) -> Result<Option<ReplicationEvent>, ReplicationError> {
        match self.wire.next_frame_ready().map_err(ReplicationError::Stream)? {
            None => Ok(None),
            Some(frame) => event(frame).map(Some),
        }
    }

    /// Looks up the characters that the translator does not know. `false`: there are none.
    async fn learn(&mut self) -> Result<bool, ReplicationError> {
        let (Some(translator), Some((ReplicationEvent::WalData { bytes, .. }, texts))) =
            (&mut self.translator, &self.untranslated)
        else {
            return Ok(false);
        };
        let learned = translator.learn(texts.iter(bytes)).await;
        learned.map_err(|cause| ReplicationError::of_command("converting text", cause))?;
        Ok(true)
    }

    /// Returns the time of the last bytes from the server.
    pub fn last_heard(&self) -> Instant {
        self.wire.last_heard()
    }

    /// Sends a standby status update: the server may discard all WAL before `confirmed`. Without a position the
    /// update only keeps the connection alive: LSN 0 moves nothing (`ProcessStandbyReplyMessage`, walsender.c).
    ///
    /// A second update in the same write withdraws the flushed position, which leaves the slot where it is. A
    /// walsender is a synchronous standby only while it has a flushed position (syncrep.c). So this client never is
    /// one, whatever `synchronous_standby_names` says, and no commit waits for it.
    ///
    /// Cancel-safe, and never waits. The next call of this method or of [`Self::next`] continues what the socket did
    /// not accept; meanwhile a newer status replaces an older one. So a server that does not read neither blocks the
    /// caller nor fills memory.
    ///
    /// # Errors
    /// [`ReplicationError::Stream`] when the socket is broken. [`Self::next`] would have returned the server's last
    /// message, if there was one.
    pub async fn send_status(
        &mut self,
        confirmed: Option<A>,
        reply_requested: bool,
    ) -> Result<(), ReplicationError> {
        let flushed = confirmed.map_or(Lsn::ZERO, Into::into);
        self.send_status_at(flushed, reply_requested).await.map_err(ReplicationError::Stream)
    }

    /// Ends the copy: sends a last status update (none without `confirmed`), and reads until the server has ended the
    /// copy, too. Remaining events are discarded. After `Ok` the server has processed the position and released the
    /// slot.
    ///
    /// In the middle of a large transaction the server first sends the rest, so limit the time. After an error, or
    /// when the future is dropped, the position may or may not have arrived; nothing else is lost.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub async fn finish(self, confirmed: Option<A>) -> Result<(), ReplicationError> {
        self.finish_at(confirmed.map(Into::into)).await.map_err(ReplicationError::Stream)
    }

    async fn send_status_at(&mut self, flushed: Lsn, reply_requested: bool) -> Result<(), WireError> {
        let wanted_before = self.status.is_some_and(|(_, reply_requested)| reply_requested);
        self.status = Some((flushed, reply_requested || wanted_before));
        poll_fn(|cx| {
            self.write_status(cx);
            Poll::Ready(())
        })
        .await;
        self.wire.try_flush().await
    }

    /// Appends the pending status once the previous one is written.
    fn write_status(&mut self, cx: &mut Context<'_>) {
        if self.status.is_some() {
            self.wire.write_some(cx);
        }
        if self.wire.is_flushed()
            && let Some((flushed, reply_requested)) = self.status.take()
        {
            let now = SystemTime::now();
            if flushed > self.flushed {
                self.flushed = flushed;
                put_status(self.wire.output(), Flushed::At(flushed), false, now);
            }
            put_status(self.wire.output(), Flushed::TakenBack(self.flushed), reply_requested, now);
        }
    }

    async fn finish_at(mut self, flushed: Option<Lsn>) -> Result<(), WireError> {
        if let Some(flushed) = flushed {
            put_status(self.wire.output(), Flushed::At(flushed), false, SystemTime::now());
        }
        frontend::copy_done(self.wire.output());
        loop {
            let frame = self.wire.next_frame().await?;
            match frame.tag() {
                COPY_DATA_TAG | COPY_DONE_TAG | COMMAND_COMPLETE_TAG => {}
                READY_FOR_QUERY_TAG => break,
                _ => return Err(frame.unexpected("ending replication")),
            }
        }
        frontend::terminate(self.wire.output());
        // The server has processed the position, so a lost goodbye does not matter.
        let _ = self.wire.try_flush().await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::connection::socket::Socket;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn a_server_that_does_not_read_holds_nobody_up_and_gets_whole_frames_later() {
        const FRAME_BYTES: usize = 39;
        let (ours, mut theirs) = tokio::net::UnixStream::pair().unwrap();
        let mut stream = ReplicationStream::<Lsn>::new(Wire::new(Socket::Unix(ours)), None);
        let newest = 50_000_u64;
        for lsn in 1..=newest {
            stream.send_status(Some(Lsn(lsn)), lsn == 1).await.unwrap();
            assert!(stream.wire.output().len() <= 2 * FRAME_BYTES);
        }
        assert!(!stream.wire.is_flushed(), "the socket took everything: the test shows nothing");

        let mut read = Vec::new();
        let reader = async {
            while read
                .chunks_exact(FRAME_BYTES)
                .next_back()
                .is_none_or(|frame| frame[6..14] != newest.to_be_bytes() || frame[14..22] != [0; 8])
            {
                theirs.read_buf(&mut read).await.unwrap();
            }
        };
        tokio::select! {
            () = reader => {}
            event = stream.next() => panic!("{event:?}"),
        }
        assert_eq!(read.len() % FRAME_BYTES, 0);
        let mut last = 0;
        for frame in read.chunks(FRAME_BYTES) {
            assert_eq!(frame[..6], [b'd', 0, 0, 0, 38, b'r']);
            let written = u64::from_be_bytes(frame[6..14].try_into().unwrap());
            let flushed = u64::from_be_bytes(frame[14..22].try_into().unwrap());
            if flushed == 0 {
                assert_eq!(written, last, "a position is taken back just after it was told");
                assert_eq!(frame[38], u8::from(written == 1));
            } else {
                assert!(flushed == written && flushed > last, "{flushed} after {last}");
            }
            last = written;
        }
        assert_eq!(last, newest);
    }
}
