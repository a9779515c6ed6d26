//! The pgoutput decoder against captures from a real server (`tests/golden`, made by `capture.sh` there) and against
//! generated messages: an encoded message decodes to itself, no bytes panic, and no part of a message decodes.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    fmt::Write as _,
    fs,
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use pg_replication::{
    Lsn,
    pgoutput::{Found, OldTuple, PgOutput, Relation, RelationColumn, ReplicaIdentity, Tuple, Value, decode},
};
use proptest::{collection::vec, option, prelude::*};

/// Every capture decodes to its `.txt`. `PGOUTPUT_GOLDEN=write` writes the `.txt` files for review.
#[test]
fn captures_of_a_real_server() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut captures = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let hex = entry.unwrap().path();
        if hex.extension().is_none_or(|extension| extension != "hex") {
            continue;
        }
        captures += 1;
        let rendered = messages(&fs::read_to_string(&hex).unwrap())
            .map(|bytes| render(&decode(bytes).unwrap_or_else(|error| panic!("{}: {error}", hex.display()))))
            .collect::<String>();
        let expected = hex.with_extension("txt");
        if std::env::var("PGOUTPUT_GOLDEN").is_ok_and(|what| what == "write") {
            fs::write(&expected, &rendered).unwrap();
        }
        assert_eq!(rendered, fs::read_to_string(&expected).unwrap(), "{}", hex.display());
    }
    assert!(captures >= 19, "only {captures} captures found in {}", folder.display());
}

/// Messages of a capture: one hex line each, `#` begins a comment.
fn messages(capture: &str) -> impl Iterator<Item = Bytes> {
    capture.lines().filter(|line| !line.starts_with('#')).map(|line| {
        (0..line.len()).step_by(2).map(|i| u8::from_str_radix(&line[i..i + 2], 16).unwrap()).collect()
    })
}

fn render(output: &PgOutput) -> String {
    let mut text = String::new();
    match output {
        PgOutput::Begin { final_lsn, commit_time, xid } => {
            writeln!(text, "Begin final_lsn {final_lsn} commit_time {} xid {xid}", micros(*commit_time))
        }
        PgOutput::Commit { commit_lsn, end_lsn, commit_time } => {
            writeln!(
                text,
                "Commit commit_lsn {commit_lsn} end_lsn {end_lsn} commit_time {}",
                micros(*commit_time)
            )
        }
        PgOutput::LogicalMessage { transactional, lsn, prefix, content } => {
            let kind = if *transactional { "transactional" } else { "at once" };
            writeln!(text, "Message {kind} lsn {lsn} prefix {prefix:?} content {content:?}")
        }
        PgOutput::Origin { commit_lsn, name } => writeln!(text, "Origin {name:?} commit_lsn {commit_lsn}"),
        PgOutput::Type { type_oid, namespace, name } => {
            writeln!(text, "Type {type_oid} {namespace:?}.{name:?}")
        }
        PgOutput::Relation(Relation { oid, namespace, name, replica_identity, columns }) => {
            write!(text, "Relation {oid} {namespace:?}.{name:?} replica identity {replica_identity:?}")
                .unwrap();
            for RelationColumn { key, name, type_oid, type_modifier } in columns {
                let key = if *key { " key" } else { "" };
                write!(text, "\n  {name:?} type {type_oid} modifier {type_modifier}{key}").unwrap();
            }
            writeln!(text)
        }
        PgOutput::Insert { relation_oid, new } => {
            writeln!(text, "Insert {relation_oid}{}", render_tuple("new", new))
        }
        PgOutput::Update { relation_oid, old, new } => {
            let old = old.as_ref().map(render_old).unwrap_or_default();
            writeln!(text, "Update {relation_oid}{old}{}", render_tuple("new", new))
        }
        PgOutput::Delete { relation_oid, old } => writeln!(text, "Delete {relation_oid}{}", render_old(old)),
        PgOutput::Truncate { relation_oids, cascade, restart_identity } => writeln!(
            text,
            "Truncate {relation_oids:?}{}{}",
            if *cascade { " cascade" } else { "" },
            if *restart_identity { " restart identity" } else { "" },
        ),
    }
    .unwrap();
    text
}

fn render_old(old: &OldTuple) -> String {
    match old {
        OldTuple::Key(tuple) => render_tuple("old key", tuple),
        OldTuple::Full(tuple) => render_tuple("old row", tuple),
    }
}

fn render_tuple(title: &str, Tuple(values): &Tuple) -> String {
    let mut text = format!("\n  {title}:");
    for value in values {
        match value {
            Value::Null => text.push_str(" NULL"),
            Value::Unchanged => text.push_str(" (unchanged)"),
            Value::Text(bytes) if bytes.len() > 200 => {
                write!(text, " {:?}...[{} bytes]", bytes.slice(..32), bytes.len()).unwrap();
            }
            Value::Text(bytes) => write!(text, " {:?}", std::str::from_utf8(bytes).unwrap()).unwrap(),
            Value::Binary(bytes) => write!(text, " binary {bytes:?}").unwrap(),
        }
    }
    text
}

/// Encodes a message, as the inverse of [`decode`].
fn encode(output: &PgOutput) -> Bytes {
    let mut out = Vec::new();
    match output {
        PgOutput::Begin { final_lsn, commit_time, xid } => {
            out.push(b'B');
            out.extend(final_lsn.0.to_be_bytes());
            out.extend(postgres_time(*commit_time));
            out.extend(xid.to_be_bytes());
        }
        PgOutput::LogicalMessage { transactional, lsn, prefix, content } => {
            out.extend([b'M', u8::from(*transactional)]);
            out.extend(lsn.0.to_be_bytes());
            put_string(&mut out, prefix);
            put_counted(&mut out, content);
        }
        PgOutput::Commit { commit_lsn, end_lsn, commit_time } => {
            out.extend([b'C', 0]);
            out.extend(commit_lsn.0.to_be_bytes());
            out.extend(end_lsn.0.to_be_bytes());
            out.extend(postgres_time(*commit_time));
        }
        PgOutput::Origin { commit_lsn, name } => {
            out.push(b'O');
            out.extend(commit_lsn.0.to_be_bytes());
            put_string(&mut out, name);
        }
        PgOutput::Relation(relation) => {
            out.push(b'R');
            out.extend(relation.oid.to_be_bytes());
            put_namespace(&mut out, &relation.namespace);
            put_string(&mut out, &relation.name);
            out.push(match relation.replica_identity {
                ReplicaIdentity::Default => b'd',
                ReplicaIdentity::Nothing => b'n',
                ReplicaIdentity::Full => b'f',
                ReplicaIdentity::Index => b'i',
            });
            out.extend((relation.columns.len() as u16).to_be_bytes());
            for column in &relation.columns {
                out.push(u8::from(column.key));
                put_string(&mut out, &column.name);
                out.extend(column.type_oid.to_be_bytes());
                out.extend(column.type_modifier.to_be_bytes());
            }
        }
        PgOutput::Type { type_oid, namespace, name } => {
            out.push(b'Y');
            out.extend(type_oid.to_be_bytes());
            put_namespace(&mut out, namespace);
            put_string(&mut out, name);
        }
        PgOutput::Insert { relation_oid, new } => {
            out.push(b'I');
            out.extend(relation_oid.to_be_bytes());
            put_tuple(&mut out, b'N', new);
        }
        PgOutput::Update { relation_oid, old, new } => {
            out.push(b'U');
            out.extend(relation_oid.to_be_bytes());
            if let Some(old) = old {
                put_old(&mut out, old);
            }
            put_tuple(&mut out, b'N', new);
        }
        PgOutput::Delete { relation_oid, old } => {
            out.push(b'D');
            out.extend(relation_oid.to_be_bytes());
            put_old(&mut out, old);
        }
        PgOutput::Truncate { relation_oids, cascade, restart_identity } => {
            out.push(b'T');
            out.extend((relation_oids.len() as u32).to_be_bytes());
            out.push(u8::from(*cascade) | u8::from(*restart_identity) << 1);
            relation_oids.iter().for_each(|oid| out.extend(oid.to_be_bytes()));
        }
    }
    out.into()
}

/// Microseconds from 1970 to 2000, PostgreSQL's epoch.
const EPOCH: i64 = 946_684_800_000_000;

/// Returns the time this many microseconds after 1970.
fn time_of(micros: i64) -> SystemTime {
    let distance = Duration::from_micros(micros.unsigned_abs());
    if micros < 0 { UNIX_EPOCH - distance } else { UNIX_EPOCH + distance }
}

fn micros(time: SystemTime) -> i64 {
    let micros = |distance: Duration| i64::try_from(distance.as_micros()).unwrap();
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => micros(since),
        Err(before) => -micros(before.duration()),
    }
}

fn postgres_time(time: SystemTime) -> [u8; 8] {
    (micros(time) - EPOCH).to_be_bytes()
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    out.extend(text.as_bytes());
    out.push(0);
}

fn put_namespace(out: &mut Vec<u8>, namespace: &str) {
    put_string(out, if namespace == "pg_catalog" { "" } else { namespace });
}

fn put_counted(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as u32).to_be_bytes());
    out.extend(bytes);
}

fn put_old(out: &mut Vec<u8>, old: &OldTuple) {
    match old {
        OldTuple::Key(tuple) => put_tuple(out, b'K', tuple),
        OldTuple::Full(tuple) => put_tuple(out, b'O', tuple),
    }
}

fn put_tuple(out: &mut Vec<u8>, kind: u8, Tuple(values): &Tuple) {
    out.push(kind);
    out.extend((values.len() as u16).to_be_bytes());
    for value in values {
        match value {
            Value::Null => out.push(b'n'),
            Value::Unchanged => out.push(b'u'),
            Value::Text(bytes) => {
                out.push(b't');
                put_counted(out, bytes);
            }
            Value::Binary(bytes) => {
                out.push(b'b');
                put_counted(out, bytes);
            }
        }
    }
}

fn any_message() -> impl Strategy<Value = PgOutput> {
    let lsn = || any::<u64>().prop_map(Lsn);
    // Every time that the protocol and `SystemTime` can hold.
    let time = || (i64::MIN + EPOCH..).prop_map(time_of);
    let name = || "[^\0]{0,12}";
    let namespace = || prop_oneof![Just("pg_catalog".to_owned()), "[^\0]{1,12}"];
    let bytes = || vec(any::<u8>(), 0..40).prop_map(Bytes::from);
    let value = move || {
        prop_oneof![
            Just(Value::Null),
            Just(Value::Unchanged),
            bytes().prop_map(Value::Text),
            bytes().prop_map(Value::Binary)
        ]
    };
    let tuple = move || vec(value(), 0..12).prop_map(Tuple);
    let old = move || prop_oneof![tuple().prop_map(OldTuple::Key), tuple().prop_map(OldTuple::Full)];
    let identity = prop_oneof![
        Just(ReplicaIdentity::Default),
        Just(ReplicaIdentity::Nothing),
        Just(ReplicaIdentity::Full),
        Just(ReplicaIdentity::Index)
    ];
    let column = (any::<bool>(), name(), any::<u32>(), any::<i32>()).prop_map(
        |(key, name, type_oid, type_modifier)| RelationColumn { key, name, type_oid, type_modifier },
    );
    prop_oneof![
        (lsn(), time(), any::<u32>()).prop_map(|(final_lsn, commit_time, xid)| PgOutput::Begin {
            final_lsn,
            commit_time,
            xid
        }),
        (any::<bool>(), lsn(), name(), bytes()).prop_map(|(transactional, lsn, prefix, content)| {
            PgOutput::LogicalMessage { transactional, lsn, prefix, content }
        }),
        (lsn(), lsn(), time()).prop_map(|(commit_lsn, end_lsn, commit_time)| PgOutput::Commit {
            commit_lsn,
            end_lsn,
            commit_time
        }),
        (lsn(), name()).prop_map(|(commit_lsn, name)| PgOutput::Origin { commit_lsn, name }),
        (any::<u32>(), namespace(), name(), identity, vec(column, 0..12)).prop_map(
            |(oid, namespace, name, replica_identity, columns)| PgOutput::Relation(Relation {
                oid,
                namespace,
                name,
                replica_identity,
                columns
            })
        ),
        (any::<u32>(), namespace(), name()).prop_map(|(type_oid, namespace, name)| PgOutput::Type {
            type_oid,
            namespace,
            name
        }),
        (any::<u32>(), tuple()).prop_map(|(relation_oid, new)| PgOutput::Insert { relation_oid, new }),
        (any::<u32>(), option::of(old()), tuple()).prop_map(|(relation_oid, old, new)| PgOutput::Update {
            relation_oid,
            old,
            new
        }),
        (any::<u32>(), old()).prop_map(|(relation_oid, old)| PgOutput::Delete { relation_oid, old }),
        (vec(any::<u32>(), 0..6), any::<bool>(), any::<bool>()).prop_map(
            |(relation_oids, cascade, restart_identity)| PgOutput::Truncate {
                relation_oids,
                cascade,
                restart_identity
            }
        ),
    ]
}

proptest! {
    #[test]
    fn what_is_encoded_comes_back(message in any_message()) {
        prop_assert_eq!(decode(encode(&message)), Ok(message));
    }

    #[test]
    fn no_piece_of_a_message_passes_for_the_whole(message in any_message(), more in vec(any::<u8>(), 1..9)) {
        let whole = encode(&message);
        for length in 0..whole.len() {
            prop_assert!(decode(whole.slice(..length)).is_err(), "the first {} of {} bytes", length, whole.len());
        }
        let error = decode([&whole[..], &more].concat().into()).unwrap_err();
        prop_assert_eq!(error.offset, whole.len());
    }

    #[test]
    fn bytes_give_a_value_or_an_error(bytes in vec(any::<u8>(), 0..200)) {
        let _ = decode(bytes.into());
    }

    /// A damaged message gets further into the decoder than random bytes. If it still decodes, encoding it returns
    /// the same bytes.
    #[test]
    fn damage_gives_a_value_or_an_error(message in any_message(), at in any::<prop::sample::Index>(), byte: u8) {
        let mut bytes = encode(&message).to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(output) = decode(bytes.clone().into()) {
            prop_assert_eq!(&encode(&output)[..], &bytes[..]);
        }
    }
}

#[test]
fn an_error_tells_what_was_expected_and_where() {
    for (bytes, error) in [
        (&b""[..], "pgoutput message: expected a message kind at byte 0, found only 0 more bytes"),
        (b"S", "pgoutput message: expected one of the kinds B M C O R Y I U D T at byte 0, found 0x53"),
        (
            b"I\0\0\0\x01N\0\x01x",
            "pgoutput Insert message: expected value kind n, u, t or b at byte 8, found 0x78",
        ),
        (
            b"I\0\0\0\x01N\0\x01t\x7f\xff\xff\xffabc",
            "pgoutput Insert message: expected value at byte 13, found only 3 more bytes",
        ),
        (b"I\0\0\0\x01K\0\0", "pgoutput Insert message: expected tuple kind N at byte 5, found 0x4b"),
        (b"I\0\0\0\x01N\0\0??", "pgoutput Insert message: expected the end at byte 8, found 2 more bytes"),
        (
            b"O\0\0\0\0\0\0\0\0\xff\0",
            "pgoutput Origin message: expected origin name at byte 9, found bytes that are not UTF-8",
        ),
        (b"C\x02", "pgoutput Commit message: expected flags 0 at byte 1, found 0x02"),
    ] {
        assert_eq!(decode(Bytes::from_static(bytes)).unwrap_err().to_string(), error);
    }
}

#[test]
fn counts_that_the_message_cannot_hold_take_no_memory() {
    // A Truncate that announces 4,294,967,295 tables, and a tuple that announces 65,535 columns.
    let truncate = decode(Bytes::from_static(b"T\xff\xff\xff\xff\0\0\0\0\x01")).unwrap_err();
    assert_eq!(truncate.found, Found::Remaining(0));
    let insert = decode(Bytes::from_static(b"I\0\0\0\x01N\xff\xffnn")).unwrap_err();
    assert_eq!((insert.offset, insert.found), (10, Found::Remaining(0)));
}

#[test]
fn a_time_beyond_the_calendar_is_an_error() {
    let begin = |time: i64| {
        let mut bytes = b"B\0\0\0\0\0\0\0\x01".to_vec();
        bytes.extend(time.to_be_bytes());
        bytes.extend([0, 0, 0, 9]);
        decode(bytes.into())
    };
    let epoch = begin(0).unwrap();
    assert_eq!(epoch, PgOutput::Begin { final_lsn: Lsn(1), commit_time: time_of(EPOCH), xid: 9 });
    assert_eq!(begin(i64::MAX).unwrap_err().found, Found::Number(i64::MAX));
    assert!(begin(i64::MIN).is_ok());
}

#[test]
fn values_share_the_memory_of_the_message() {
    let message = encode(&PgOutput::Insert {
        relation_oid: 1,
        new: Tuple(vec![Value::Text(Bytes::from_static(b"hi")), Value::Null, Value::Text(Bytes::new())]),
    });
    let PgOutput::Insert { new, .. } = decode(message.clone()).unwrap() else { panic!("an Insert") };
    let values = new.into_text().unwrap();
    assert_eq!(values, [Some(Bytes::from_static(b"hi")), None, Some(Bytes::new())]);
    assert!(message.as_ptr_range().contains(&values[0].as_ref().unwrap().as_ptr()));
    assert_eq!(Tuple(vec![Value::Unchanged]).into_text(), None);
}
