//! The mapper: builds the message of a row. Works with column indexes; nothing here looks a column up by name.

use std::{borrow::Cow, sync::Arc};

use amqp_publisher::publisher::message::{self as amqp, Properties, header_bytes};
use bytes::Bytes;

use super::{
    AggregateKey, HEADERS_BYTES_MAX, HeaderValue, InvalidReason, InvalidRow, KeptColumns, KeptRow,
    LINE_BREAKS, Message, OutboxRow, POSITION_HEADER, Placeholder, Property, RESERVED_HEADERS,
    ROUTING_HEADERS, SHORT_STRING_BYTES_MAX,
    outgoing::APP_ID,
    row_headers::{HeadersError, RowHeaders},
};

/// Type OIDs of `pg_type.dat`. PostgreSQL never changes them.
const BYTEA: u32 = 17;
const JSON: u32 = 114;
const JSONB: u32 = 3802;

/// Largest body that is copied, in bytes. Copying so little costs next to nothing.
const COPIED_BELOW: usize = 16 * 1024;

/// A [`Mapping`](super::Mapping) resolved against the columns of the table.
#[derive(Debug)]
pub struct Mapper {
    pub(super) source: String,
    /// Names of the table's columns, for errors.
    pub(super) columns: Vec<String>,
    pub(super) id: usize,
    pub(super) aggregate_type: usize,
    pub(super) aggregate_id: usize,
    pub(super) event_type: usize,
    pub(super) payload: usize,
    pub(super) payload_kind: PayloadKind,
    pub(super) headers: Option<usize>,
    /// `None`: the id column, unchanged.
    pub(super) message_id: Option<Rendering>,
    pub(super) exchange: Rendering,
    pub(super) routing_key: Rendering,
    pub(super) configured: Vec<(String, Rendering)>,
    pub(super) properties: Vec<(Property, Rendering)>,
    pub(super) properties_from_headers: bool,
    pub(super) content_type: Option<String>,
    pub(super) message_bytes_max: usize,
    pub(super) kept: Arc<KeptColumns>,
}

/// Kind of payload, by the type of the payload column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PayloadKind {
    Json,
    Bytea,
    Text,
}

impl PayloadKind {
    pub(super) fn of(type_oid: u32) -> Self {
        match type_oid {
            JSON | JSONB => PayloadKind::Json,
            BYTEA => PayloadKind::Bytea,
            _ => PayloadKind::Text,
        }
    }

    fn content_type(self) -> &'static str {
        match self {
            PayloadKind::Json => "application/json",
            PayloadKind::Bytea => "application/octet-stream",
            PayloadKind::Text => "text/plain",
        }
    }
}

/// A template with column indexes in place of names.
#[derive(Debug)]
pub(super) struct Rendering(pub(super) Vec<Piece>);

#[derive(Debug)]
pub(super) enum Piece {
    Literal(String),
    Column { index: usize, placeholder: Placeholder },
    Header(String),
}

impl Mapper {
    /// Builds the message of a row. The row's values must be in the order of the columns that this mapper was resolved against.
    ///
    /// # Errors
    ///
    /// [`InvalidRow`] with the rule that the row breaks. The same row fails again.
    pub fn message(&self, row: OutboxRow) -> Result<Message, InvalidRow> {
        self.build(&row).map_err(|reason| {
            let id = row.values.get(self.id).and_then(Option::as_deref);
            let id = id.and_then(|id| str::from_utf8(id).ok()).map(str::to_owned);
            InvalidRow { position: row.position, id, reason }
        })
    }

    /// Keeps a row beside its message, so that it can be parked. The values must be in the order of the resolved columns.
    pub fn keep(&self, row: OutboxRow) -> KeptRow {
        KeptRow::new(Arc::clone(&self.kept), row)
    }

    fn build(&self, row: &OutboxRow) -> Result<Message, InvalidReason> {
        let (columns, values) = (self.columns.len(), row.values.len());
        if columns != values {
            return Err(InvalidReason::ColumnCount { columns, values });
        }
        let row_headers = self.row_headers(row)?;
        let aggregate_type = self.required(row, self.aggregate_type)?;
        let aggregate_id = self.required(row, self.aggregate_id)?;
        let message_id = match &self.message_id {
            None => short("message_id", self.required(row, self.id)?.to_owned())?,
            Some(rendering) => self.route("id", rendering, row, &row_headers)?,
        };
        let event_type = short("event type", self.required(row, self.event_type)?.to_owned())?;
        let exchange = self.exchange(row, &row_headers)?;
        let routing_key = self.route("routing key", &self.routing_key, row, &row_headers)?;
        let content_type = match &self.content_type {
            Some(configured) => Cow::Owned(short("content type", configured.clone())?),
            None => Cow::Borrowed(self.payload_kind.content_type()),
        };

        let mut headers = Headers::with_room_for(5 + self.configured.len());
        let text = |text: &str| HeaderValue::Text(text.to_owned());
        headers.push("aggregate-type", text(aggregate_type))?;
        headers.push("aggregate-id", text(aggregate_id))?;
        headers.push("event-type", text(&event_type))?;
        headers.push("outbox-source", text(&self.source))?;
        headers.push(POSITION_HEADER, HeaderValue::Text(row.position.to_string()))?;
        for (name, rendering) in &self.configured {
            if let Rendered::Text(value) = self.render(rendering, row, &row_headers)? {
                headers.push(name.clone(), HeaderValue::Text(value))?;
            }
        }
        let mut properties = Properties {
            content_type: Some(content_type),
            message_id: Some(message_id),
            timestamp: Some(row.committed_at.seconds()),
            kind: Some(event_type),
            app_id: Some(Cow::Borrowed(APP_ID)),
            ..Properties::default()
        };
        self.set_properties(&mut properties, row, &row_headers)?;
        for header in row_headers.into_values() {
            let (name, value) = header.map_err(|error| self.headers_error(error))?;
            if self.properties_from_headers && Property::named(&name).is_some() {
                continue;
            }
            if ROUTING_HEADERS.contains(&&*name) {
                return Err(InvalidReason::RoutingHeader { name });
            }
            if !headers.has(&name) {
                headers.push(name, value)?;
            }
        }

        let body = self.body(row)?;
        let amqp = amqp::Message { exchange, routing_key, properties, headers: headers.list, body };
        let message = Message {
            position: row.position,
            committed_at: row.committed_at,
            aggregate: AggregateKey::new(aggregate_type, aggregate_id),
            amqp: Arc::new(amqp),
        };
        if message.content_header_bytes() > HEADERS_BYTES_MAX {
            return Err(InvalidReason::HeadersTooLarge);
        }
        Ok(message)
    }

    /// Sets properties from the templates. The row's headers set those that no template gives a value.
    fn set_properties(
        &self,
        properties: &mut Properties,
        row: &OutboxRow,
        row_headers: &RowHeaders<'_>,
    ) -> Result<(), InvalidReason> {
        if self.properties.is_empty() && !self.properties_from_headers {
            return Ok(());
        }
        for property in Property::ALL {
            let template = self.properties.iter().find(|(of, _)| *of == property);
            let mut value = None;
            if let Some((_, rendering)) = template {
                value = match self.render(rendering, row, row_headers)? {
                    Rendered::Text(text) => Some(text),
                    Rendered::Missing(_) => Some(String::new()),
                };
            }
            let mut of_header = false;
            if self.properties_from_headers && value.as_ref().is_none_or(String::is_empty) {
                let header = row_headers.text(property.key()).map_err(|error| self.headers_error(error))?;
                of_header = header.is_some();
                value = header.or(value);
            }
            if let Some(value) = value {
                property.set(properties, value).map_err(|reason| match reason {
                    InvalidReason::Property { property, wanted, .. } => {
                        InvalidReason::Property { property, wanted, is_header: of_header }
                    }
                    reason => reason,
                })?;
            }
        }
        Ok(())
    }

    /// The payload's bytes as PostgreSQL gave them.
    fn body(&self, row: &OutboxRow) -> Result<Bytes, InvalidReason> {
        let body = match &row.values[self.payload] {
            None => Bytes::new(),
            Some(value) if self.payload_kind == PayloadKind::Bytea => decode_hex(value)
                .ok_or_else(|| InvalidReason::ByteaNotHex { column: self.column(self.payload) })?,
            // Nothing tells a consumer the encoding of such a text.
            Some(value) if str::from_utf8(value).is_err() => {
                return Err(InvalidReason::NotUtf8 { column: self.column(self.payload) });
            }
            // A slice would keep the whole receive buffer alive while the message is in flight. A small body is copied, so that
            // memory in use equals memory counted.
            Some(value) if value.len() < COPIED_BELOW => Bytes::copy_from_slice(value),
            Some(value) => value.clone(),
        };
        if body.len() > self.message_bytes_max {
            return Err(InvalidReason::BodyTooLarge { bytes: body.len(), bytes_max: self.message_bytes_max });
        }
        Ok(body)
    }

    fn row_headers<'a>(&self, row: &'a OutboxRow) -> Result<RowHeaders<'a>, InvalidReason> {
        let Some(index) = self.headers else { return Ok(RowHeaders::default()) };
        let Some(text) = self.text(row, index)? else { return Ok(RowHeaders::default()) };
        RowHeaders::parse(text).map_err(|error| self.headers_error(error))
    }

    fn headers_error(&self, error: HeadersError) -> InvalidReason {
        let column = self.headers.map(|index| self.column(index)).unwrap_or_default();
        match error {
            HeadersError::NotJson => InvalidReason::HeadersNotJson { column },
            HeadersError::NotObject => InvalidReason::HeadersNotObject { column },
        }
    }

    /// Renders the exchange name. Only an empty template means the default exchange.
    fn exchange(&self, row: &OutboxRow, row_headers: &RowHeaders<'_>) -> Result<String, InvalidReason> {
        let exchange = self.route("exchange", &self.exchange, row, row_headers)?;
        if exchange.is_empty() && !self.exchange.0.is_empty() {
            return Err(InvalidReason::EmptyExchange);
        }
        if exchange.contains(LINE_BREAKS) {
            return Err(InvalidReason::LineBreakInExchange);
        }
        Ok(exchange)
    }

    fn route(
        &self,
        part: &'static str,
        rendering: &Rendering,
        row: &OutboxRow,
        row_headers: &RowHeaders<'_>,
    ) -> Result<String, InvalidReason> {
        match self.render(rendering, row, row_headers)? {
            Rendered::Text(text) => short(part, text),
            Rendered::Missing(placeholder) => Err(InvalidReason::MissingValue { part, placeholder }),
        }
    }

    fn render(
        &self,
        rendering: &Rendering,
        row: &OutboxRow,
        row_headers: &RowHeaders<'_>,
    ) -> Result<Rendered, InvalidReason> {
        let mut out = String::new();
        for piece in &rendering.0 {
            match piece {
                Piece::Literal(text) => out.push_str(text),
                Piece::Column { index, placeholder } => match self.text(row, *index)? {
                    Some(text) => out.push_str(text),
                    None => return Ok(Rendered::Missing(placeholder.to_string())),
                },
                Piece::Header(name) => {
                    match row_headers.text(name).map_err(|error| self.headers_error(error))? {
                        Some(text) => out.push_str(&text),
                        None => return Ok(Rendered::Missing(Placeholder::Header(name.clone()).to_string())),
                    }
                }
            }
        }
        Ok(Rendered::Text(out))
    }

    fn required<'a>(&self, row: &'a OutboxRow, index: usize) -> Result<&'a str, InvalidReason> {
        self.text(row, index)?.ok_or_else(|| InvalidReason::NullColumn { column: self.column(index) })
    }

    fn text<'a>(&self, row: &'a OutboxRow, index: usize) -> Result<Option<&'a str>, InvalidReason> {
        let Some(value) = &row.values[index] else { return Ok(None) };
        str::from_utf8(value).map(Some).map_err(|_| InvalidReason::NotUtf8 { column: self.column(index) })
    }

    fn column(&self, index: usize) -> String {
        self.columns[index].clone()
    }
}

enum Rendered {
    Text(String),
    /// The placeholder that has no value in this row.
    Missing(String),
}

/// Headers under construction. Refuses at once what cannot be sent, so that a huge object costs no memory.
struct Headers {
    list: Vec<(Cow<'static, str>, HeaderValue)>,
    bytes: usize,
}

impl Headers {
    fn with_room_for(count: usize) -> Self {
        Headers { list: Vec::with_capacity(count), bytes: 0 }
    }

    fn push(&mut self, name: impl Into<Cow<'static, str>>, value: HeaderValue) -> Result<(), InvalidReason> {
        let name = name.into();
        if name.len() > SHORT_STRING_BYTES_MAX {
            return Err(InvalidReason::TooLong { part: "name of a header", bytes: name.len() });
        }
        self.bytes += header_bytes(&name, &value);
        if self.bytes > HEADERS_BYTES_MAX {
            return Err(InvalidReason::HeadersTooLarge);
        }
        self.list.push((name, value));
        Ok(())
    }

    /// Returns whether a name is taken, by a reserved header or by a configured one. The row's header of that name is left out.
    fn has(&self, name: &str) -> bool {
        RESERVED_HEADERS.contains(&name) || self.list.iter().any(|(taken, _)| taken == name)
    }
}

fn short(part: &'static str, text: String) -> Result<String, InvalidReason> {
    if text.len() > SHORT_STRING_BYTES_MAX {
        return Err(InvalidReason::TooLong { part, bytes: text.len() });
    }
    Ok(text)
}

/// Decodes `\x0aff`. The escape format never begins with `\x`, because it doubles a backslash.
pub(crate) fn decode_hex(text: &[u8]) -> Option<Bytes> {
    let (pairs, []) = text.strip_prefix(b"\\x")?.as_chunks::<2>() else { return None };
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    pairs
        .iter()
        .map(|&[high, low]| Some(digit(high)? << 4 | digit(low)?))
        .collect::<Option<Vec<u8>>>()
        .map(Bytes::from)
}

#[cfg(test)]
mod tests;
