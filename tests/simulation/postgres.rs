//! A PostgreSQL server, as far as a logical replication client can tell. Hostile where the protocol allows it: it sends what
//! was sent before, says keepalives from behind the slot, forgets in a crash what a slot had confirmed since a checkpoint.

#![allow(clippy::result_large_err)] // They are the product's, which boxes them one level higher.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use outboxd::{
    ledger::ConfirmedLsn,
    outbox::{Column, ColumnNames, OutboxRow, Timestamp},
    position::{Lsn, Position},
    postgres::{
        SourceDatabase,
        backlog::BacklogError,
        catalog::{
            CatalogError, ColumnFacts, Facts, Held, PublicationFacts, RecordTableFacts, ServerFacts,
            SlotFacts, TableFacts, TableKind,
        },
        continuity::Evidence,
        error::{ConnectError, ServerError, WireError},
        replication::{ReplicationError, ReplicationEvent, SystemIdentity},
        slot_record::{Confirmed, EvidenceError, SlotRecord},
        snapshot::{RowOrder, Selection, SnapshotError},
    },
    relay::database::{Backlog, Database, Replication, Rows, Sql, Stream},
};
use tokio::time::Instant;

use crate::{
    sabotage::Sabotage,
    wal::{self, COLUMNS, OTHER, OUTBOX, Row, RowId, TEXT, Transaction},
    world::{Link, Said, State, World},
};

/// How a server meets who connects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mode {
    #[default]
    Up,
    Down,
    /// Fast shutdown: no new connections, and walsenders stay until all is confirmed.
    Ending,
}

/// What is in the data directory, and goes where a copy of it goes.
#[derive(Clone, Debug)]
pub(crate) struct DataDirectory {
    pub(crate) system_id: u32,
    pub(crate) timeline: u32,
    pub(crate) wal_end: u64,
    pub(crate) transactions: Vec<Arc<Transaction>>,
    /// Earlier timelines, and where they were left.
    history: Vec<(u32, u64)>,
    publication: bool,
    /// There is a table of slot records.
    records: bool,
    pub(crate) record: Option<SlotRecord>,
    pub(crate) slot: Option<Slot>,
}

#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub(crate) confirmed_flush: u64,
    /// What a crash leaves of it.
    pub(crate) persisted: u64,
}

pub(crate) type SessionId = u64;

pub(crate) struct Server {
    pub(crate) mode: Mode,
    pub(crate) data: DataDirectory,
    pub(crate) sessions: BTreeMap<SessionId, Session>,
    last_session: SessionId,
    /// Who streams from the slot, and who holds the temporary one.
    pub(crate) active: Option<SessionId>,
    pub(crate) backlog: Option<SessionId>,
    /// Processes that have looked at the server, and at the end of its WAL, since it was put back to an older state.
    pub(crate) judged: Vec<u64>,
}

/// A connection, of whatever kind.
pub(crate) struct Session {
    pub(crate) process: u64,
    pub(crate) link: Link,
    /// When the server notices that the client is gone.
    closes_at: Option<Instant>,
    pub(crate) streaming: Option<Streaming>,
}

/// A walsender at work.
pub(crate) struct Streaming {
    pub(crate) since: Instant,
    next: usize,
    sent: u64,
    queue: VecDeque<(ReplicationEvent, Carries)>,
    relation_known: bool,
    other_known: bool,
    keepalive_told: u64,
    reply_owed: bool,
    /// The client was asked for a sign of life.
    pinged: bool,
    heard_at: Instant,
    pub(crate) stalled_until: Instant,
    pub(crate) last_stall: Instant,
    statuses: VecDeque<(Instant, u64)>,
    /// When the client was handed the end of a transaction, by `commit_lsn`.
    pub(crate) commits: BTreeMap<u64, Instant>,
}

/// What an event means to the oracle.
#[derive(Clone, Copy, Debug)]
enum Carries {
    Nothing,
    Row(RowId),
    Commit { commit_lsn: u64, end_lsn: u64 },
}

impl Default for DataDirectory {
    fn default() -> Self {
        Self {
            system_id: 1,
            timeline: 1,
            wal_end: 1_000,
            transactions: Vec::new(),
            history: Vec::new(),
            publication: false,
            records: false,
            record: None,
            slot: None,
        }
    }
}

impl DataDirectory {
    /// A replica that has come so far takes over.
    pub(crate) fn promote(&mut self) {
        self.history.push((self.timeline, self.wal_end));
        self.timeline += 1;
    }

    /// Writes the slot's record, which makes WAL.
    fn write_record(&mut self, record: SlotRecord) {
        self.record = Some(record);
        self.wal_end += 120;
    }
}

impl Default for Server {
    fn default() -> Self {
        Self {
            mode: Mode::Up,
            data: DataDirectory::default(),
            sessions: BTreeMap::new(),
            last_session: 0,
            active: None,
            backlog: None,
            judged: Vec::new(),
        }
    }
}

impl State {
    /// What the server does by itself.
    pub(crate) fn reap(&mut self) {
        let now = self.now();
        let timeout = self.scenario.wal_sender_timeout;
        let ids: Vec<SessionId> = self.postgres.sessions.keys().copied().collect();
        for id in ids {
            self.take_statuses(id, now);
            let Some(session) = self.postgres.sessions.get(&id) else { continue };
            let timed_out = session.streaming.as_ref().is_some_and(|s| s.heard_at + timeout <= now);
            // A walsender that nobody answers; any other session ends with its link, sooner or later.
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

    fn take_statuses(&mut self, id: SessionId, now: Instant) {
        loop {
            let Some(session) = self.postgres.sessions.get_mut(&id) else { return };
            let Some(streaming) = &mut session.streaming else { return };
            match streaming.statuses.front() {
                Some(&(at, lsn)) if at <= now => {
                    streaming.statuses.pop_front();
                    self.confirm(lsn);
                }
                _ => return,
            }
        }
    }

    /// LogicalConfirmReceivedLocation: the server believes its client, also when it goes back.
    fn confirm(&mut self, lsn: u64) {
        let persist = self.one_in(4);
        let Some(slot) = &mut self.postgres.data.slot else { return };
        if lsn == 0 {
            return;
        }
        let before = slot.confirmed_flush;
        slot.confirmed_flush = lsn;
        if persist {
            slot.persisted = lsn;
        }
        if lsn < before {
            self.oracle.violated(format!("the slot was taken back from {before} to {lsn}"));
        }
    }

    /// The server is done with a session.
    pub(crate) fn end_session(&mut self, id: SessionId) {
        let now = self.now();
        let server = &mut self.postgres;
        if let Some(session) = server.sessions.get_mut(&id) {
            // A client that hears nothing does not hear this either.
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
                // Nobody listens on the connection that holds the temporary slot: its loss is found out at the end.
                self.oracle.left_slot(process, (knows && had_slot).then_some(now));
                self.note(|| format!("postgres: process {process} has the slot no longer"));
            }
        }
    }

    /// The client's end of a session is gone: of what it sent last some arrives.
    fn abandon_session(&mut self, id: SessionId) {
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

    fn open_session(&mut self, process: u64) -> SessionId {
        self.postgres.last_session += 1;
        let id = self.postgres.last_session;
        let session = Session { process, link: Link::Up, closes_at: None, streaming: None };
        self.postgres.sessions.insert(id, session);
        id
    }

    fn link(&self, id: SessionId) -> Link {
        self.postgres.sessions.get(&id).map_or(Link::Cut, |session| session.link)
    }

    /// `TCP_USER_TIMEOUT` and keepalives see to it that nobody waits for ever.
    fn until_tcp_gives_up<T, E>(&self, hung: Instant, error: E) -> Said<Result<T, E>> {
        let until = hung + Duration::from_secs(60);
        if until <= self.now() { Said::This(Err(error)) } else { Said::NothingBefore(Some(until)) }
    }

    /// What the walsender says next.
    fn stream(&mut self, id: SessionId) -> Said<Result<ReplicationEvent, ReplicationError>> {
        match self.link(id) {
            Link::Cut => return Said::This(Err(ReplicationError::Stream(closed()))),
            Link::Hung(since) => {
                return self.until_tcp_gives_up(since, ReplicationError::Stream(closed()));
            }
            Link::Up => {}
        }
        let now = self.now();
        let stall = self.one_in(self.scenario.stall_one_in).then(|| self.millis(1..=self.scenario.stall_ms));
        let from_behind = self.rng.u64(0..200);
        let mid_keepalive = self.one_in(20);
        let again_relation = self.one_in(30);
        let empty_ones = self.scenario.empty_transactions;
        let mode = self.postgres.mode;
        let data = &self.postgres.data;
        let Some(session) = self.postgres.sessions.get_mut(&id) else {
            return Said::This(Err(ReplicationError::Stream(closed())));
        };
        let process = session.process;
        let Some(streaming) = &mut session.streaming else {
            return Said::This(Err(ReplicationError::Stream(closed())));
        };
        if let Some(stall) = stall
            && streaming.stalled_until <= now
        {
            streaming.stalled_until = now + stall;
        }
        if streaming.stalled_until > now {
            streaming.last_stall = streaming.stalled_until;
            return Said::NothingBefore(Some(streaming.stalled_until));
        }
        let keepalive = |wal_end: u64, reply_requested| {
            Said::This(Ok(ReplicationEvent::Keepalive { wal_end: Lsn(wal_end), reply_requested }))
        };
        if streaming.reply_owed {
            streaming.reply_owed = false;
            return keepalive(streaming.sent, false);
        }
        if let Some((event, carries)) = streaming.queue.pop_front() {
            match carries {
                Carries::Nothing => {}
                Carries::Row(row) => self.oracle.handed_out(process, id, row),
                Carries::Commit { commit_lsn, end_lsn } => {
                    streaming.commits.insert(commit_lsn, now);
                    streaming.sent = end_lsn;
                }
            }
            return Said::This(Ok(event));
        }
        if let Some(transaction) = data.transactions.get(streaming.next).cloned() {
            streaming.next += 1;
            if !transaction.rows.is_empty() || transaction.others || empty_ones {
                streaming.queue_up(&transaction, mid_keepalive, again_relation);
            } else {
                streaming.sent = transaction.end_lsn;
            }
            return self.stream(id);
        }
        // At first, decoding is still on its way from restart_lsn.
        if streaming.keepalive_told == 0 {
            streaming.keepalive_told = 1;
            if from_behind > 100 {
                return keepalive(streaming.sent.saturating_sub(from_behind).max(1), false);
            }
        }
        streaming.sent = data.wal_end;
        if streaming.keepalive_told < streaming.sent {
            streaming.keepalive_told = streaming.sent;
            return keepalive(streaming.sent, mode == Mode::Ending);
        }
        let ping_at = streaming.heard_at + self.scenario.wal_sender_timeout / 2;
        if !streaming.pinged && ping_at <= now {
            streaming.pinged = true;
            return keepalive(streaming.sent, true);
        }
        Said::NothingBefore((!streaming.pinged).then_some(ping_at))
    }

    fn status(&mut self, id: SessionId, lsn: u64, reply_requested: bool) {
        let now = self.now();
        let latency = self.millis(0..=self.scenario.status_latency_ms);
        if let Some(session) = self.postgres.sessions.get_mut(&id)
            && let Some(streaming) = &mut session.streaming
            && session.link == Link::Up
        {
            let after = streaming.statuses.back().map_or(now, |(at, _)| *at);
            streaming.statuses.push_back((after.max(now + latency), lsn));
            streaming.reply_owed |= reply_requested;
            streaming.heard_at = now;
            streaming.pinged = false;
        }
    }
}

impl Streaming {
    fn queue_up(&mut self, transaction: &Transaction, mid_keepalive: bool, again_relation: bool) {
        let data = |bytes, carries| {
            (ReplicationEvent::WalData { wal_start: Lsn(0), wal_end: Lsn(0), bytes }, carries)
        };
        self.queue.push_back(data(wal::begin(transaction), Carries::Nothing));
        if transaction.others {
            if !self.other_known || again_relation {
                self.queue.push_back(data(wal::relation(OTHER, "orders"), Carries::Nothing));
                self.other_known = true;
            }
            let values = [const { None }; COLUMNS.len()];
            self.queue.push_back(data(wal::insert(OTHER, &values), Carries::Nothing));
            self.queue.push_back(data(wal::truncate(OUTBOX), Carries::Nothing));
        }
        if !transaction.rows.is_empty() && (!self.relation_known || again_relation) {
            self.queue.push_back(data(wal::relation(OUTBOX, "outbox"), Carries::Nothing));
            self.relation_known = true;
        }
        for row in &transaction.rows {
            self.queue.push_back(data(wal::insert(OUTBOX, &row.values()), Carries::Row(row.id)));
            if mid_keepalive {
                let wal_end = Lsn(transaction.end_lsn);
                let keepalive = ReplicationEvent::Keepalive { wal_end, reply_requested: true };
                self.queue.push_back((keepalive, Carries::Nothing));
            }
        }
        let Transaction { commit_lsn, end_lsn, .. } = *transaction;
        self.queue.push_back(data(wal::commit(transaction), Carries::Commit { commit_lsn, end_lsn }));
    }
}

/// The client's end of a session; closed when dropped.
struct Connection {
    world: World,
    id: SessionId,
    process: u64,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.world.change(|state| state.abandon_session(self.id));
    }
}

impl Connection {
    async fn open(world: &World, process: u64) -> Result<Self, WireError> {
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

    /// One round trip.
    async fn ask<T>(&self, mut answer: impl FnMut(&mut State) -> T) -> Result<T, WireError> {
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

fn closed() -> WireError {
    WireError::Closed { mid_message: false }
}

fn server_error(severity: &str, code: &str, message: &str) -> WireError {
    WireError::Server(Box::new(ServerError {
        severity: severity.to_owned(),
        code: code.to_owned(),
        message: message.to_owned(),
        detail: None,
        hint: None,
    }))
}

/// The server, as one process reaches it.
#[derive(Clone)]
pub(crate) struct SimulatedDatabase {
    pub(crate) world: World,
    pub(crate) process: u64,
    pub(crate) options: Arc<SourceDatabase>,
}

pub(crate) struct SimulatedSql(Connection);
pub(crate) struct SimulatedReplication(Connection);

pub(crate) struct SimulatedStream {
    connection: Connection,
    last_heard: Instant,
    /// The last row handed out, for the sake of [`Sabotage`].
    seen: u64,
}

pub(crate) struct SimulatedBacklog {
    replication: SimulatedReplication,
    rows: SimulatedRows,
}

pub(crate) struct SimulatedRows {
    world: World,
    /// Whose loss is noticed.
    session: SessionId,
    columns: Vec<Column>,
    rows: VecDeque<Row>,
    consistent_point: u64,
    read: u32,
}

impl Database for SimulatedDatabase {
    type Sql = SimulatedSql;
    type Replication = SimulatedReplication;
    type Backlog = SimulatedBacklog;

    fn options(&self) -> &SourceDatabase {
        &self.options
    }

    async fn connect_sql(&self, _: &str) -> Result<SimulatedSql, ConnectError> {
        let connection = Connection::open(&self.world, self.process).await;
        connection.map(SimulatedSql).map_err(|cause| ConnectError {
            host: "simulated".to_owned(),
            cause,
            earlier: Vec::new(),
        })
    }

    async fn connect_replication(&self, _: &str) -> Result<SimulatedReplication, ReplicationError> {
        Ok(SimulatedReplication(self.connect_sql("").await?.0))
    }

    async fn begin_backlog(
        &self,
        replication: SimulatedReplication,
        sql: SimulatedSql,
        _: &ColumnNames,
        _: &Selection,
    ) -> Result<SimulatedBacklog, BacklogError> {
        let failed = |cause| SnapshotError::Sql { doing: "making the temporary slot", cause };
        let slot = &self.options.slot;
        sql.0.ask(|_| ()).await.map_err(failed)?;
        let (id, process) = (replication.0.id, self.process);
        let (consistent_point, rows) = replication
            .0
            .ask(|state| {
                if state.postgres.backlog.is_some() {
                    return Err(BacklogError::Busy(slot.clone()));
                }
                if state.postgres.data.slot.is_some() {
                    return Err(BacklogError::AlreadyThere(slot.clone()));
                }
                state.postgres.backlog = Some(id);
                let data = &state.postgres.data;
                let rows: VecDeque<Row> = data.transactions.iter().flat_map(|t| t.rows.clone()).collect();
                let consistent_point = data.wal_end;
                state.oracle.got_slot(process);
                let count = rows.len();
                state.note(|| {
                    format!(
                        "postgres: process {process} has a backlog of {count} rows before {consistent_point}"
                    )
                });
                Ok((consistent_point, rows))
            })
            .await
            .map_err(failed)??;
        let columns = COLUMNS.map(|name| Column { name: name.to_owned(), type_oid: TEXT }).to_vec();
        let (world, session) = (self.world.clone(), replication.0.id);
        let rows = SimulatedRows { world, session, columns, rows, consistent_point, read: 0 };
        Ok(SimulatedBacklog { replication, rows })
    }

    async fn evidence(
        &self,
        sql: &SimulatedSql,
        replication: &mut SimulatedReplication,
        _: Option<u32>,
    ) -> Result<Evidence, EvidenceError> {
        let server = replication.identify_system().await?;
        let left = |state: &mut State| {
            state.postgres.data.history.iter().map(|(timeline, left)| (*timeline, Lsn(*left))).collect()
        };
        let history = replication.0.ask(left).await.map_err(command_failed)?;
        let mut evidence = Evidence { server, history, record: None, slot: None };
        self.look_again(sql, &mut evidence).await?;
        Ok(evidence)
    }

    async fn look_again(&self, sql: &SimulatedSql, evidence: &mut Evidence) -> Result<(), CatalogError> {
        let slot = &self.options.slot;
        (evidence.record, evidence.slot) = sql
            .run("reading the slot's record", |state| {
                (state.postgres.data.record.clone(), slot_facts(state, slot))
            })
            .await?;
        evidence.server.xlogpos =
            sql.run("reading the end of WAL", |state| Lsn(state.postgres.data.wal_end)).await?;
        // A standby whose connection broke may meet the server here, before it takes the slot, rather than in `evidence`.
        self.world.look(|state| state.postgres.judged.push(self.process));
        Ok(())
    }
}

impl SimulatedSql {
    async fn run<T>(
        &self,
        doing: &'static str,
        answer: impl FnMut(&mut State) -> T,
    ) -> Result<T, CatalogError> {
        self.0.ask(answer).await.map_err(|cause| CatalogError::Statement { doing, cause })
    }

    async fn update_record(
        &self,
        holder: &str,
        confirmed: Confirmed,
        from_now_on: Option<&str>,
    ) -> Result<(), CatalogError> {
        self.run("writing the slot's record", |state| {
            let data = &mut state.postgres.data;
            let record = data.record.clone();
            if let Some(record) = record.filter(|record| record.holder.as_deref() == Some(holder)) {
                data.write_record(SlotRecord {
                    confirmed_flush: confirmed.flush,
                    confirmed_until: confirmed.until.or(record.confirmed_until),
                    holder: from_now_on.map(str::to_owned),
                    version: record.version + 1,
                    ..record
                });
            }
        })
        .await
    }
}

impl Sql for SimulatedSql {
    async fn facts(&self, database: &SourceDatabase) -> Result<Facts, CatalogError> {
        self.run("reading the catalog", |state| facts(state, &database.slot)).await
    }

    async fn create_publication(&self, _: &SourceDatabase, _: TableKind) -> Result<bool, CatalogError> {
        self.run("creating the publication", |state| {
            !std::mem::replace(&mut state.postgres.data.publication, true)
        })
        .await
    }

    async fn create_slot(&self, slot: &str) -> Result<(), CatalogError> {
        self.run("creating the slot", |state| {
            let data = &mut state.postgres.data;
            if data.slot.is_some() {
                return Err(CatalogError::SlotExists(slot.to_owned()));
            }
            data.slot = Some(Slot { confirmed_flush: data.wal_end, persisted: data.wal_end });
            // What was committed before is not for the relay.
            for row in data.transactions.iter().flat_map(|transaction| &transaction.rows) {
                state.oracle.exempt(row.id);
            }
            Ok(())
        })
        .await?
    }

    async fn drop_slot(&self, slot: &str) -> Result<bool, CatalogError> {
        self.run("dropping the slot", |state| {
            let active = state.postgres.active.map(|id| id as i32);
            if active.is_some() {
                return Err(CatalogError::SlotInUse { slot: slot.to_owned(), pid: active });
            }
            // What it had confirmed will be published again, on purpose.
            state.oracle.slot_forgot();
            Ok(state.postgres.data.slot.take().is_some())
        })
        .await?
    }

    async fn create_records(&self, _: &SourceDatabase) -> Result<(), CatalogError> {
        self.run("creating the table of slot records", |state| state.postgres.data.records = true).await
    }

    async fn write_record(&self, _: &SourceDatabase, record: &SlotRecord) -> Result<(), CatalogError> {
        self.run("writing the slot's record", |state| state.postgres.data.write_record(record.clone())).await
    }

    async fn mark_record(
        &self,
        _: &SourceDatabase,
        version: i64,
        marked: &SlotRecord,
    ) -> Result<(), CatalogError> {
        self.run("marking the slot's record", |state| {
            let data = &mut state.postgres.data;
            if data.record.as_ref().is_some_and(|record| record.version == version) {
                data.write_record(marked.clone());
            }
        })
        .await
    }

    async fn note_record(
        &self,
        _: &SourceDatabase,
        holder: &str,
        confirmed: Confirmed,
    ) -> Result<(), CatalogError> {
        self.update_record(holder, confirmed, Some(holder)).await
    }

    async fn release_record(
        &self,
        _: &SourceDatabase,
        holder: &str,
        confirmed: Confirmed,
    ) -> Result<(), CatalogError> {
        self.update_record(holder, confirmed, None).await
    }

    async fn slot_progress(&self, slot: &str) -> Result<Option<SlotFacts>, CatalogError> {
        self.run("reading the slot", |state| slot_facts(state, slot)).await
    }

    fn is_closed(&self) -> bool {
        self.0.world.look(|state| state.link(self.0.id) == Link::Cut)
    }
}

impl Replication for SimulatedReplication {
    type Stream = SimulatedStream;

    async fn identify_system(&mut self) -> Result<SystemIdentity, ReplicationError> {
        let process = self.0.process;
        let identify = |state: &mut State| {
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

    async fn confirmed_flush(&mut self, _: &str) -> Result<Option<Lsn>, ReplicationError> {
        let flushed =
            |state: &mut State| state.postgres.data.slot.as_ref().map(|slot| Lsn(slot.confirmed_flush));
        self.0.ask(flushed).await.map_err(command_failed)
    }

    async fn start(
        self,
        _: &str,
        _: &str,
        from: Lsn,
    ) -> Result<SimulatedStream, (Option<Self>, ReplicationError)> {
        let (id, process) = (self.0.id, self.0.process);
        let start = |state: &mut State| {
            if state.postgres.active.is_some() {
                return Err(server_error("ERROR", "55006", "replication slot is active"));
            }
            let Some(slot) = &state.postgres.data.slot else {
                return Err(server_error("ERROR", "42704", "replication slot does not exist"));
            };
            // A server that sends more than it was asked for is borne, too.
            let flushed = slot.confirmed_flush;
            let from = if state.one_in(5) { flushed } else { from.0.max(flushed) };
            let now = state.now();
            let next = state.postgres.data.transactions.partition_point(|t| t.commit_lsn < from);
            let streaming = Streaming {
                since: now,
                next,
                sent: from,
                queue: VecDeque::new(),
                relation_known: false,
                other_known: false,
                keepalive_told: 0,
                reply_owed: false,
                pinged: false,
                heard_at: now,
                stalled_until: now,
                last_stall: now,
                statuses: VecDeque::new(),
                commits: BTreeMap::new(),
            };
            state.postgres.active = Some(id);
            if let Some(session) = state.postgres.sessions.get_mut(&id) {
                session.streaming = Some(streaming);
            }
            state.oracle.got_slot(process);
            state.oracle.session_began(process, id);
            state.note(|| {
                format!("postgres: process {process} streams from {from}, the slot is at {flushed}")
            });
            Ok(())
        };
        match self.0.ask(start).await {
            Ok(Ok(())) => Ok(SimulatedStream { connection: self.0, last_heard: Instant::now(), seen: 0 }),
            Ok(Err(refused)) => Err((Some(self), command_failed(refused))),
            Err(broken) => Err((None, command_failed(broken))),
        }
    }
}

fn command_failed(cause: WireError) -> ReplicationError {
    ReplicationError::Command { command: "a command".to_owned(), cause }
}

impl SimulatedStream {
    fn took(&mut self, event: &ReplicationEvent) -> bool {
        self.last_heard = Instant::now();
        let is_row = matches!(event, ReplicationEvent::WalData { bytes, .. } if bytes.first() == Some(&b'I'));
        self.seen += u64::from(is_row);
        let sabotage = self.connection.world.look(|state| state.scenario.sabotage);
        // The first row of a connection goes missing.
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
            // On a silent link it never arrives, and the server at its other end may not be the one that it is meant for.
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
            let event = self.connection.world.hear(|state| state.stream(id)).await?;
            if self.took(&event) {
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
            Said::This(event) => event.map(|event| self.took(&event).then_some(event)),
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
                    state.take_statuses(id, arrived);
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

impl Backlog for SimulatedBacklog {
    type Replication = SimulatedReplication;
    type Rows = SimulatedRows;

    fn rows(&mut self) -> &mut SimulatedRows {
        &mut self.rows
    }

    fn consistent_point(&self) -> Lsn {
        Lsn(self.rows.consistent_point)
    }

    async fn finish(self) -> Result<SimulatedReplication, BacklogError> {
        let point = self.rows.consistent_point;
        let process = self.replication.0.process;
        let made = self.replication.0.ask(|state| {
            if state.postgres.data.slot.is_some() {
                return Err(BacklogError::AlreadyThere("slot".to_owned()));
            }
            state.slot_made_at(process, point);
            state.postgres.data.slot = Some(Slot { confirmed_flush: point, persisted: point });
            state.postgres.backlog = None;
            // Before this process streams, another may be faster.
            let now = state.now();
            state.oracle.left_slot(process, Some(now));
            state.note(|| format!("postgres: process {process} made the slot at {point}"));
            Ok(())
        });
        made.await.map_err(|cause| SnapshotError::Sql { doing: "making the permanent slot", cause })??;
        Ok(self.replication)
    }
}

impl Rows for SimulatedRows {
    fn order(&self) -> RowOrder {
        RowOrder::Sequence
    }

    fn columns(&self) -> &[Column] {
        &self.columns
    }

    fn taken_at(&self) -> Timestamp {
        Timestamp(0)
    }

    async fn next(&mut self) -> Result<Option<OutboxRow>, SnapshotError> {
        if self.world.look(|state| state.link(self.session)) == Link::Cut {
            return Err(SnapshotError::Sql { doing: "reading the backlog", cause: closed() });
        }
        if self.read % 16 == 7 {
            self.world.pause(0..=3).await;
        }
        let Some(row) = self.rows.pop_front() else { return Ok(None) };
        let position = Position { commit_lsn: Lsn(self.consistent_point - 1), index: self.read };
        self.read += 1;
        Ok(Some(OutboxRow { position, committed_at: Timestamp(0), values: row.values() }))
    }
}

fn facts(state: &mut State, slot: &str) -> Facts {
    let text = |name: &str| ColumnFacts {
        name: name.to_owned(),
        type_oid: TEXT,
        base_type_oid: TEXT,
        type_name: "text".to_owned(),
        nullable: true,
    };
    Facts {
        server: ServerFacts {
            version: 170_000,
            wal_level: "logical".to_owned(),
            database: "orders".to_owned(),
            encoding: "UTF8".to_owned(),
            role: "outboxd".to_owned(),
            may_replicate: true,
            may_create: true,
            in_recovery: false,
            slots_max: 10,
            slots_used: 1,
            wal_senders_max: 10,
            wal_senders_used: 1,
        },
        table: Some(TableFacts {
            oid: OUTBOX,
            kind: TableKind::Ordinary,
            logged: true,
            may_use_schema: true,
            may_select: true,
            may_remove: true,
            owned: true,
            row_security: false,
            rows_estimate: 0,
            columns: COLUMNS.map(text).to_vec(),
        }),
        publication: state.postgres.data.publication.then(|| PublicationFacts {
            all_tables: false,
            insert: true,
            more_operations: Vec::new(),
            via_partition_root: false,
            held: Held::AsItself,
            row_filter: None,
            columns_left_out: Vec::new(),
            other_tables: 0,
        }),
        records: RecordTableFacts { exists: state.postgres.data.records, may_use: true, may_create: true },
        slots: slot_facts(state, slot).into_iter().collect(),
    }
}

fn slot_facts(state: &mut State, name: &str) -> Option<SlotFacts> {
    let server = &state.postgres;
    let slot = server.data.slot.as_ref()?;
    Some(SlotFacts {
        name: name.to_owned(),
        plugin: Some("pgoutput".to_owned()),
        database: Some("orders".to_owned()),
        temporary: false,
        active_pid: server.active.map(|id| id as i32),
        confirmed_flush: Some(Lsn(slot.confirmed_flush)),
        restart_lsn: Some(Lsn(slot.confirmed_flush)),
        wal_status: Some("reserved".to_owned()),
        invalidation: None,
        two_phase: false,
        failover: false,
        retained_bytes: server.data.wal_end.saturating_sub(slot.confirmed_flush),
        lag_bytes: server.data.wal_end.saturating_sub(slot.confirmed_flush),
        current: Lsn(server.data.wal_end),
    })
}
