//! Parked rows: a row as it was read, kept until it is settled, and the record of it in `outboxd_parked`.

use std::{fmt, sync::Arc};

use bytes::{Bytes, BytesMut};

use super::{AggregateKey, Column, InvalidRow, Message, OutboxRow};

/// Largest value that is copied, in bytes. A slice would keep the whole receive buffer alive.
const COPIED_BELOW: usize = 16 * 1024;

/// The columns of kept rows, with the indexes of those that have a meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptColumns {
    /// All columns, in the order of the values.
    pub columns: Vec<Column>,
    pub(super) id: usize,
    pub(super) aggregate_type: usize,
    pub(super) aggregate_id: usize,
    pub(super) event_type: usize,
}

/// A row as it was read, kept so that it can be parked and published later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptRow {
    columns: Arc<KeptColumns>,
    row: OutboxRow,
}

/// Identity of a row, as far as it is readable. Bytes that are not UTF-8 become replacement characters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outline {
    /// Text of the id column.
    pub message_id: Option<String>,
    /// Text of the aggregate type column.
    pub aggregate_type: Option<String>,
    /// Text of the aggregate id column.
    pub aggregate_id: Option<String>,
    /// Text of the event type column.
    pub event_type: Option<String>,
}

impl KeptRow {
    /// Copies small values out of the receive buffer.
    pub(super) fn new(columns: Arc<KeptColumns>, mut row: OutboxRow) -> Self {
        let is_small = |value: &&mut Bytes| value.len() < COPIED_BELOW;
        let small = row.values.iter().flatten().map(Bytes::len).filter(|length| *length < COPIED_BELOW).sum();
        let mut buffer = BytesMut::with_capacity(small);
        for value in row.values.iter_mut().flatten().filter(is_small) {
            buffer.extend_from_slice(value);
            *value = buffer.split().freeze();
        }
        Self { columns, row }
    }

    /// Returns the columns.
    pub fn columns(&self) -> &[Column] {
        &self.columns.columns
    }

    /// Returns the row.
    pub fn row(&self) -> &OutboxRow {
        &self.row
    }

    /// Memory that the row takes, in bytes, close enough to limit it. A large body is counted here and with its message.
    pub fn size(&self) -> usize {
        let values = &self.row.values;
        size_of::<Self>()
            + values.len() * size_of::<Option<Bytes>>()
            + values.iter().flatten().map(Bytes::len).sum::<usize>()
    }

    /// Returns the row's identity.
    pub fn outline(&self) -> Outline {
        let KeptColumns { id, aggregate_type, aggregate_id, event_type, .. } = *self.columns;
        let text = |index: usize| {
            let value = self.row.values.get(index)?.as_ref()?;
            Some(String::from_utf8_lossy(value).into_owned())
        };
        Outline {
            message_id: text(id),
            aggregate_type: text(aggregate_type),
            aggregate_id: text(aggregate_id),
            event_type: text(event_type),
        }
    }

    /// Returns the row's aggregate. `None` if the row does not name one.
    pub fn aggregate(&self) -> Option<AggregateKey> {
        let Outline { aggregate_type, aggregate_id, .. } = self.outline();
        Some(AggregateKey::new(&aggregate_type?, &aggregate_id?))
    }
}

/// Policy that parks a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParkCause {
    /// No queue is bound for the message: `delivery.on_unroutable`.
    Unroutable,
    /// The row cannot become a message, or AMQP cannot carry the message: `delivery.on_invalid`.
    Invalid,
    /// The broker refuses the message on every attempt: `delivery.on_invalid`.
    Refused,
    /// A queue has nacked the message for too long: `delivery.on_nack`.
    Nacked,
}

impl ParkCause {
    /// The name used in the table, in logs and in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            ParkCause::Unroutable => "unroutable",
            ParkCause::Invalid => "invalid",
            ParkCause::Refused => "refused",
            ParkCause::Nacked => "nacked",
        }
    }
}

impl fmt::Display for ParkCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Exchange and routing key of a message.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// The exchange.
    pub exchange: String,
    /// The routing key.
    pub routing_key: String,
}

/// Reason why a row is parked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParkReason {
    /// The policy that applies.
    pub cause: ParkCause,
    /// Reason and next step, for an operator. Never shows a payload.
    pub text: String,
    /// Exchange and routing key. `None` if the row did not become a message.
    pub route: Option<Route>,
}

impl ParkReason {
    /// Reason for a message that no queue is bound for.
    pub fn unroutable(message: &Message) -> Self {
        let (exchange, routing_key) = (&message.amqp.exchange, &message.amqp.routing_key);
        let text =
            format!("no queue is bound to exchange '{exchange}' for routing key '{routing_key}'; bind one");
        Self { cause: ParkCause::Unroutable, text, route: Some(Route::of(message)) }
    }

    /// Reason for a row that cannot become a message.
    pub fn invalid(row: &InvalidRow) -> Self {
        Self { cause: ParkCause::Invalid, text: row.reason.to_string(), route: None }
    }

    /// Reason for a message that the broker refuses. `why` is the broker's answer, with the next step.
    pub fn refused(message: &Message, why: String) -> Self {
        Self { cause: ParkCause::Refused, text: why, route: Some(Route::of(message)) }
    }

    /// Reason for a message that a queue has nacked for too long.
    pub fn nacked(message: &Message) -> Self {
        let (exchange, routing_key) = (&message.amqp.exchange, &message.amqp.routing_key);
        let text = format!(
            "RabbitMQ nacked every try: a queue bound to exchange '{exchange}' for routing key '{routing_key}' does not take the message. \
             Look for a full queue (x-max-length with overflow reject-publish) or a quorum queue without a leader (rabbitmq-queues \
             quorum_status); other queues may already have the message"
        );
        Self { cause: ParkCause::Nacked, text, route: Some(Route::of(message)) }
    }

    /// Reason for a message that AMQP cannot carry.
    pub fn unsendable(message: &Message, reason: String) -> Self {
        Self { cause: ParkCause::Invalid, text: reason, route: Some(Route::of(message)) }
    }
}

impl Route {
    /// Returns the route of a message.
    pub fn of(message: &Message) -> Self {
        Self { exchange: message.amqp.exchange.clone(), routing_key: message.amqp.routing_key.clone() }
    }
}

/// A row to park, or a parked one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParkedRow {
    /// The row, with all that is needed to publish it later.
    pub kept: Arc<KeptRow>,
    /// The reason why it was not published.
    pub reason: ParkReason,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        message::Timestamp,
        position::{Lsn, Position},
    };

    fn kept(values: &[Option<&[u8]>]) -> KeptRow {
        let names = ["id", "aggregatetype", "aggregateid", "type", "payload"];
        let columns = names.map(|name| Column { name: name.to_owned(), type_oid: 25 }).to_vec();
        let columns = KeptColumns { columns, id: 0, aggregate_type: 1, aggregate_id: 2, event_type: 3 };
        let values = values.iter().map(|value| value.map(Bytes::copy_from_slice)).collect();
        let position = Position { commit_lsn: Lsn(1), index: 0 };
        KeptRow::new(Arc::new(columns), OutboxRow { position, committed_at: Timestamp(0), values })
    }

    #[test]
    fn a_kept_row_has_the_same_values_and_an_outline_whatever_they_are() {
        let large = vec![b'x'; COPIED_BELOW];
        let values: [Option<&[u8]>; 5] = [Some(b"1"), None, Some(b"\xFF\x00"), Some(b""), Some(&large)];
        let row = kept(&values);
        assert_eq!(row.row().values.iter().map(|value| value.as_deref()).collect::<Vec<_>>(), values);
        assert!(row.size() > large.len());
        let outline = row.outline();
        assert_eq!((outline.message_id.as_deref(), outline.aggregate_type), (Some("1"), None));
        assert_eq!(
            (outline.aggregate_id.as_deref(), outline.event_type.as_deref()),
            (Some("\u{FFFD}\0"), Some(""))
        );
        assert_eq!(row.aggregate(), None, "it names none");
        assert_eq!(kept(&values[..1]).outline().event_type, None, "a row with too few values");
    }
}
