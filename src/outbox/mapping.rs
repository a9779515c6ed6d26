//! Preset `standard`: which column becomes which part of the message.
// interface sketch; bodies to be written by the owner of this room
use super::{Column, Message, OutboxRow, Template};

/// Names of the columns that have a meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnNames {
    pub id: String,
    pub aggregate_type: String,
    pub aggregate_id: String,
    pub event_type: String,
    pub payload: String,
    /// Optional: used when the table has it. `None` switches it off.
    pub headers: Option<String>,
    pub sequence: Option<String>,
    pub created_at: Option<String>,
}

/// What the configuration says of how rows become messages.
#[derive(Clone, Debug)]
pub struct Mapping {
    pub source: String,
    pub columns: ColumnNames,
    pub exchange: Template,
    pub routing_key: Template,
    pub headers: Vec<(String, Template)>,
    pub content_type: Option<String>,
    pub message_bytes_max: usize,
}

/// The mapping cannot be used with the columns this table has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("sketch")]
pub struct MappingError;

/// A row that cannot become a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("sketch")]
pub struct InvalidRow;

/// A mapping resolved against the columns of the table.
#[derive(Debug)]
pub struct Mapper;

impl Mapping {
    /// Resolves every name against `columns`; an error names every missing column and what the table has instead.
    pub fn resolve(&self, columns: &[Column]) -> Result<Mapper, MappingError> {
        todo!()
    }
}

impl Mapper {
    /// Turns a row into its message. The row's values must be those of the columns resolved against.
    pub fn message(&self, row: OutboxRow) -> Result<Message, InvalidRow> {
        todo!()
    }
}
