//! Connection in replication mode, for commands (manual, "Streaming Replication Protocol").

use std::time::Duration;

use postgres_protocol::message::{
    backend::{Message, READY_FOR_QUERY_TAG},
    frontend,
};

use super::{
    answers::{BeforeStream, SystemIdentity, identity, left_timelines, text_row},
    copy::ReplicationStream,
    error::ReplicationError,
    stored_text::{Encoding, SQL_ASCII, Translator},
};
use crate::{
    Lsn,
    connection::{answer::AnswerBytes, endpoint::Endpoint, wire::Wire, wire_error::WireError},
    quote::{identifier, literal},
};

/// CopyBothResponse, which postgres-protocol does not know (manual, "Message Formats").
const COPY_BOTH_RESPONSE_TAG: u8 = b'W';

/// Limit for a change of a slot that another session uses.
const ALTER_TIMEOUT: Duration = Duration::from_secs(2);

/// Statements after which the server ends the session when its client goes while a statement runs: at once when the
/// client's machine closes the connection (PostgreSQL 14 and later), within a minute when that machine is gone. A
/// session that waits for a transaction does not read from its client, and would keep the slot's name for as long as
/// it waits.
///
/// The server arms its timer when a later statement begins, and keeps it running during replication commands, which
/// arm none (`start_xact_command` and `ProcessInterrupts`, postgres.c). The last statement is that later one.
pub const END_WITH_CLIENT: [&str; 3] = [
    "SELECT set_config(name, '10', false) FROM pg_settings WHERE name IN ('tcp_keepalives_idle', 'tcp_keepalives_interval')",
    "SELECT set_config(name, '2000', false) FROM pg_settings WHERE name = 'client_connection_check_interval'",
    "SELECT set_config(name, '3', false) FROM pg_settings WHERE name = 'tcp_keepalives_count'",
];

/// Connection in replication mode (`replication=database`) that is not streaming yet. Runs replication commands and
/// simple SQL.
///
/// | command | method |
/// | --- | --- |
/// | `IDENTIFY_SYSTEM` | [`identify_system`](Self::identify_system) |
/// | `TIMELINE_HISTORY` | [`timeline_history`](Self::timeline_history) |
/// | `START_REPLICATION ... LOGICAL` | [`start`](Self::start) |
/// | `ALTER_REPLICATION_SLOT` | [`make_failover`](Self::make_failover) |
/// | any other, and SQL | [`query`](Self::query) |
pub struct ReplicationConnection {
    wire: Wire,
    /// Endpoint and name of the connection that asks the server how to convert text.
    endpoint: Endpoint,
    application_name: String,
    /// The answer to a command has not been read to its end, because a caller dropped the future.
    unanswered: bool,
}

impl ReplicationConnection {
    /// Connects to the first suitable host, with the session settings of [`Endpoint::connect_sql`]. The server ends
    /// the connection after `wal_sender_timeout` without a message from the client.
    ///
    /// # Errors
    /// [`ReplicationError::Connect`], which names every host tried.
    pub async fn connect(
        endpoint: &Endpoint,
        application_name: &str,
        wal_sender_timeout: Duration,
    ) -> Result<Self, ReplicationError> {
        let wire = endpoint.connect_replication(application_name, wal_sender_timeout).await?;
        let (endpoint, application_name) = (endpoint.clone(), application_name.to_owned());
        Ok(ReplicationConnection { wire, endpoint, application_name, unanswered: false })
    }

    /// Identifies the server and its timeline (`IDENTIFY_SYSTEM`).
    ///
    /// # Errors
    /// [`ReplicationError::Command`].
    pub async fn identify_system(&mut self) -> Result<SystemIdentity, ReplicationError> {
        let rows = self.query("IDENTIFY_SYSTEM").await?;
        identity(&rows).ok_or_else(|| {
            ReplicationError::unexpected_answer("IDENTIFY_SYSTEM", "systemid, timeline, xlogpos, dbname")
        })
    }

    /// Runs a replication command or SQL by the simple query protocol and returns the rows as text. All rows are held
    /// in memory, and more than 16 MiB of them are an error.
    ///
    /// Cancel-safe: the next command skips the rest of a dropped command's answer.
    ///
    /// # Errors
    /// [`ReplicationError::Command`]. The connection remains usable after an error of the server.
    pub async fn query(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>, ReplicationError> {
        self.run(sql).await.map_err(|cause| ReplicationError::of_command(sql, cause))
    }

    /// Returns the timelines before this one, each with its switch position (`TIMELINE_HISTORY`). The first timeline
    /// has none.
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

    /// Prepares streaming: returns the session's process id and the slot's confirmed position, and lifts
    /// `transaction_timeout`.
    ///
    /// # Errors
    /// [`ReplicationError::Command`].
    pub async fn before_stream(&mut self, slot: &str) -> Result<BeforeStream, ReplicationError> {
        // Logical decoding runs in transactions that last until the client reads their rows, so transaction_timeout
        // must not end them.
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

    /// Asks the server to end this session when its client goes while a command runs. Not every operating system
    /// supports that; a refusal is no error.
    ///
    /// # Errors
    /// [`ReplicationError::Command`].
    pub async fn end_with_client(&mut self) -> Result<(), ReplicationError> {
        for setting in END_WITH_CLIENT {
            match self.query(setting).await {
                Ok(_) => {}
                Err(error) if error.sqlstate().is_some() => {
                    tracing::debug!(%error, "PostgreSQL does not check during commands whether the client is still connected");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Makes a slot a failover slot, which PostgreSQL 17 and later synchronise to standbys.
    ///
    /// Returns `false` while another session uses the slot. The server would wait for that session without limit
    /// (`ReplicationSlotAlter`, slot.c): drop this connection to end the wait.
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

    /// Starts streaming a logical slot with `pgoutput`, protocol version 1.
    ///
    /// `from` is the start position unless the slot has confirmed a later one; `Lsn::ZERO` starts where the slot
    /// stands. `A` is the type of acknowledged positions, see [`ReplicationStream`]. The publication may
    /// have any name.
    ///
    /// # Errors
    /// [`ReplicationError::Command`]. If the server refused, the connection is returned with the error, so that a
    /// standby can try again when another session has the slot ([`OBJECT_IN_USE`](crate::sqlstate::OBJECT_IN_USE)).
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
            Ok(()) => Ok(ReplicationStream::new(self.wire, translator)),
            Err(cause) => {
                let again = matches!(cause, WireError::Server(_)) && !self.unanswered;
                Err((again.then_some(self), ReplicationError::of_command(&command, cause)))
            }
        }
    }

    /// Stops the server from converting text, unless it sends UTF-8 unchanged, and returns the translator that
    /// converts it instead. The server would not convert a command either, so a publication with a name outside of
    /// ASCII leaves conversion to the server.
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
                    _ => return Err(WireError::protocol("a message that does not answer a query")),
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

    /// Reads until the server is ready for the next command.
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

fn start_command(slot: &str, publication: &str, from: Lsn) -> String {
    // publication_names is a list of identifiers in a string literal. The replication grammar interprets neither a backslash in
    // a literal nor a doubled quote in an identifier (repl_scanner.l): a slot's name with a quote is a syntax error, and no slot
    // has one.
    let publications = identifier(publication).replace('\'', "''");
    format!(
        "START_REPLICATION SLOT {} LOGICAL {from} (proto_version '1', publication_names '{publications}')",
        identifier(slot)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_on_every_level() {
        assert_eq!(
            start_command("my\"slot", "p\"u'b", Lsn(0x16_0000_0001)),
            "START_REPLICATION SLOT \"my\"\"slot\" LOGICAL 16/1 \
             (proto_version '1', publication_names '\"p\"\"u''b\"')"
        );
    }
}
