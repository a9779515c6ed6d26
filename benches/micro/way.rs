//! Steps of a row in the relay, without a server: decoded, mapped, added to the ledger, encoded, settled.

use std::time::Instant;

use amqp_publisher::publisher::encoding;
use bytes::{BufMut, Bytes, BytesMut};
use outboxd::{
    ledger::{Due, Ledger, Limits, Ordering, Settled},
    message::{Column, ColumnNames, Mapper, Mapping, Message, OutboxRow, Timestamp},
    position::{Lsn, Position},
};
use pg_replication::pgoutput::{self, PgOutput};

/// Frame size agreed with RabbitMQ.
pub(crate) const FRAME_BYTES_MAX: usize = 32 << 10;
const RELATION: u32 = 16_400;
const UUID: u32 = 2950;
const TEXT: u32 = 25;
const JSONB: u32 = 3802;

/// Returns the mapper of the table that `outboxd schema` prints.
pub(crate) fn mapper() -> Mapper {
    let mapping = Mapping {
        source: "orders".into(),
        columns: ColumnNames::default(),
        id: "{id}".parse().expect("a template"),
        exchange: "{aggregate_type}.events".parse().expect("a template"),
        routing_key: "{event_type}".parse().expect("a template"),
        headers: vec![],
        properties: Vec::new(),
        properties_from_headers: false,
        content_type: None,
        message_bytes_max: 1 << 20,
    };
    let column = |name: &str, type_oid| Column { name: name.into(), type_oid };
    mapping
        .resolve(&[
            column("id", UUID),
            column("aggregatetype", TEXT),
            column("aggregateid", TEXT),
            column("type", TEXT),
            column("payload", JSONB),
            column("headers", JSONB),
        ])
        .expect("the columns are there")
}

/// Returns the pgoutput message of a row with a payload of this size (manual, "Logical Replication Message Formats",
/// Insert).
pub(crate) fn insert(payload_bytes: usize) -> Bytes {
    let payload = format!("{{\"filler\": \"{}\"}}", "x".repeat(payload_bytes.saturating_sub(14)));
    let values = ["5f6cbd9c-6a5e-4b52-9a0b-3f6f4c8f1d2e", "Order", "order-4711", "OrderCreated", &payload];
    let mut bytes = BytesMut::new();
    bytes.put_u8(b'I');
    bytes.put_u32(RELATION);
    bytes.put_u8(b'N');
    bytes.put_u16(values.len() as u16 + 1);
    for value in values {
        bytes.put_u8(b't');
        bytes.put_u32(value.len() as u32);
        bytes.put_slice(value.as_bytes());
    }
    bytes.put_u8(b'n');
    bytes.freeze()
}

/// Returns the row of a pgoutput message.
pub(crate) fn row(insert: Bytes, position: Position) -> OutboxRow {
    let Ok(PgOutput::Insert { new, .. }) = pgoutput::decode(insert) else { panic!("an insert") };
    OutboxRow { position, committed_at: Timestamp(0), values: new.into_text().expect("text") }
}

/// Returns the message of a row in transaction `commit`.
pub(crate) fn message(mapper: &Mapper, insert: Bytes, commit: u64) -> Message {
    let position = Position { commit_lsn: Lsn(commit), index: 0 };
    mapper.message(row(insert, position)).expect("a message")
}

/// Returns a ledger with a window of this many messages.
pub(crate) fn ledger(ordering: Ordering, messages: usize) -> Ledger {
    Ledger::new(ordering, Limits { messages, bytes: 64 << 20 }, Settled::default())
}

/// Adds a message to a ledger with a window of one, publishes it, and settles it.
pub(crate) fn settle(ledger: &mut Ledger, message: Message, now: Instant, out: &mut Vec<u8>) {
    let commit = message.position.commit_lsn.0;
    ledger.push(message);
    ledger.advance_watermark(Lsn(commit + 1));
    while let Some((tag, due)) = ledger.next_due(now) {
        let Due::Publish(message) = due else { panic!("nothing is parked") };
        encoding::put_publish(&message.amqp, true, 1, FRAME_BYTES_MAX, out).expect("it fits");
        ledger.settle(tag);
    }
}
