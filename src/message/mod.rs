//! From a row of the outbox table to a message. Pure: no I/O, no runtime. Knows neither PostgreSQL's protocol nor a connection to
//! RabbitMQ.
//!
//! [`Mapping`] is the configuration. [`Mapper`] is the mapping resolved against the table's current columns. A new one is built
//! whenever the server describes the table: in a Relation message, or in the query for the backlog.

mod invalid;
mod mapper;
mod mapping;
mod outgoing;
mod parked;
mod properties;
mod row;
mod row_headers;
mod template;
mod timestamp;

pub use amqp_publisher::{HeaderValue, short_string::SHORT_STRING_BYTES_MAX};
pub use invalid::{InvalidReason, InvalidRow};
pub use mapper::Mapper;
pub(crate) use mapper::decode_hex;
pub use mapping::{ColumnNames, Mapping, MappingError, MissingColumn, OptionalColumn};
pub use outgoing::{
    AggregateKey, HEADERS_BYTES_MAX, LINE_BREAKS, Message, POSITION_HEADER, RESERVED_HEADERS, ROUTING_HEADERS,
};
pub use parked::{KeptColumns, KeptRow, Outline, ParkCause, ParkReason, ParkedRow, Route};
pub use properties::Property;
pub use row::{Column, OutboxRow};
pub use template::{Placeholder, Template, TemplateError};
pub use timestamp::{ParseSinceError, ParseTimestampError, Timestamp};
