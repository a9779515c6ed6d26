//! From a row of the outbox table to a message. Pure: no I/O, no runtime, no knowledge of PostgreSQL's protocol or of lapin.
//!
//! [`Mapping`] is what the configuration says; [`Mapper`] is that mapping resolved against the columns the table has
//! right now, made anew whenever the server describes the table (a Relation message, or the backlog's own query).

mod mapping;
mod message;
mod row;
mod template;

pub use mapping::{ColumnNames, InvalidRow, Mapper, Mapping, MappingError};
pub use message::{AggregateKey, HeaderValue, Message};
pub use row::{Column, OutboxRow, Timestamp};
pub use template::{Template, TemplateError};
