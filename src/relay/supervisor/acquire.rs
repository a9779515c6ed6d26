//! The way to a slot of one's own: it is there, or is made, or another instance has it and is waited for.

use std::time::Duration;

use super::attempt::Attempt;
use crate::{
    admin::SourceState,
    outbox::Timestamp,
    position::Lsn,
    postgres::{
        SourceDatabase,
        backlog::BacklogError,
        catalog::CatalogError,
        continuity::{Evidence, Memory},
        replication::{BeforeStream, ReplicationError},
        snapshot::Selection,
    },
    relay::{
        BacklogPolicy, Fault, Source,
        broker::Broker,
        database::{Database, Replication, Sql},
        pipeline::StreamOf,
    },
};

/// A slot of one's own: streaming from it, or about to be made from the backlog.
pub(super) enum Acquired<S, B> {
    Stream {
        streaming: Streaming<S>,
        /// The slot is new.
        made: Option<Made>,
    },
    Backlog(Box<B>),
}

/// How a new slot was made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Made {
    /// Rows from then on are its own.
    pub(super) at: Timestamp,
    /// The rows before were published.
    pub(super) after_backlog: bool,
}

/// The slot's stream, and what was asked just before it began.
pub(super) struct Streaming<S> {
    pub(super) stream: S,
    pub(super) before: BeforeStream,
}

/// How often a standby asks for the slot. Half a second keeps the takeover well within two.
const STANDBY_INTERVAL: Duration = Duration::from_millis(500);

/// SQLSTATE of "replication slot is active".
const OBJECT_IN_USE: &str = "55006";

impl<D: Database, B: Broker> Attempt<'_, D, B> {
    /// Waits until the slot is ours, as a standby while another instance has it.
    pub(super) async fn acquire(
        &self,
        mut connection: D::Replication,
        evidence: &mut Evidence,
        remembered: Option<&Memory>,
        from: Lsn,
    ) -> Result<Acquired<StreamOf<D>, D::Backlog>, Fault> {
        let mut slot_exists = evidence.slot.is_some();
        loop {
            if !slot_exists {
                match self.make_slot(connection, evidence, remembered).await {
                    Ok(acquired) => return Ok(acquired),
                    Err(Fault::Backlog(error)) => match *error {
                        BacklogError::AlreadyThere(_) => slot_exists = true,
                        BacklogError::Busy(_) => self.stand_by(error.to_string()).await,
                        _ => return Err(Fault::Backlog(error)),
                    },
                    Err(fault) => return Err(fault),
                }
                connection = self.replication_connection().await?;
                // What is known is known of the server that this attempt has met.
                if evidence.server.clone().names() != connection.identify_system().await?.names() {
                    return Err(Fault::ServerChanged);
                }
                continue;
            }
            connection = match self.start(connection, from).await {
                Ok(streaming) => return Ok(Acquired::Stream { streaming, made: None }),
                Err((Some(connection), error)) if error.sqlstate() == Some(OBJECT_IN_USE) => {
                    let holder = error.server().map_or_else(String::new, |server| server.message.clone());
                    self.stand_by(format!("another instance has the slot: {holder}")).await;
                    connection
                }
                Err((_, error)) => return Err(error.into()),
            };
        }
    }

    async fn stand_by(&self, reason: String) {
        self.report.state(SourceState::Standby, reason);
        tokio::time::sleep(STANDBY_INTERVAL).await;
    }

    pub(super) async fn start(
        &self,
        mut connection: D::Replication,
        from: Lsn,
    ) -> Result<Streaming<StreamOf<D>>, (Option<D::Replication>, ReplicationError)> {
        let SourceDatabase { slot, publication, .. } = self.source.database.options();
        let before = connection.before_stream(slot).await.map_err(|error| (None, error))?;
        let stream = connection.start(slot, publication, from).await?;
        Ok(Streaming { stream, before })
    }

    async fn make_slot(
        &self,
        connection: D::Replication,
        evidence: &mut Evidence,
        remembered: Option<&Memory>,
    ) -> Result<Acquired<StreamOf<D>, D::Backlog>, Fault> {
        let Source { database, mapping, relay, .. } = self.source;
        let sql = database.connect_sql(&self.application_name()).await?;
        // Another instance may have had a slot and lost it while we stood by.
        database.look_again(&sql, evidence).await?;
        self.judge(&sql, evidence, remembered).await?;
        if evidence.slot.is_none() && evidence.publishing.by().is_none() {
            return Err(Fault::PublicationGone);
        }
        match relay.backlog {
            BacklogPolicy::Publish => {
                let all = Selection::default();
                let backlog = database.begin_backlog(connection, sql, &mapping.columns, &all).await?;
                Ok(Acquired::Backlog(Box::new(backlog)))
            }
            BacklogPolicy::Skip => {
                let at = Timestamp::now();
                let made = match sql.create_slot(&database.options().slot).await {
                    Ok(()) => Some(Made { at, after_backlog: false }),
                    // Another one was faster, and knows more of it.
                    Err(CatalogError::SlotExists(_)) => None,
                    Err(error) => return Err(error.into()),
                };
                let streaming = self.start(connection, Lsn::ZERO).await.map_err(|(_, error)| error)?;
                Ok(Acquired::Stream { streaming, made })
            }
        }
    }
}
