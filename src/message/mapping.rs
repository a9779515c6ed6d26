//! Preset `standard`: which column becomes which part of the message, and whether the table has that column.

use std::{fmt, sync::Arc};

use diagnostics::nearest;

use super::{
    Column, KeptColumns, Mapper, Placeholder, Property, RESERVED_HEADERS, ROUTING_HEADERS, Template,
    mapper::{PayloadKind, Piece, Rendering},
    template::Part,
};

/// A column that only some outbox tables have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OptionalColumn {
    /// The default: used when the table has it.
    IfPresent(String),
    /// Named in the configuration. A table without the column is refused.
    Required(String),
    /// Never used, even if the table has the column.
    Off,
}

impl OptionalColumn {
    /// Returns the column's name, unless the column is switched off.
    pub fn name(&self) -> Option<&str> {
        match self {
            OptionalColumn::IfPresent(name) | OptionalColumn::Required(name) => Some(name),
            OptionalColumn::Off => None,
        }
    }
}

/// Names of the columns that have a meaning, as stored in `pg_attribute` (no quotes, case matters).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnNames {
    /// Becomes `message_id`, unless `message.id` is set.
    pub id: String,
    /// Type of the aggregate. Order is kept per type and id.
    pub aggregate_type: String,
    /// Id of the aggregate.
    pub aggregate_id: String,
    /// Becomes the property `type`.
    pub event_type: String,
    /// Becomes the body.
    pub payload: String,
    /// JSON object of message headers.
    pub headers: OptionalColumn,
    /// Order of rows that are read from the table (backlog, recover, replay).
    pub sequence: OptionalColumn,
    /// Time of the insert, for retention and replay.
    pub created_at: OptionalColumn,
}

impl Default for ColumnNames {
    /// The columns of Debezium's outbox table.
    fn default() -> Self {
        ColumnNames {
            id: "id".into(),
            aggregate_type: "aggregatetype".into(),
            aggregate_id: "aggregateid".into(),
            event_type: "type".into(),
            payload: "payload".into(),
            headers: OptionalColumn::IfPresent("headers".into()),
            sequence: OptionalColumn::IfPresent("seq".into()),
            created_at: OptionalColumn::IfPresent("created_at".into()),
        }
    }
}

/// Mapping of rows to messages, as configured.
#[derive(Clone, Debug)]
pub struct Mapping {
    /// The source's name, sent as `outbox-source`.
    pub source: String,
    /// `outbox.columns`
    pub columns: ColumnNames,
    /// `message.id`
    pub id: Template,
    /// `message.exchange`
    pub exchange: Template,
    /// `message.routing_key`
    pub routing_key: Template,
    /// `message.headers`, in the order they are sent.
    pub headers: Vec<(String, Template)>,
    /// `message.priority` and the other properties, each at most once.
    pub properties: Vec<(Property, Template)>,
    /// `message.properties_from_headers`: a row's header with the key of a property sets that property, and is not sent as a
    /// header.
    pub properties_from_headers: bool,
    /// `message.content_type`. `None`: chosen by the payload column's type.
    pub content_type: Option<String>,
    /// `delivery.message_bytes_max`: largest body in bytes.
    pub message_bytes_max: usize,
}

/// A column that the mapping needs and the table does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingColumn {
    /// Name of the column.
    pub name: String,
    /// Configuration key or placeholder that names the column.
    pub wanted_by: String,
    /// Column of the table with the most similar name.
    pub nearest: Option<String>,
}

/// The table lacks columns that the mapping needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MappingError {
    /// Every missing column.
    pub missing: Vec<MissingColumn>,
    /// Columns that the table has.
    pub columns: Vec<String>,
}

impl fmt::Display for MissingColumn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "column \"{}\" (for {}", self.name, self.wanted_by)?;
        if let Some(nearest) = &self.nearest {
            write!(f, "; did you mean \"{nearest}\"?")?;
        }
        f.write_str(")")
    }
}

impl fmt::Display for MappingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the outbox table, as PostgreSQL publishes it, lacks ")?;
        for (i, missing) in self.missing.iter().enumerate() {
            let separator = if i == 0 { "" } else { ", " };
            write!(f, "{separator}{missing}")?;
        }
        write!(
            f,
            "; its columns are {}; correct outbox.columns or the templates, or add the column to the table (and to the \
             publication's column list, if there is one)",
            self.columns.join(", ")
        )
    }
}

impl std::error::Error for MappingError {}

/// Type OIDs of smallint, integer, bigint and numeric (`pg_type.dat`).
const NUMBERS: [u32; 4] = [21, 23, 20, 1700];

impl Mapping {
    /// Returns whether message ids consist of numbers of this table only, for example from a `bigint` key. Another table produces
    /// the same ids.
    pub fn ids_are_numbers(&self, columns: &[Column]) -> bool {
        let is_number = |name: &str| {
            columns.iter().any(|column| column.name == name && NUMBERS.contains(&column.type_oid))
        };
        self.id.placeholders().all(|placeholder| match placeholder {
            Placeholder::Id => is_number(&self.columns.id),
            Placeholder::Column(name) => is_number(name),
            _ => false,
        })
    }

    /// Resolves every name against `columns`.
    ///
    /// # Errors
    ///
    /// [`MappingError`] names every missing column, the key that needs it, and the columns that the table has.
    pub fn resolve(&self, columns: &[Column]) -> Result<Mapper, MappingError> {
        let mut resolver = Resolver { mapping: self, columns, missing: Vec::new() };
        let names = &self.columns;
        let id = resolver.required(&names.id, "outbox.columns.id");
        let aggregate_type = resolver.required(&names.aggregate_type, "outbox.columns.aggregate_type");
        let aggregate_id = resolver.required(&names.aggregate_id, "outbox.columns.aggregate_id");
        let event_type = resolver.required(&names.event_type, "outbox.columns.event_type");
        let payload = resolver.required(&names.payload, "outbox.columns.payload");
        let headers = resolver.optional(&names.headers, "outbox.columns.headers");
        let message_id = match self.id.parts() {
            // The default template. The id column is read without rendering.
            [Part::Placeholder(Placeholder::Id)] => None,
            _ => Some(resolver.rendering(&self.id)),
        };
        let exchange = resolver.rendering(&self.exchange);
        let routing_key = resolver.rendering(&self.routing_key);
        let mut configured: Vec<(String, Rendering)> = Vec::new();
        for (name, template) in &self.headers {
            let taken = RESERVED_HEADERS.contains(&&**name)
                || ROUTING_HEADERS.contains(&&**name)
                || configured.iter().any(|(other, _)| other == name);
            // The settings refuse a duplicate header. This check covers a mapping that was built in another way.
            if !taken {
                configured.push((name.clone(), resolver.rendering(template)));
            }
        }

        let properties = self.properties.iter();
        let properties = properties.map(|(property, template)| (*property, resolver.rendering(template)));
        let properties = properties.collect();

        let names = || columns.iter().map(|column| column.name.clone()).collect();
        if !resolver.missing.is_empty() {
            return Err(MappingError { missing: resolver.missing, columns: names() });
        }
        Ok(Mapper {
            source: self.source.clone(),
            columns: names(),
            id,
            aggregate_type,
            aggregate_id,
            event_type,
            payload,
            payload_kind: PayloadKind::of(columns[payload].type_oid),
            headers,
            message_id,
            exchange,
            routing_key,
            configured,
            properties,
            properties_from_headers: self.properties_from_headers,
            content_type: self.content_type.clone(),
            message_bytes_max: self.message_bytes_max,
            kept: Arc::new(KeptColumns {
                columns: columns.to_vec(),
                id,
                aggregate_type,
                aggregate_id,
                event_type,
            }),
        })
    }
}

/// Looks up column names and collects the missing ones. The indexes are valid only if no column is missing.
struct Resolver<'a> {
    mapping: &'a Mapping,
    columns: &'a [Column],
    missing: Vec<MissingColumn>,
}

impl Resolver<'_> {
    fn find(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }

    fn required(&mut self, name: &str, wanted_by: &str) -> usize {
        self.find(name).unwrap_or_else(|| {
            self.lacking(name, wanted_by);
            0
        })
    }

    fn lacking(&mut self, name: &str, wanted_by: &str) {
        let names = self.columns.iter().map(|column| &*column.name);
        let nearest = nearest(name, names).map(str::to_owned);
        self.missing.push(MissingColumn { name: name.to_owned(), wanted_by: wanted_by.to_owned(), nearest });
    }

    fn optional(&mut self, column: &OptionalColumn, wanted_by: &str) -> Option<usize> {
        match column {
            OptionalColumn::IfPresent(name) => self.find(name),
            OptionalColumn::Required(name) => Some(self.required(name, wanted_by)),
            OptionalColumn::Off => None,
        }
    }

    fn rendering(&mut self, template: &Template) -> Rendering {
        let pieces = template.parts().iter().map(|part| match part {
            Part::Literal(text) => Piece::Literal(text.clone()),
            Part::Placeholder(placeholder) => self.piece(placeholder),
        });
        Rendering(pieces.collect())
    }

    fn piece(&mut self, placeholder: &Placeholder) -> Piece {
        let names = &self.mapping.columns;
        // A missing named column is already reported under its configuration key.
        let index = match placeholder {
            Placeholder::Id => self.find(&names.id).unwrap_or(0),
            Placeholder::AggregateType => self.find(&names.aggregate_type).unwrap_or(0),
            Placeholder::AggregateId => self.find(&names.aggregate_id).unwrap_or(0),
            Placeholder::EventType => self.find(&names.event_type).unwrap_or(0),
            Placeholder::Column(name) => self.required(name, &placeholder.to_string()),
            Placeholder::Source => return Piece::Literal(self.mapping.source.clone()),
            Placeholder::Header(name) => {
                match &names.headers {
                    // A missing `Required` column is already reported under its configuration key.
                    OptionalColumn::IfPresent(column) if self.find(column).is_none() => {
                        self.lacking(column, &placeholder.to_string());
                    }
                    OptionalColumn::Off => {
                        let wanted_by = format!("{placeholder}, but outbox.columns.headers is switched off");
                        self.lacking("headers", &wanted_by);
                    }
                    _ => {}
                }
                return Piece::Header(name.clone());
            }
        };
        Piece::Column { index, placeholder: placeholder.clone() }
    }
}
