//! `outboxd parked requeue` and `discard`: parked rows are published again with the present configuration, or removed.
//!
//! Rows are requeued one at a time in the order of their positions: each is removed from the table after its confirm and before the
//! next one is published. A row that still cannot be published stays, and so do the later rows of its aggregate. The commands touch
//! no slot and may run beside the relay. So just before a row is published, the outbox table tells whether it keeps its place in
//! the order of its aggregate.

use std::collections::HashSet;

use futures_util::FutureExt;

use super::parked_rows::{Lock, ParkedEntry, ParkedValues};
use crate::{
    ledger::PublishTag,
    message::{Message, ParkCause, ParkReason},
    position::Position,
    postgres::statement::CatalogError,
    preflight::Problem,
    rabbitmq::cures,
    relay::{
        Fault, Source,
        broker::{Broker, Publisher},
        database::{Database, Sql},
        mishap::Overdue,
    },
    slot::holder::Holder,
};
use amqp_publisher::{
    BrokerError, Refused,
    publisher::{Outcome, PublisherEvent},
};
use process::shutdown::Shutdown;

/// Selection of parked rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selected {
    /// All rows of the source.
    All,
    /// Rows with these message ids or positions.
    Named(Vec<String>),
}

/// Result of requeueing a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The row is published, confirmed and removed from the table.
    Requeued,
    /// The row stays parked, for this reason.
    Stays(String),
}

/// Failure to requeue or discard parked rows.
#[derive(Debug, thiserror::Error)]
pub enum ParkedError {
    /// Another command holds the lock.
    #[error(
        "another `outboxd parked` command requeues or discards rows of this source{}",
        .0.as_ref().map_or_else(|| ": try again".to_owned(), |holder| format!(", or a session holds its lock: {holder}; wait until it \
        has ended, or end it: SELECT pg_terminate_backend({});", holder.pid))
    )]
    Busy(Option<Holder>),
    /// Rows that the operator named are not parked.
    #[error("not parked: {}; `outboxd parked list` lists the parked rows", .0.join(", "))]
    NotParked(Vec<String>),
    /// Rows are parked in a table of another schema.
    #[error("{}: {}", .0.what, .0.cure)]
    LeftBehind(Problem),
    /// A shutdown came first.
    #[error("interrupted; rows that are not listed above stay parked")]
    CutShort,
    /// A row is published and still in the table.
    #[error(
        "the row at {position} is published and confirmed, but could not be removed from the table. Requeueing it again sends a \
         duplicate with the same message_id; `outboxd parked discard` removes it"
    )]
    NotRemoved {
        /// Position of the row.
        position: Position,
        /// Cause.
        #[source]
        cause: CatalogError,
    },
    /// A step failed.
    #[error("{}; rows that are not listed above as requeued or discarded stay parked", .0.explain())]
    Fault(Box<Fault>),
}

impl<F: Into<Fault>> From<F> for ParkedError {
    fn from(fault: F) -> Self {
        ParkedError::Fault(Box::new(fault.into()))
    }
}

impl Selected {
    fn has(&self, entry: &ParkedEntry) -> bool {
        match self {
            Selected::All => true,
            Selected::Named(names) => names.iter().any(|name| is_named(entry, name)),
        }
    }

    fn find<'a>(&self, entries: &'a [ParkedEntry]) -> Result<Vec<&'a ParkedEntry>, ParkedError> {
        if let Selected::Named(names) = self {
            let unknown = names.iter().filter(|name| !entries.iter().any(|entry| is_named(entry, name)));
            let unknown: Vec<String> = unknown.cloned().collect();
            if !unknown.is_empty() {
                return Err(ParkedError::NotParked(unknown));
            }
        }
        Ok(entries.iter().filter(|entry| self.has(entry)).collect())
    }
}

fn is_named(entry: &ParkedEntry, name: &str) -> bool {
    entry.message_id.as_deref() == Some(name) || entry.position.to_string() == name
}

async fn connect<D: Database, B>(source: &Source<D, B>) -> Result<D::Sql, ParkedError> {
    let database = source.database.options();
    let sql = source.database.connect_sql(&application_name(source)).await?;
    // An earlier row of the same aggregate may be parked there.
    if let Some(problem) = sql.parked_elsewhere(database).await? {
        return Err(ParkedError::LeftBehind(problem));
    }
    match sql.lock_parked(database).await? {
        Lock::Held => Ok(sql),
        Lock::Taken(holder) => Err(ParkedError::Busy(holder)),
    }
}

fn application_name<D, B>(source: &Source<D, B>) -> String {
    format!("outboxd parked {}", source.name)
}

/// Removes parked rows for good, and calls `tell` for each.
///
/// # Errors
/// [`ParkedError`]. Rows told before it are removed.
pub async fn discard<D: Database, B>(
    source: &Source<D, B>,
    selected: &Selected,
    mut tell: impl FnMut(&ParkedEntry),
) -> Result<(), ParkedError> {
    let sql = connect(source).await?;
    let database = source.database.options();
    let entries = sql.list_parked(database).await?;
    for entry in selected.find(&entries)? {
        if sql.remove_parked(database, entry.position).await? {
            tell(entry);
        }
    }
    Ok(())
}

/// Publishes parked rows again, and calls `tell` with the result of each. On `shutdown`, waits for the row in flight. A row that may
/// have been overtaken by a later row of its aggregate stays, unless `out_of_order`.
///
/// # Errors
/// [`ParkedError`]. Results told before it are final.
pub async fn requeue<D: Database, B: Broker>(
    source: &Source<D, B>,
    selected: &Selected,
    out_of_order: bool,
    mut shutdown: Shutdown,
    mut tell: impl FnMut(&ParkedEntry, &Fate),
) -> Result<(), ParkedError> {
    let sql = connect(source).await?;
    let entries = sql.list_parked(source.database.options()).await?;
    if selected.find(&entries)?.is_empty() {
        return Ok(());
    }
    let publisher = source.broker.connect(&application_name(source), 0).await?;
    let mut requeueing = Requeueing { source, sql, publisher, out_of_order, next_tag: 0 };
    // Aggregates with an earlier row that stays parked: not selected, or not publishable.
    let (mut not_selected, mut stuck) = (HashSet::new(), HashSet::new());
    for entry in &entries {
        if !selected.has(entry) {
            not_selected.extend(entry.aggregate());
            continue;
        }
        if shutdown.requested().now_or_never().is_some() {
            requeueing.publisher.close().await;
            return Err(ParkedError::CutShort);
        }
        let is_in = |aggregates: &HashSet<_>| {
            entry.aggregate().is_some_and(|aggregate| aggregates.contains(&aggregate))
        };
        let fate = if is_in(&stuck) {
            Fate::Stays(
                "an earlier row of its aggregate stays parked; discard or requeue that one first, or requeue this one alone with \
                 --out-of-order"
                    .to_owned(),
            )
        } else if !out_of_order && is_in(&not_selected) {
            out_of_turn("an earlier row of its aggregate is parked and was not selected")
        } else {
            requeueing.row(entry).await?
        };
        if matches!(fate, Fate::Stays(_)) {
            stuck.extend(entry.aggregate());
        }
        tell(entry, &fate);
    }
    requeueing.publisher.close().await;
    Ok(())
}

fn out_of_turn(why: &str) -> Fate {
    Fate::Stays(format!("it would be out of order: {why}; --out-of-order publishes it anyway"))
}

struct Requeueing<'a, D: Database, B: Broker> {
    source: &'a Source<D, B>,
    sql: D::Sql,
    publisher: B::Publisher,
    out_of_order: bool,
    next_tag: u64,
}

impl<D: Database, B: Broker> Requeueing<'_, D, B> {
    async fn row(&mut self, entry: &ParkedEntry) -> Result<Fate, ParkedError> {
        let Source { database, mapping, .. } = self.source;
        let database = database.options();
        let Some(values) = self.sql.load_parked(database, entry).await? else {
            return Ok(Fate::Stays("it is no longer parked".to_owned()));
        };
        let message = match self.message(&values) {
            Ok(message) => message,
            Err(reason) => return self.stays(entry, reason).await,
        };
        if !self.out_of_order
            && let Some(why) = self.sql.overtaken(database, &mapping.columns, entry, &values).await?
        {
            return Ok(out_of_turn(&why));
        }
        match self.publish(message.clone()).await? {
            Answer::Confirmed => {
                let cause = |cause| ParkedError::NotRemoved { position: entry.position, cause };
                self.sql.remove_parked(database, entry.position).await.map_err(cause)?;
                Ok(Fate::Requeued)
            }
            Answer::Returned => self.stays(entry, ParkReason::unroutable(&message)).await,
            Answer::Unsendable(reason) => self.stays(entry, ParkReason::unsendable(&message, reason)).await,
            Answer::Refused(refused) => {
                self.stays(entry, ParkReason::refused(&message, cures::explain_refused(&message, &refused)))
                    .await
            }
            Answer::Nacked => Ok(Fate::Stays("the broker refused it (nack): requeue it later".to_owned())),
        }
    }

    /// The message of a row, from the columns that the table had then and the present mapping.
    fn message(&self, values: &ParkedValues) -> Result<Message, ParkReason> {
        let mapper = self.source.mapping.resolve(&values.columns).map_err(|error| ParkReason {
            cause: ParkCause::Invalid,
            text: error.to_string(),
            route: None,
        })?;
        mapper.message(values.row.clone()).map_err(|invalid| ParkReason::invalid(&invalid))
    }

    async fn stays(&self, entry: &ParkedEntry, reason: ParkReason) -> Result<Fate, ParkedError> {
        self.sql.keep_parked(self.source.database.options(), entry.position, &reason).await?;
        Ok(Fate::Stays(reason.text))
    }

    /// Publishes the message. If the exchange is missing, publishes again, which declares it first.
    async fn publish(&mut self, message: Message) -> Result<Answer, ParkedError> {
        match self.publish_once(message.clone()).await? {
            Answer::Refused(refused) if refused.misses_exchange() => self.publish_once(message).await,
            answer => Ok(answer),
        }
    }

    async fn publish_once(&mut self, message: Message) -> Result<Answer, ParkedError> {
        self.publisher.publish(PublishTag(self.next_tag), message);
        self.next_tag += 1;
        let after = self.source.relay.confirm_timeout;
        let answered = tokio::time::timeout(after, answer(&mut self.publisher)).await;
        Ok(answered.map_err(|_| Fault::ConfirmTimeout { after, what: Overdue::default() })??)
    }
}

/// The broker's answer to the one message in flight.
enum Answer {
    Confirmed,
    Returned,
    Nacked,
    Unsendable(String),
    Refused(Refused),
}

async fn answer(publisher: &mut impl Publisher) -> Result<Answer, BrokerError> {
    loop {
        let outcome = match publisher.next().await {
            Ok(PublisherEvent::Outcomes(outcomes)) => outcomes.into_iter().next(),
            Ok(PublisherEvent::Blocked { reason }) => {
                tracing::warn!(reason, "the broker blocks publishers (a memory or disk alarm): waiting");
                None
            }
            // Only one message is in flight, so the refusal is its answer.
            Ok(
                PublisherEvent::ChannelClosed { refused, .. }
                | PublisherEvent::ExchangeRefused { refused, .. },
            ) => return Ok(Answer::Refused(refused)),
            // No fence is acquired: the command runs beside the relay, and its lock admits one command at a time.
            Ok(
                PublisherEvent::Unblocked
                | PublisherEvent::Fence(_)
                | PublisherEvent::ExchangeDeclared { .. },
            ) => None,
            Err(BrokerError::Unsendable { reason, .. }) => return Ok(Answer::Unsendable(reason)),
            Err(error) => return Err(error),
        };
        match outcome {
            Some((_, Outcome::Confirmed)) => return Ok(Answer::Confirmed),
            Some((_, Outcome::Returned { .. })) => return Ok(Answer::Returned),
            Some((_, Outcome::Nacked)) => return Ok(Answer::Nacked),
            None => {}
        }
    }
}
