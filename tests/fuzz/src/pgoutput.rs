//! Any bytes are a pgoutput message or an error, and a part of a message is never a message. For any description of a table, a
//! row gives a message or an [`InvalidRow`](outboxd::message::InvalidRow).

use std::collections::BTreeMap;

use bytes::{Buf, Bytes};
use outboxd::{
    message::{Column, ColumnNames, Mapper, Mapping, OutboxRow, Template, Timestamp},
    position::Position,
};
use pg_replication::{
    Lsn,
    pgoutput::{PgOutput, Relation, decode},
};

const ORIGIN: Position = Position { commit_lsn: Lsn(0), index: 0 };

/// Uses the input as one message, and as a stream of messages with two bytes of length before each.
pub fn holds(input: &[u8]) {
    let bytes = Bytes::copy_from_slice(input);
    if let Ok(output) = decode(bytes.clone()) {
        // No encoding is a prefix of another, so a truncated message is noticed.
        assert!(decode(bytes.slice(..bytes.len() - 1)).is_err(), "{output:?} in one byte less");
    }
    stream(bytes);
}

fn stream(mut bytes: Bytes) {
    let mapping = mapping();
    let mut mappers = BTreeMap::<u32, Mapper>::new();
    let mut position = ORIGIN;
    let mut committed_at = Timestamp(0);
    while bytes.len() >= 2 {
        let length = usize::from(bytes.get_u16()).min(bytes.len());
        match decode(bytes.split_to(length)) {
            Err(error) => assert!(error.offset <= length && !error.to_string().is_empty()),
            Ok(PgOutput::Begin { final_lsn, commit_time, .. }) => {
                position = Position { commit_lsn: final_lsn, index: 0 };
                committed_at = commit_time.into();
            }
            Ok(PgOutput::Relation(relation)) => match mapping.resolve(&columns(&relation)) {
                Ok(mapper) => drop(mappers.insert(relation.oid, mapper)),
                Err(error) => assert!(!error.missing.is_empty() && !error.to_string().is_empty()),
            },
            Ok(PgOutput::Insert { relation_oid, new }) => {
                if let (Some(mapper), Some(values)) = (mappers.get(&relation_oid), new.into_text()) {
                    if let Err(invalid) = mapper.message(OutboxRow { position, committed_at, values }) {
                        assert!(!invalid.to_string().is_empty());
                    }
                    position.index = position.index.wrapping_add(1);
                }
            }
            Ok(_) => {}
        }
    }
}

fn columns(relation: &Relation) -> Vec<Column> {
    relation.columns.iter().map(Column::from).collect()
}

fn mapping() -> Mapping {
    let literal = |text: &str| text.parse::<Template>().expect("a template");
    Mapping {
        source: "fuzz".into(),
        columns: ColumnNames::default(),
        id: literal("{id}"),
        exchange: literal("{aggregate_type}.events"),
        routing_key: literal("{event_type}"),
        headers: Vec::new(),
        properties: Vec::new(),
        properties_from_headers: false,
        content_type: None,
        message_bytes_max: 1000,
    }
}
