//! The simulated server's WAL, as pgoutput bytes, so that the product's decoder is part of the simulation.

use bytes::{BufMut, Bytes, BytesMut};

/// Number of a row, unique in one simulation: its id in the table, and its `message_id`.
pub(crate) type RowId = u32;

/// OIDs of the outbox table and of another one.
pub(crate) const OUTBOX: u32 = 16_400;
pub(crate) const OTHER: u32 = 16_500;
/// OID of the type text.
pub(crate) const TEXT: u32 = 25;
pub(crate) const COLUMNS: [&str; 5] = ["id", "aggregatetype", "aggregateid", "type", "payload"];

/// Every event type, used as routing key.
pub(crate) const ROUTING_KEYS: [&str; 4] = ["Changed", "Created", "Shipped", "Removed"];
/// Every exchange.
pub(crate) const EXCHANGES: [&str; 2] = ["Order.events", "Stock.events"];

/// Returns the event type of a row.
pub(crate) fn routing_key(row: RowId) -> &'static str {
    // Derived from the row's number, so that older seeds keep their meaning.
    ROUTING_KEYS[(row.wrapping_mul(0x9E37_79B9) >> 30) as usize]
}

/// Returns the type of an aggregate, which names its exchange.
pub(crate) fn aggregate_type(aggregate: u8) -> &'static str {
    if aggregate % 3 == 2 { "Stock" } else { "Order" }
}

/// A row of the outbox table.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) id: RowId,
    pub(crate) aggregate: u8,
    pub(crate) payload_bytes: u16,
    /// The row has no event type, and so cannot become a message.
    pub(crate) invalid: bool,
}

impl Row {
    /// The values in PostgreSQL's text format.
    pub(crate) fn values(&self) -> Vec<Option<Bytes>> {
        let text = |text: String| Some(Bytes::from(text));
        vec![
            text(self.id.to_string()),
            text(aggregate_type(self.aggregate).to_owned()),
            text(self.aggregate.to_string()),
            if self.invalid { None } else { text(routing_key(self.id).to_owned()) },
            text("x".repeat(usize::from(self.payload_bytes))),
        ]
    }
}

/// A committed transaction.
#[derive(Clone, Debug)]
pub(crate) struct Transaction {
    /// Start and end of the commit record.
    pub(crate) commit_lsn: u64,
    pub(crate) end_lsn: u64,
    pub(crate) rows: Vec<Row>,
    /// The transaction also changed another table of the publication.
    pub(crate) others: bool,
}

/// Commit time of every transaction: 2026-01-01, in microseconds since 2000.
const COMMITTED_AT: i64 = 820_454_400_000_000;

pub(crate) fn begin(transaction: &Transaction) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(b'B');
    out.put_u64(transaction.commit_lsn);
    out.put_i64(COMMITTED_AT);
    out.put_u32(7);
    out.freeze()
}

pub(crate) fn commit(transaction: &Transaction) -> Bytes {
    let mut out = BytesMut::new();
    out.put_slice(b"C\0");
    out.put_u64(transaction.commit_lsn);
    out.put_u64(transaction.end_lsn);
    out.put_i64(COMMITTED_AT);
    out.freeze()
}

pub(crate) fn relation(oid: u32, name: &str) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(b'R');
    out.put_u32(oid);
    out.put_slice(b"public\0");
    out.put_slice(name.as_bytes());
    out.put_slice(b"\0d");
    out.put_u16(COLUMNS.len() as u16);
    for column in COLUMNS {
        out.put_u8(u8::from(column == "id"));
        out.put_slice(column.as_bytes());
        out.put_u8(0);
        out.put_u32(TEXT);
        out.put_i32(-1);
    }
    out.freeze()
}

pub(crate) fn insert(oid: u32, values: &[Option<Bytes>]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(b'I');
    out.put_u32(oid);
    out.put_u8(b'N');
    out.put_u16(values.len() as u16);
    for value in values {
        match value {
            None => out.put_u8(b'n'),
            Some(text) => {
                out.put_u8(b't');
                out.put_u32(text.len() as u32);
                out.put_slice(text);
            }
        }
    }
    out.freeze()
}

pub(crate) fn truncate(oid: u32) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(b'T');
    out.put_u32(1);
    out.put_u8(0);
    out.put_u32(oid);
    out.freeze()
}
