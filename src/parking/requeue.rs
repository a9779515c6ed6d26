//! `outboxd parked requeue` and `discard`: parked rows are removed, or published again with the configuration as it is now, in the order of their positions.
//!
//! One at a time: a row leaves the table after its confirm, and before the next one is published. What still cannot go stays, and
//! so do the later ones of its aggregate. Touches no slot, and may run beside the relay; so whether a row keeps its place in the
//! order of its aggregate is looked up in the outbox table just before it is published.

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
    slot::usage::Holder,
};
use amqp_publisher::{
    BrokerError, Refused,
    publisher::{Outcome, PublisherEvent},
};
use process::shutdown::Shutdown;

/// Which parked rows are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selected {
    /// Every one of the source.
    All,
    /// Those of these message ids or positions.
    Named(Vec<String>),
}

/// What became of a row that was to be requeued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Published, confirmed, and parked no longer.
    Requeued,
    /// Parked as before, for this reason.
    Stays(String),
}

/// Why parked rows could not be seen to.
#[derive(Debug, thiserror::Error)]
pub enum ParkedError {
    /// The same is being done already.
    #[error(
        "somebody else is requeueing or discarding parked rows of this source{}",
        .0.as_ref().map_or_else(|| ": try again".to_owned(), |holder| format!(", or holds its lock: {holder}; wait until that has ended, or \
        end it: SELECT pg_terminate_backend({});", holder.pid))
    )]
    Busy(Option<Holder>),
    /// What was named is not there.
    #[error("not parked: {}; `outboxd parked list` shows what is", .0.join(", "))]
    NotParked(Vec<String>),
    /// Some rows are parked where this command does not look.
    #[error("{}: {}", .0.what, .0.cure)]
    LeftBehind(Problem),
    /// Asked to end first.
    #[error("ended before all rows were seen to; those that are not named above stay parked")]
    CutShort,
    /// A row is published, and is still in the table.
    #[error(
        "the row at {position} is published and confirmed, but could not be removed from the table: requeueing it again sends a copy with the same message_id"
    )]
    NotRemoved {
        /// Where it stands.
        position: Position,
        /// Why.
        #[source]
        cause: CatalogError,
    },
    /// Something failed.
    #[error("{}; rows that are not named above as requeued or discarded stay parked", .0.explain())]
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
    // An earlier row of the same aggregate may be among them.
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

/// Removes parked rows for good, and tells each.
///
/// # Errors
/// [`ParkedError`]; what was told before it is removed.
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

/// Publishes parked rows again and tells what became of each; on `shutdown`, waits for the one that is on its way. A row that may have been overtaken by a later
/// one of its aggregate stays, unless `out_of_order`.
///
/// # Errors
/// [`ParkedError`]; what was told before it is true.
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
    // Of these aggregates an earlier row stays parked: it was not selected, or cannot go.
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
            Fate::Stays("an earlier row of its aggregate stays parked".to_owned())
        } else if !out_of_order && is_in(&not_selected) {
            out_of_turn("an earlier row of its aggregate is parked, and is not to be requeued")
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
    Fate::Stays(format!("it would not be in order: {why}; --out-of-order publishes it all the same"))
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
            return Ok(Fate::Stays("it is not parked any more".to_owned()));
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
            Answer::Nacked => {
                Ok(Fate::Stays("the broker refused it (nack): requeue it again later".to_owned()))
            }
        }
    }

    /// With the columns that the table had then, and the mapping as it is now.
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

    /// Publishes, and once more if the exchange is gone: then it is declared before.
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

/// What became of the one message that is on its way.
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
                tracing::warn!(reason, "the broker blocks publishers: waiting");
                None
            }
            // It is the only one that is on its way.
            Ok(
                PublisherEvent::ChannelClosed { refused, .. }
                | PublisherEvent::ExchangeRefused { refused, .. },
            ) => return Ok(Answer::Refused(refused)),
            // No fence is asked for: this runs beside the relay, and only one of its kind at a time.
            Ok(PublisherEvent::Unblocked | PublisherEvent::Fence(_)) => None,
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
