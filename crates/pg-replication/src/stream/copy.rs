//! The copy stream: events come, status updates go, and it ends in order.

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

/// A connection in CopyBoth mode. After an error it is of no more use.
///
/// `A` is what it acknowledges. A caller who may acknowledge a position only with some proof, such as "stored", makes that
/// proof a type. Acknowledging what was merely received then does not compile:
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
/// A caller without such a type has `A = Lsn`.
#[derive(Debug)]
pub struct ReplicationStream<A = Lsn> {
    acknowledges: PhantomData<fn(A)>,
    wire: Wire,
    /// The newest status that is not in the output yet, because an older one is still being written.
    status: Option<(Lsn, bool)>,
    /// Of a database whose text is in an encoding of its own.
    translator: Option<Box<Translator>>,
    /// An event with text that the translator has to ask for.
    untranslated: Option<(ReplicationEvent, Texts)>,
    /// The position that the server was last told to be flushed.
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

    /// The next event. Cancel-safe. Continues writing a status update that the socket did not take at once. An event
    /// already received is returned without a system call.
    ///
    /// An idle server that gets regular status updates has nothing to say: ask for a reply with [`Self::send_status`]
    /// and compare [`Self::last_heard`] to notice a server that is there but no longer works.
    ///
    /// # Errors
    /// [`ReplicationError::Ended`] at the server's shutdown, else [`ReplicationError::Stream`].
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

    /// The next event if one has already been received; no waiting, no system call.
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

    /// Asks for what the translator needs to go on; `false` when it needs nothing.
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

    /// Time at which bytes last came from the server.
    pub fn last_heard(&self) -> Instant {
        self.wire.last_heard()
    }

    /// Standby status update: everything before `confirmed` is flushed, so the server may forget it.
    /// Without a confirmed position it is a sign of life only: LSN 0 moves nothing (`ProcessStandbyReplyMessage`, walsender.c).
    ///
    /// A second update in the same write takes the flushed position back, which leaves the slot where it is. A walsender counts as a
    /// synchronous standby only while it has such a position (syncrep.c), so this client is none, whatever
    /// `synchronous_standby_names` says, and no commit waits for it.
    ///
    /// Never waits: what the socket does not take at once is continued by the next call of this function or of
    /// [`Self::next`], and while it is not taken a newer status replaces an older one. So a server that does not read
    /// can neither hold up the caller nor fill memory. Cancel-safe.
    ///
    /// # Errors
    /// [`ReplicationError::Stream`] when the socket is broken. [`Self::next`] would have given the server's last words,
    /// if there were any.
    pub async fn send_status(
        &mut self,
        confirmed: Option<A>,
        reply_requested: bool,
    ) -> Result<(), ReplicationError> {
        let flushed = confirmed.map_or(Lsn::ZERO, Into::into);
        self.send_status_at(flushed, reply_requested).await.map_err(ReplicationError::Stream)
    }

    /// Sends a last status update (none without a confirmed position), ends the copy, and reads until the server has ended it too;
    /// events that still come are thrown away. When this returns Ok the server has taken in the position and given the slot free.
    ///
    /// A server in the middle of a large transaction first sends the rest of it, so give it a limited time. Dropped
    /// or failed, the position may or may not have arrived; nothing else is lost.
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

    /// Appends the status once what was begun before it is written.
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
        // The position is in already: whether the goodbye arrives does not matter.
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
