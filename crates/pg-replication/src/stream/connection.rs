//! The streaming replication protocol (manual, section of that name) on top of `wire`: replication commands,
//! START_REPLICATION, keepalives, status updates, and the clean end of a copy.
//!
//! Does not know what the WAL data means (`pgoutput` does), nor when a position is confirmed (the caller does).

use std::{
    future::poll_fn,
    marker::PhantomData,
    task::{Context, Poll},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use fallible_iterator::FallibleIterator;
use postgres_protocol::message::{
    backend::{COMMAND_COMPLETE_TAG, COPY_DATA_TAG, COPY_DONE_TAG, Message, READY_FOR_QUERY_TAG},
    frontend,
};
use tokio::time::Instant;

use super::{
    answer::AnswerBytes,
    connect_error::ConnectError,
    endpoint::Endpoint,
    quote::{identifier, literal},
    stored_text::{Encoding, SQL_ASCII, Texts, Translator},
    wire::{Frame, Wire},
    wire_error::{ServerError, WireError},
};
use crate::position::Lsn;

/// CopyBothResponse, which postgres-protocol does not know (manual, "Message Formats").
const COPY_BOTH_RESPONSE_TAG: u8 = b'W';
const XLOG_DATA_TAG: u8 = b'w';
const KEEPALIVE_TAG: u8 = b'k';
const STATUS_UPDATE_TAG: u8 = b'r';
/// wal_start, wal_end, and the server's clock.
const XLOG_DATA_HEADER_BYTES: usize = 24;
/// wal_end, the server's clock, reply requested.
const KEEPALIVE_BYTES: usize = 17;
/// 2000-01-01T00:00:00Z, PostgreSQL's epoch, in seconds since 1970.
const EPOCH_S: u64 = 946_684_800;

/// Statements after which the session ends while a statement runs whose client has gone: at once when the client's machine
/// closes the connection (14 and later), and within a minute when that machine is gone. A session that waits for a transaction
/// reads nothing, and would otherwise keep the slot's name for as long as it waits.
///
/// The server arms its timer when a later statement begins, and keeps it going in replication commands, which arm none
/// (`start_xact_command` and `ProcessInterrupts`, postgres.c). So something has to run in between; the last one does.
pub(crate) const END_WITH_CLIENT: [&str; 3] = [
    "SELECT set_config(name, '10', false) FROM pg_settings WHERE name IN ('tcp_keepalives_idle', 'tcp_keepalives_interval')",
    "SELECT set_config(name, '2000', false) FROM pg_settings WHERE name = 'client_connection_check_interval'",
    "SELECT set_config(name, '3', false) FROM pg_settings WHERE name = 'tcp_keepalives_count'",
];

/// IDENTIFY_SYSTEM's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemIdentity {
    /// Differs between clusters that did not come from one another.
    pub system_id: String,
    /// Grows with every promotion.
    pub timeline: u32,
    /// Where WAL has been flushed to.
    pub xlogpos: Lsn,
    /// The database we are connected to.
    pub database: Option<String>,
}

impl SystemIdentity {
    /// What tells this server and its history from any other: system identifier and timeline.
    pub fn names(self) -> (String, u32) {
        (self.system_id, self.timeline)
    }
}

/// What is asked just before streaming begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BeforeStream {
    /// The server process at the other end, `active_pid` of the slot that it streams from. Asked of the server, because
    /// what a pooler tells at login is its own.
    pub pid: i32,
    /// What the slot has confirmed; `None` when there is no such slot.
    pub confirmed_flush: Option<Lsn>,
}

/// One event of the copy stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplicationEvent {
    /// XLogData: one message of the output plugin.
    WalData {
        /// Where its WAL begins; zero for messages that have none of their own, such as Relation.
        wal_start: Lsn,
        /// With logical replication the same as `wal_start`, despite its name ("current end of WAL" in the manual).
        wal_end: Lsn,
        /// The message. Shares the receive buffer.
        bytes: Bytes,
    },
    /// Primary keepalive message.
    Keepalive {
        /// How far the server has sent: all WAL before it has been decoded, and what of it concerns us has been sent.
        wal_end: Lsn,
        /// The server wants a status update now; it ends the connection after `wal_sender_timeout` without one.
        reply_requested: bool,
    },
}

impl ReplicationEvent {
    /// The texts that are not ASCII.
    fn texts(&self) -> Texts {
        match self {
            ReplicationEvent::WalData { bytes, .. } => Texts::of(bytes),
            ReplicationEvent::Keepalive { .. } => Texts::default(),
        }
    }
}

/// What went wrong on a replication connection.
#[derive(Debug, thiserror::Error)]
pub enum ReplicationError {
    /// There was no connection to be had.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A command failed. After an error of the server the connection can be used again; after any other it cannot.
    #[error("{command} failed")]
    Command {
        /// The command's first words.
        command: String,
        /// Why.
        #[source]
        cause: WireError,
    },
    /// The copy stream broke.
    #[error("the replication stream broke")]
    Stream(#[source] WireError),
    /// The server ended the copy stream in order, which it does when it shuts down.
    #[error("the server ended the replication stream: it is shutting down")]
    Ended,
}

impl ReplicationError {
    /// SQLSTATE, where the server sent one: `55006` for a slot in use, `57P01` for a shutdown or a terminated backend.
    pub fn sqlstate(&self) -> Option<&str> {
        self.server().map(|error| error.code.as_str())
    }

    /// The server's own words, where it was the server who refused.
    pub fn server(&self) -> Option<&ServerError> {
        self.cause().and_then(WireError::server)
    }

    pub(crate) fn unexpected_answer(command: &str, expected: &str) -> Self {
        ReplicationError::Command {
            command: command.to_owned(),
            cause: WireError::protocol(format!("the answer is not {expected}")),
        }
    }

    /// What lies below, whatever was being done.
    pub fn cause(&self) -> Option<&WireError> {
        match self {
            ReplicationError::Connect(error) => Some(&error.cause),
            ReplicationError::Command { cause, .. } | ReplicationError::Stream(cause) => Some(cause),
            ReplicationError::Ended => None,
        }
    }
}

/// A connection in replication mode (`replication=database`), not yet streaming: can run replication commands and simple SQL.
pub struct ReplicationConnection {
    wire: Wire,
    /// Where, and under which name, to ask what a text in the database's encoding means.
    endpoint: Endpoint,
    application_name: String,
    /// A command was sent whose answer has not been read to its end, because a caller dropped the future.
    unanswered: bool,
}

impl ReplicationConnection {
    /// Connects to the first suitable host. See [`Endpoint::connect_sql`](super::endpoint::Endpoint::connect_sql) for
    /// the settings of the session. `wal_sender_timeout` is how long the server waits for a client that says nothing.
    ///
    /// # Errors
    /// [`ReplicationError::Connect`].
    pub async fn connect(
        endpoint: &Endpoint,
        application_name: &str,
        wal_sender_timeout: Duration,
    ) -> Result<Self, ReplicationError> {
        let wire = endpoint.connect_replication(application_name, wal_sender_timeout).await?;
        let (endpoint, application_name) = (endpoint.clone(), application_name.to_owned());
        Ok(ReplicationConnection { wire, endpoint, application_name, unanswered: false })
    }

    /// Who the server is, and on which timeline.
    ///
    /// # Errors
    /// [`ReplicationError::Command`].
    pub async fn identify_system(&mut self) -> Result<SystemIdentity, ReplicationError> {
        let rows = self.query("IDENTIFY_SYSTEM").await?;
        identity(&rows).ok_or_else(|| {
            ReplicationError::unexpected_answer("IDENTIFY_SYSTEM", "systemid, timeline, xlogpos, dbname")
        })
    }

    /// Runs a replication command or SQL with the simple query protocol; gives the rows as text. All rows are held in
    /// memory, so it is for commands with few: an answer that is too long is an error.
    ///
    /// A dropped future leaves the connection usable: the rest of its answer is skipped by the next command.
    ///
    /// # Errors
    /// [`ReplicationError::Command`]. After an error of the server the connection can be used again.
    pub async fn query(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>, ReplicationError> {
        self.run(sql).await.map_err(|cause| command_failed(sql, cause))
    }

    /// The timelines that this one came from, each with the place where it was left; the first timeline has none.
    ///
    /// # Errors
    /// [`ReplicationError::Command`].
    pub async fn timeline_history(&mut self, timeline: u32) -> Result<Vec<(u32, Lsn)>, ReplicationError> {
        if timeline <= 1 {
            return Ok(Vec::new());
        }
        let rows = self.query(&format!("TIMELINE_HISTORY {timeline}")).await?;
        // filename, content
        match rows.first().map(Vec::as_slice) {
            Some([_, Some(content)]) => Ok(left_timelines(content)),
            _ => Err(ReplicationError::unexpected_answer("TIMELINE_HISTORY", "filename, content")),
        }
    }

    /// Who this connection is to the server, and what a slot has confirmed.
    ///
    /// # Errors
    /// [`ReplicationError::Command`].
    pub async fn before_stream(&mut self, slot: &str) -> Result<BeforeStream, ReplicationError> {
        // Decoding is done in transactions, each of which lasts as long as nobody reads what it sends.
        let sql = format!(
            "SELECT pg_catalog.pg_backend_pid(),
                    (SELECT confirmed_flush_lsn FROM pg_catalog.pg_replication_slots WHERE slot_name = {}),
                    (SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings
                     WHERE name = 'transaction_timeout')",
            literal(slot)
        );
        let rows = self.query(&sql).await?;
        let unexpected =
            || ReplicationError::unexpected_answer("SELECT pg_backend_pid()", "a number and an LSN");
        let Some([Some(pid), confirmed_flush, ..]) = rows.first().map(Vec::as_slice) else {
            return Err(unexpected());
        };
        Ok(BeforeStream {
            pid: pid.parse().map_err(|_| unexpected())?,
            confirmed_flush: confirmed_flush
                .as_ref()
                .map(|lsn| lsn.parse().map_err(|_| unexpected()))
                .transpose()?,
        })
    }

    /// Has the server end this session when its client goes while a command runs. Not every operating system lets a server look.
    ///
    /// # Errors
    /// [`ReplicationError::Command`].
    pub(crate) async fn end_with_client(&mut self) -> Result<(), ReplicationError> {
        for setting in END_WITH_CLIENT {
            match self.query(setting).await {
                Ok(_) => {}
                Err(error) if error.sqlstate().is_some() => {
                    tracing::debug!(%error, "the server does not watch the connection");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Has a slot synchronised to standbys from now on (PostgreSQL 17 and later). `false` while another session uses the slot:
    /// the server would wait for that without limit (`ReplicationSlotAlter`, slot.c). Drop this connection then, which ends the wait.
    ///
    /// # Errors
    /// [`ReplicationError::Command`].
    pub async fn make_failover(&mut self, slot: &str) -> Result<bool, ReplicationError> {
        self.end_with_client().await?;
        let alter = format!("ALTER_REPLICATION_SLOT {} (FAILOVER true)", identifier(slot));
        match tokio::time::timeout(ALTER_TIMEOUT, self.query(&alter)).await {
            Ok(altered) => altered.map(|_| true),
            Err(_) => Ok(false),
        }
    }

    /// Begins streaming a logical slot with pgoutput, protocol version 1. `from` is where to begin if the slot is not
    /// further already; `Lsn::ZERO` leaves it to the slot. `A` is what the stream acknowledges, see [`ReplicationStream`].
    ///
    /// # Errors
    /// [`ReplicationError::Command`]. When the server refused (`55006`, another process has the slot, above all) the
    /// connection comes back, so that a standby can ask again.
    pub async fn start<A: Into<Lsn>>(
        mut self,
        slot: &str,
        publication: &str,
        from: Lsn,
    ) -> Result<ReplicationStream<A>, (Option<Self>, ReplicationError)> {
        let translator = match self.text_as_it_is_stored(publication).await {
            Ok(translator) => translator,
            Err(error) => return Err((None, error)),
        };
        let command = start_command(slot, publication, from);
        match self.begin_copy(&command).await {
            Ok(()) => Ok(ReplicationStream { translator, ..ReplicationStream::new(self.wire) }),
            Err(cause) => {
                let again = matches!(cause, WireError::Server(_)) && !self.unanswered;
                Err((again.then_some(self), command_failed(&command, cause)))
            }
        }
    }

    /// Has the server convert no text any more, unless it sends UTF-8 as it is; gives who converts it then. A command
    /// is not converted either, so a publication whose name is not ASCII takes that the server goes on converting.
    async fn text_as_it_is_stored(
        &mut self,
        publication: &str,
    ) -> Result<Option<Box<Translator>>, ReplicationError> {
        let encoding = self
            .wire
            .server_encoding()
            .map_or(Encoding::Utf8, |name| Encoding::of(name, &self.endpoint, &self.application_name));
        let translator = match encoding {
            Encoding::Utf8 => return Ok(None),
            _ if !publication.is_ascii() => return Ok(None),
            Encoding::Unknown => None,
            Encoding::Other(translator) => Some(translator),
        };
        self.query(&format!("SET client_encoding = {}", literal(SQL_ASCII))).await?;
        Ok(translator)
    }

    async fn run(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>, WireError> {
        self.send(sql).await?;
        let (mut rows, mut bytes) = (Vec::new(), AnswerBytes::default());
        let mut refused = None;
        loop {
            match self.wire.next_frame().await {
                Ok(frame) if frame.tag() == READY_FOR_QUERY_TAG => break,
                Ok(frame) => match frame.parse()? {
                    Message::DataRow(body) => {
                        bytes.add(body.buffer().len())?;
                        rows.push(text_row(&body)?);
                    }
                    Message::RowDescription(_)
                    | Message::CommandComplete(_)
                    | Message::EmptyQueryResponse => {}
                    _ => return Err(WireError::protocol("the answer to a query is none")),
                },
                // FATAL ends the connection, so no ReadyForQuery follows.
                Err(WireError::Server(error)) if error.severity == "ERROR" => refused = Some(*error),
                Err(error) => return Err(error),
            }
        }
        self.unanswered = false;
        match refused {
            None => Ok(rows),
            Some(error) => Err(error.into()),
        }
    }

    async fn begin_copy(&mut self, command: &str) -> Result<(), WireError> {
        self.send(command).await?;
        match self.wire.next_frame().await {
            Ok(frame) if frame.tag() == COPY_BOTH_RESPONSE_TAG => Ok(()),
            Ok(frame) => Err(frame.unexpected("starting replication")),
            Err(WireError::Server(error)) if error.severity == "ERROR" => {
                self.settle().await?;
                Err(WireError::Server(error))
            }
            Err(error) => Err(error),
        }
    }

    async fn send(&mut self, sql: &str) -> Result<(), WireError> {
        if self.unanswered {
            self.settle().await?;
        }
        frontend::query(sql, self.wire.output())
            .map_err(|error| WireError::protocol(format!("the command cannot be written: {error}")))?;
        self.unanswered = true;
        Ok(())
    }

    /// Reads on until the server is ready for the next command.
    async fn settle(&mut self) -> Result<(), WireError> {
        loop {
            match self.wire.next_frame().await {
                Ok(frame) if frame.tag() == READY_FOR_QUERY_TAG => break,
                Ok(_) => {}
                Err(WireError::Server(error)) if error.severity == "ERROR" => {}
                Err(error) => return Err(error),
            }
        }
        self.unanswered = false;
        Ok(())
    }
}

/// How long a change of a slot may wait for a session that uses the slot.
const ALTER_TIMEOUT: Duration = Duration::from_secs(2);

/// The lines of a history file (`timeline.c`): timeline, where it was left, why; separated by tabs. Others are comments.
fn left_timelines(content: &str) -> Vec<(u32, Lsn)> {
    let left = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    content.lines().filter_map(left).collect()
}

/// A connection in CopyBoth mode. After an error it is of no more use.
///
/// `A` is what it acknowledges. A caller whose positions become acknowledgeable only by some proof, such as "stored" or
/// "published", makes that proof a type: a position that was merely received is then refused by the compiler. A caller
/// without such a type has `A = Lsn`.
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
    fn new(wire: Wire) -> Self {
        Self {
            acknowledges: PhantomData,
            wire,
            status: None,
            flushed: Lsn::ZERO,
            translator: None,
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
        learned.map_err(|cause| command_failed("converting text", cause))?;
        Ok(true)
    }

    /// When bytes last came from the server.
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

fn event(frame: Frame) -> Result<ReplicationEvent, ReplicationError> {
    match frame.tag() {
        COPY_DATA_TAG => decode(frame.into_payload())
            .ok_or_else(|| WireError::protocol("copy data that is neither XLogData nor a keepalive"))
            .map_err(ReplicationError::Stream),
        // At shutdown a walsender says CommandComplete without CopyDone (WalSndDone, walsender.c).
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

/// What a standby status update says of the flushed position.
#[derive(Clone, Copy, Debug)]
enum Flushed {
    /// The slot moves there.
    At(Lsn),
    /// None, after it was told: the slot stays, and `pg_stat_replication` shows the position as written and replayed.
    TakenBack(Lsn),
}

/// Standby status update, as CopyData.
fn put_status(output: &mut BytesMut, flushed: Flushed, reply_requested: bool, now: SystemTime) {
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

fn start_command(slot: &str, publication: &str, from: Lsn) -> String {
    // publication_names is a list of identifiers inside of a string literal. In the replication grammar a backslash
    // in a literal is a backslash (repl_scanner.l).
    let publications = identifier(publication).replace('\'', "''");
    format!(
        "START_REPLICATION SLOT {} LOGICAL {from} (proto_version '1', publication_names '{publications}')",
        identifier(slot)
    )
}

fn command_failed(sql: &str, cause: WireError) -> ReplicationError {
    const WORDS: usize = 2;
    let command = sql.split_whitespace().take(WORDS).collect::<Vec<_>>().join(" ");
    ReplicationError::Command { command, cause }
}

fn identity(rows: &[Vec<Option<String>>]) -> Option<SystemIdentity> {
    let [row] = rows else { return None };
    let [Some(system_id), Some(timeline), Some(xlogpos), database] = row.as_slice() else { return None };
    Some(SystemIdentity {
        system_id: system_id.clone(),
        timeline: timeline.parse().ok()?,
        xlogpos: xlogpos.parse().ok()?,
        database: database.clone(),
    })
}

fn text_row(
    body: &postgres_protocol::message::backend::DataRowBody,
) -> Result<Vec<Option<String>>, WireError> {
    let value = |range: Option<std::ops::Range<usize>>| match range {
        None => Ok(None),
        Some(range) => match std::str::from_utf8(&body.buffer()[range]) {
            Ok(text) => Ok(Some(text.to_owned())),
            Err(_) => Err(std::io::Error::other("a value that is not UTF-8")),
        },
    };
    body.ranges()
        .map(value)
        .collect()
        .map_err(|error: std::io::Error| WireError::protocol(format!("a row cannot be read: {error}")))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use crate::postgres::socket::Socket;
    use proptest::prelude::*;
    use std::time::Duration;
    use tokio::io::AsyncReadExt;

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

    #[tokio::test]
    async fn a_server_that_does_not_read_holds_nobody_up_and_gets_whole_frames_later() {
        const FRAME_BYTES: usize = 39;
        let (ours, mut theirs) = tokio::net::UnixStream::pair().unwrap();
        let mut stream = ReplicationStream::<Lsn>::new(Wire::new(Socket::Unix(ours)));
        let newest = 50_000_u64;
        for lsn in 1..=newest {
            stream.send_status_at(Lsn(lsn), lsn == 1).await.unwrap();
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

    #[test]
    fn a_clock_before_2000_does_not_panic() {
        let mut output = BytesMut::new();
        put_status(&mut output, Flushed::At(Lsn::ZERO), false, UNIX_EPOCH - Duration::from_secs(1));
        assert_eq!(output.len(), 39);
    }

    #[test]
    fn names_are_quoted_on_every_level() {
        assert_eq!(
            start_command("my\"slot", "p\"u'b", Lsn(0x16_0000_0001)),
            "START_REPLICATION SLOT \"my\"\"slot\" LOGICAL 16/1 \
             (proto_version '1', publication_names '\"p\"\"u''b\"')"
        );
    }

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
