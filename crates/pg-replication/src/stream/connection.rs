//! A connection in replication mode, which runs commands (manual, "Streaming Replication Protocol").

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

/// How long a change of a slot may wait for a session that uses the slot.
const ALTER_TIMEOUT: Duration = Duration::from_secs(2);

/// Statements after which the session ends while a statement runs whose client has gone: at once when the client's machine
/// closes the connection (14 and later), and within a minute when that machine is gone. A session that waits for a transaction
/// reads nothing, and would otherwise keep the slot's name for as long as it waits.
///
/// The server arms its timer when a later statement begins, and keeps it going in replication commands, which arm none
/// (`start_xact_command` and `ProcessInterrupts`, postgres.c). So something has to run in between; the last one does.
pub const END_WITH_CLIENT: [&str; 3] = [
    "SELECT set_config(name, '10', false) FROM pg_settings WHERE name IN ('tcp_keepalives_idle', 'tcp_keepalives_interval')",
    "SELECT set_config(name, '2000', false) FROM pg_settings WHERE name = 'client_connection_check_interval'",
    "SELECT set_config(name, '3', false) FROM pg_settings WHERE name = 'tcp_keepalives_count'",
];

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
    /// Connects to the first suitable host. See [`Endpoint::connect_sql`] for
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

    /// Asks who the server is, and on which timeline (`IDENTIFY_SYSTEM`).
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
        self.run(sql).await.map_err(|cause| ReplicationError::of_command(sql, cause))
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

    /// Asks who this connection is to the server, and what a slot has confirmed.
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
    pub async fn end_with_client(&mut self) -> Result<(), ReplicationError> {
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
            Ok(()) => Ok(ReplicationStream::new(self.wire, translator)),
            Err(cause) => {
                let again = matches!(cause, WireError::Server(_)) && !self.unanswered;
                Err((again.then_some(self), ReplicationError::of_command(&command, cause)))
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

fn start_command(slot: &str, publication: &str, from: Lsn) -> String {
    // publication_names is a list of identifiers inside of a string literal. In the replication grammar a backslash
    // in a literal is a backslash (repl_scanner.l).
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
