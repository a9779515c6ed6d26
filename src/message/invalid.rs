//! Reasons why a row cannot become a message, and what to do about each. Error texts never show a payload.

use std::fmt;

use super::{HEADERS_BYTES_MAX, SHORT_STRING_BYTES_MAX};
use crate::position::Position;
use diagnostics::legible::Legible;

/// Longest part of a row's id that an error shows, in characters.
const ID_SHOWN_MAX: usize = 80;

/// A row that cannot become a message. Another attempt has the same result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidRow {
    /// Position of the row.
    pub position: Position,
    /// Text of the row's id column. `None` if the column is missing or not UTF-8.
    pub id: Option<String>,
    /// The reason.
    pub reason: InvalidReason,
}

/// Reason why a row is invalid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InvalidReason {
    /// A column that every message needs is NULL.
    NullColumn {
        /// The column.
        column: String,
    },
    /// A placeholder of the template for id, exchange or routing key has no value: the column is NULL, or the row's headers lack
    /// the name.
    MissingValue {
        /// `id`, `exchange` or `routing key`.
        part: &'static str,
        /// The placeholder, as written in the template.
        placeholder: String,
    },
    /// A text is not UTF-8. A database with encoding SQL_ASCII stores any bytes; other encodings have bytes without a Unicode
    /// character.
    NotUtf8 {
        /// The column.
        column: String,
    },
    /// A text is longer than an AMQP short string allows.
    TooLong {
        /// Part of the message.
        part: &'static str,
        /// Length in bytes.
        bytes: usize,
    },
    /// `message.exchange` has placeholders and gives an empty name for this row. The empty name means RabbitMQ's default exchange.
    EmptyExchange,
    /// The exchange name has a line feed or a carriage return. RabbitMQ removes both in a declare and keeps them in a publish.
    LineBreakInExchange,
    /// The body exceeds `delivery.message_bytes_max`.
    BodyTooLarge {
        /// Length in bytes.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// Properties and headers do not fit in one frame: more than [`HEADERS_BYTES_MAX`].
    HeadersTooLarge,
    /// The message does not fit into the limits that this connection negotiated.
    Unsendable {
        /// The part that does not fit.
        reason: String,
    },
    /// The headers column holds text that is not JSON, or a string in it has an invalid escape.
    HeadersNotJson {
        /// The column.
        column: String,
    },
    /// The headers column holds JSON that is not an object.
    HeadersNotObject {
        /// The column.
        column: String,
    },
    /// The row's headers hold `CC` or `BCC`. See [`ROUTING_HEADERS`](super::ROUTING_HEADERS).
    RoutingHeader {
        /// The header.
        name: String,
    },
    /// The value of a property is not allowed.
    Property {
        /// Key of the property below `message`.
        property: &'static str,
        /// Allowed values.
        wanted: &'static str,
        /// The value comes from a header of the row, see `message.properties_from_headers`.
        is_header: bool,
    },
    /// A bytea value is not in the hex output format.
    ByteaNotHex {
        /// The column.
        column: String,
    },
    /// The number of values differs from the number of columns.
    ColumnCount {
        /// Columns of the table.
        columns: usize,
        /// Values of the row.
        values: usize,
    },
}

impl fmt::Display for InvalidRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the row at {}", self.position)?;
        if let Some(id) = &self.id {
            let shown: String = id.chars().take(ID_SHOWN_MAX).collect();
            let more = if shown.len() < id.len() { "..." } else { "" };
            write!(f, " (id '{}{more}')", Legible(&shown))?;
        }
        write!(f, " cannot become a message: {}", self.reason)
    }
}

impl std::error::Error for InvalidRow {}

impl fmt::Display for InvalidReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            InvalidReason::NullColumn { column } => {
                write!(f, "column \"{column}\" is NULL; declare it NOT NULL")
            }
            InvalidReason::MissingValue { part, placeholder } => write!(
                f,
                "the {part} needs {placeholder}, which has no value in this row; declare the column NOT NULL, or change message.{}",
                part.replace(' ', "_")
            ),
            InvalidReason::NotUtf8 { column } => {
                write!(f, "column \"{column}\" holds bytes that have no equivalent in UTF-8; write the event again with valid text")
            }
            InvalidReason::TooLong { part, bytes } => write!(
                f,
                "the {part} is {bytes} bytes long, AMQP allows {SHORT_STRING_BYTES_MAX}; have the service write shorter values, or \
                 change the template below message"
            ),
            InvalidReason::EmptyExchange => f.write_str(
                "message.exchange is empty for this row, which means RabbitMQ's default exchange; have the service write the value that \
                 the template uses, or set message.exchange = \"\" if routing keys are queue names",
            ),
            InvalidReason::LineBreakInExchange => f.write_str(
                "the name of the exchange has a line break (LF or CR); RabbitMQ removes it when it declares the exchange, and a publish \
                 then finds no exchange of that name; have the service write names without line breaks, or change message.exchange",
            ),
            InvalidReason::BodyTooLarge { bytes, bytes_max } => write!(
                f,
                "the payload is {bytes} bytes long; raise delivery.message_bytes_max (now {bytes_max}) and the broker's \
                 max_message_size, or store large content elsewhere"
            ),
            InvalidReason::HeadersTooLarge => write!(
                f,
                "properties and headers are larger than {HEADERS_BYTES_MAX} bytes, and AMQP cannot split them over frames; move \
                 content from the headers to the payload"
            ),
            InvalidReason::Unsendable { reason } => {
                write!(f, "{reason}; move content from the headers to the payload, or raise the limit")
            }
            InvalidReason::HeadersNotJson { column } => {
                write!(f, "column \"{column}\" does not hold valid JSON; give it type jsonb")
            }
            InvalidReason::HeadersNotObject { column } => {
                write!(f, "column \"{column}\" holds JSON that is not an object; store an object or NULL")
            }
            InvalidReason::RoutingHeader { name } => write!(
                f,
                "header \"{name}\" has a meaning of its own in RabbitMQ (further routing keys) and cannot be sent; rename it"
            ),
            InvalidReason::Property { property, wanted, is_header: true } => write!(
                f,
                "the property {property} must be {wanted}; have the service write a valid header {property} \
                 (message.properties_from_headers)"
            ),
            InvalidReason::Property { property, wanted, is_header: false } => write!(
                f,
                "the property {property} must be {wanted}; have the service write a valid value, or change message.{property}"
            ),
            InvalidReason::ByteaNotHex { column } => write!(
                f,
                "bytea column \"{column}\" came in the escape format, which outboxd does not read; run ALTER ROLE ... SET bytea_output = 'hex' for \
                 outboxd's role and restart outboxd"
            ),
            InvalidReason::ColumnCount { columns, values } => write!(
                f,
                "the row has {values} values, the table {columns} columns; restart outboxd, which then reads the table's definition \
                 again"
            ),
        }
    }
}
