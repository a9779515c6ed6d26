//! Decoder of the `pgoutput` plugin's messages, protocol version 1: [`decode`] turns the bytes of one message into a
//! [`PgOutput`].
//!
//! Pure and total: any bytes give a value or a [`DecodeError`]. Trailing bytes are an error, and every length is
//! checked before it is used. Knows the layout of messages (manual, "Logical Replication Message Formats"; written by
//! `src/backend/replication/logical/proto.c` and `pgoutput.c`). Does not know transactions, or the meaning of values.
//! Messages of later protocol versions (streamed and prepared transactions) are absent, because the client requests
//! version 1.
//!
//! Values are slices of the input, not copies. Names must be UTF-8; values are not checked.
//!
//! | message | variant | when |
//! | --- | --- | --- |
//! | `B` Begin | [`PgOutput::Begin`] | first of a transaction |
//! | `M` Message | [`PgOutput::LogicalMessage`] | `pg_logical_emit_message` |
//! | `C` Commit | [`PgOutput::Commit`] | last of a transaction |
//! | `O` Origin | [`PgOutput::Origin`] | after Begin, for a transaction replicated from elsewhere |
//! | `R` Relation | [`PgOutput::Relation`] | before the first row of a table, and after its definition changed |
//! | `Y` Type | [`PgOutput::Type`] | before a Relation with a type that is not built in |
//! | `I` Insert, `U` Update, `D` Delete | [`PgOutput::Insert`], [`PgOutput::Update`], [`PgOutput::Delete`] | one for each row |
//! | `T` Truncate | [`PgOutput::Truncate`] | one for each TRUNCATE |
//!
//! # Example
//! ```
//! use pg_replication::{Lsn, pgoutput::{self, PgOutput}};
//!
//! let bytes = b"C\0\0\0\0\0\x01\x6B\x37\x48\0\0\0\0\x01\x6B\x37\x78\0\x02\xA2\x6F\x5C\x1D\x90\0";
//! let PgOutput::Commit { commit_lsn, end_lsn, .. } = pgoutput::decode(bytes.as_slice().into())? else {
//!     panic!("'C' is a Commit message")
//! };
//! assert_eq!((commit_lsn, end_lsn), (Lsn(0x16B3748), Lsn(0x16B3778)));
//! # Ok::<(), pgoutput::DecodeError>(())
//! ```

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use crate::Lsn;

/// One pgoutput message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PgOutput {
    /// `B`: a transaction begins. It is committed: the server sends no other.
    Begin {
        /// LSN of the commit record, equal to `commit_lsn` of its [`Commit`](PgOutput::Commit).
        final_lsn: Lsn,
        /// Time of the commit, by the server's clock, to the microsecond.
        commit_time: SystemTime,
        /// Transaction id.
        xid: u32,
    },
    /// `M`: a message of `pg_logical_emit_message`. A transactional message comes between Begin and Commit, any other
    /// stands alone.
    LogicalMessage {
        /// Set if the message belongs to the surrounding transaction.
        transactional: bool,
        /// LSN of the message.
        lsn: Lsn,
        /// Prefix of the message.
        prefix: String,
        /// Content of the message, any bytes.
        content: Bytes,
    },
    /// `C`: the transaction is complete.
    Commit {
        /// LSN of the commit record.
        commit_lsn: Lsn,
        /// LSN after the commit record: the position to acknowledge once the transaction is processed.
        end_lsn: Lsn,
        /// Time of the commit, by the server's clock, to the microsecond.
        commit_time: SystemTime,
    },
    /// `O`: the transaction was replicated from another server.
    Origin {
        /// LSN of its commit on the other server.
        commit_lsn: Lsn,
        /// Name of the replication origin.
        name: String,
    },
    /// `R`: describes a table before its first row, and again after its definition changed.
    Relation(Relation),
    /// `Y`: describes a type that is not built in, before a Relation that uses it.
    Type {
        /// OID in `pg_type`.
        type_oid: u32,
        /// Schema of the type.
        namespace: String,
        /// Name of the type.
        name: String,
    },
    /// `I`: a row was inserted.
    Insert {
        /// OID of the table, whose Relation came before.
        relation_oid: u32,
        /// The row.
        new: Tuple,
    },
    /// `U`: a row was updated.
    Update {
        /// OID of the table.
        relation_oid: u32,
        /// The old row, as far as it is known. Absent if no column of the replica identity changed.
        old: Option<OldTuple>,
        /// The new row.
        new: Tuple,
    },
    /// `D`: a row was deleted.
    Delete {
        /// OID of the table.
        relation_oid: u32,
        /// The deleted row, as far as it is known.
        old: OldTuple,
    },
    /// `T`: tables were truncated.
    Truncate {
        /// OIDs of the tables.
        relation_oids: Vec<u32>,
        /// `TRUNCATE ... CASCADE`.
        cascade: bool,
        /// `TRUNCATE ... RESTART IDENTITY`.
        restart_identity: bool,
    },
}

/// A table as a Relation message describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    /// OID in `pg_class`, to which Insert and other messages refer.
    pub oid: u32,
    /// Schema.
    pub namespace: String,
    /// Table.
    pub name: String,
    /// Columns that identify a row in UPDATE and DELETE.
    pub replica_identity: ReplicaIdentity,
    /// Published columns, in the order of a [`Tuple`]'s values. Dropped and generated columns are absent.
    pub columns: Vec<RelationColumn>,
}

/// `pg_class.relreplident`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaIdentity {
    /// `d`: the primary key, if the table has one.
    Default,
    /// `n`: no columns.
    Nothing,
    /// `f`: all columns.
    Full,
    /// `i`: the columns of a chosen index.
    Index,
}

/// A column of a [`Relation`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelationColumn {
    /// Set if the column belongs to the replica identity.
    pub key: bool,
    /// Name, without quotes.
    pub name: String,
    /// OID in `pg_type`.
    pub type_oid: u32,
    /// `pg_attribute.atttypmod`; -1 for none.
    pub type_modifier: i32,
}

/// Values of a row, one for each column of its [`Relation`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tuple(pub Vec<Value>);

impl Tuple {
    /// Returns the values as text, `None` for NULL. `None` for the whole row if a value is
    /// [unchanged](Value::Unchanged) or [binary](Value::Binary). An Insert always has text unless the connection
    /// asked for binary.
    pub fn into_text(self) -> Option<Vec<Option<Bytes>>> {
        let text = |value| match value {
            Value::Text(text) => Some(Some(text)),
            Value::Null => Some(None),
            Value::Unchanged | Value::Binary(_) => None,
        };
        self.0.into_iter().map(text).collect()
    }
}

/// One value of a [`Tuple`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// `n`: NULL.
    Null,
    /// `u`: an out-of-line value that an UPDATE did not change, so that WAL does not contain it.
    Unchanged,
    /// `t`: output of the type's output function, in the client's encoding.
    Text(Bytes),
    /// `b`: output of the type's send function, only with the option `binary`.
    Binary(Bytes),
}

/// Old row of an UPDATE or DELETE, as far as the server sends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OldTuple {
    /// `K`: the replica identity's columns. All others are NULL.
    Key(Tuple),
    /// `O`: the whole row (REPLICA IDENTITY FULL).
    Full(Tuple),
}

/// Error for bytes that are not a message of protocol version 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("pgoutput {message}: expected {expected} at byte {offset}, found {found}")]
pub struct DecodeError {
    /// Kind of message, such as `Insert message`; `message` if the kind was not recognised.
    pub message: &'static str,
    /// Offset in the message.
    pub offset: usize,
    /// Expected part.
    pub expected: &'static str,
    /// Part found instead.
    pub found: Found,
}

/// Part that a [`DecodeError`] found instead of the expected one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Found {
    /// The message ends early, after this many more bytes.
    #[error("only {0} more bytes")]
    Remaining(usize),
    /// The message continues for this many bytes.
    #[error("{0} more bytes")]
    Trailing(usize),
    /// An unknown tag or flag.
    #[error("{0:#04x}")]
    Byte(u8),
    /// Text that is not UTF-8.
    #[error("bytes that are not UTF-8")]
    NotUtf8,
    /// A number out of range.
    #[error("{0}")]
    Number(i64),
}

/// Microseconds from 1970-01-01 to 2000-01-01, PostgreSQL's epoch (`datatype/timestamp.h`).
const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;

/// Decodes one message, the bytes of a [`ReplicationEvent::WalData`](crate::ReplicationEvent::WalData).
///
/// # Errors
/// [`DecodeError`] unless the bytes are exactly one message of protocol version 1.
pub fn decode(bytes: Bytes) -> Result<PgOutput, DecodeError> {
    let mut reader = Reader { bytes, at: 0, message: "message" };
    let output = match reader.u8("a message kind")? {
        b'B' => reader.named("Begin message").begin()?,
        b'M' => reader.named("Logical decoding message").logical_message()?,
        b'C' => reader.named("Commit message").commit()?,
        b'O' => reader.named("Origin message").origin()?,
        b'R' => reader.named("Relation message").relation()?,
        b'Y' => reader.named("Type message").type_()?,
        b'I' => reader.named("Insert message").insert()?,
        b'U' => reader.named("Update message").update()?,
        b'D' => reader.named("Delete message").delete()?,
        b'T' => reader.named("Truncate message").truncate()?,
        tag => return Err(reader.error(0, "one of the kinds B M C O R Y I U D T", Found::Byte(tag))),
    };
    match reader.remaining() {
        0 => Ok(output),
        trailing => Err(reader.error(reader.at, "the end", Found::Trailing(trailing))),
    }
}

/// Checked reads. `at` never exceeds the length of `bytes`.
struct Reader {
    bytes: Bytes,
    at: usize,
    message: &'static str,
}

/// The messages, in the order of [`PgOutput`].
impl Reader {
    fn begin(&mut self) -> Result<PgOutput, DecodeError> {
        Ok(PgOutput::Begin {
            final_lsn: self.lsn("final_lsn")?,
            commit_time: self.time("commit time")?,
            xid: self.u32("xid")?,
        })
    }

    fn logical_message(&mut self) -> Result<PgOutput, DecodeError> {
        Ok(PgOutput::LogicalMessage {
            transactional: self.flags("flags 0 or 1 (transactional)", 1)? == 1,
            lsn: self.lsn("message LSN")?,
            prefix: self.string("prefix")?,
            content: self.counted_bytes("length of the content", "content")?,
        })
    }

    fn commit(&mut self) -> Result<PgOutput, DecodeError> {
        self.flags("flags 0", 0)?;
        Ok(PgOutput::Commit {
            commit_lsn: self.lsn("commit_lsn")?,
            end_lsn: self.lsn("end_lsn")?,
            commit_time: self.time("commit time")?,
        })
    }

    fn origin(&mut self) -> Result<PgOutput, DecodeError> {
        Ok(PgOutput::Origin { commit_lsn: self.lsn("commit LSN")?, name: self.string("origin name")? })
    }

    fn relation(&mut self) -> Result<PgOutput, DecodeError> {
        let oid = self.u32("relation OID")?;
        let namespace = self.namespace()?;
        let name = self.string("relation name")?;
        let replica_identity = match self.u8("a replica identity")? {
            b'd' => ReplicaIdentity::Default,
            b'n' => ReplicaIdentity::Nothing,
            b'f' => ReplicaIdentity::Full,
            b'i' => ReplicaIdentity::Index,
            other => {
                return Err(self.error(self.at - 1, "replica identity d, n, f or i", Found::Byte(other)));
            }
        };
        // A column takes at least 10 bytes: flags, the name's terminating zero, OID and modifier.
        let columns = self.repeated(10, |reader| {
            Ok(RelationColumn {
                key: reader.flags("column flags 0 or 1 (key)", 1)? == 1,
                name: reader.string("column name")?,
                type_oid: reader.u32("type OID")?,
                type_modifier: reader.u32("type modifier")?.cast_signed(),
            })
        })?;
        Ok(PgOutput::Relation(Relation { oid, namespace, name, replica_identity, columns }))
    }

    fn type_(&mut self) -> Result<PgOutput, DecodeError> {
        Ok(PgOutput::Type {
            type_oid: self.u32("type OID")?,
            namespace: self.namespace()?,
            name: self.string("type name")?,
        })
    }

    fn insert(&mut self) -> Result<PgOutput, DecodeError> {
        let relation_oid = self.u32("relation OID")?;
        match self.u8("a tuple kind")? {
            b'N' => Ok(PgOutput::Insert { relation_oid, new: self.tuple()? }),
            other => Err(self.error(self.at - 1, "tuple kind N", Found::Byte(other))),
        }
    }

    fn update(&mut self) -> Result<PgOutput, DecodeError> {
        let relation_oid = self.u32("relation OID")?;
        let old = match self.u8("a tuple kind")? {
            b'N' => return Ok(PgOutput::Update { relation_oid, old: None, new: self.tuple()? }),
            b'K' => OldTuple::Key(self.tuple()?),
            b'O' => OldTuple::Full(self.tuple()?),
            other => return Err(self.error(self.at - 1, "tuple kind K, O or N", Found::Byte(other))),
        };
        match self.u8("a tuple kind")? {
            b'N' => Ok(PgOutput::Update { relation_oid, old: Some(old), new: self.tuple()? }),
            other => Err(self.error(self.at - 1, "tuple kind N", Found::Byte(other))),
        }
    }

    fn delete(&mut self) -> Result<PgOutput, DecodeError> {
        let relation_oid = self.u32("relation OID")?;
        let old = match self.u8("a tuple kind")? {
            b'K' => OldTuple::Key(self.tuple()?),
            b'O' => OldTuple::Full(self.tuple()?),
            other => return Err(self.error(self.at - 1, "tuple kind K or O", Found::Byte(other))),
        };
        Ok(PgOutput::Delete { relation_oid, old })
    }

    fn truncate(&mut self) -> Result<PgOutput, DecodeError> {
        let count = self.u32("number of relations")?;
        let options = self.flags("options 0 to 3 (1 cascade, 2 restart identity)", 3)?;
        let mut relation_oids = Vec::with_capacity((count as usize).min(self.remaining() / 4));
        for _ in 0..count {
            relation_oids.push(self.u32("relation OID")?);
        }
        Ok(PgOutput::Truncate {
            relation_oids,
            cascade: options & 1 != 0,
            restart_identity: options & 2 != 0,
        })
    }

    fn tuple(&mut self) -> Result<Tuple, DecodeError> {
        self.repeated(1, |reader| match reader.u8("a value kind")? {
            b'n' => Ok(Value::Null),
            b'u' => Ok(Value::Unchanged),
            b't' => reader.counted_bytes("length of a value", "value").map(Value::Text),
            b'b' => reader.counted_bytes("length of a value", "value").map(Value::Binary),
            other => Err(reader.error(reader.at - 1, "value kind n, u, t or b", Found::Byte(other))),
        })
        .map(Tuple)
    }
}

/// The parts of a message.
impl Reader {
    fn named(&mut self, message: &'static str) -> &mut Self {
        self.message = message;
        self
    }

    fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    #[cold]
    fn error(&self, offset: usize, expected: &'static str, found: Found) -> DecodeError {
        DecodeError { message: self.message, offset, expected, found }
    }

    fn array<const N: usize>(&mut self, expected: &'static str) -> Result<[u8; N], DecodeError> {
        match self.bytes[self.at..].first_chunk::<N>() {
            Some(chunk) => {
                self.at += N;
                Ok(*chunk)
            }
            None => Err(self.error(self.at, expected, Found::Remaining(self.remaining()))),
        }
    }

    fn u8(&mut self, expected: &'static str) -> Result<u8, DecodeError> {
        self.array::<1>(expected).map(|[byte]| byte)
    }

    fn u32(&mut self, expected: &'static str) -> Result<u32, DecodeError> {
        self.array(expected).map(u32::from_be_bytes)
    }

    fn lsn(&mut self, expected: &'static str) -> Result<Lsn, DecodeError> {
        self.array(expected).map(|bytes| Lsn(u64::from_be_bytes(bytes)))
    }

    /// Reads microseconds since 2000, if `SystemTime` can hold them.
    fn time(&mut self, expected: &'static str) -> Result<SystemTime, DecodeError> {
        let since_2000 = i64::from_be_bytes(self.array(expected)?);
        let time = since_2000.checked_add(POSTGRES_EPOCH_US).and_then(|since_1970| {
            let distance = Duration::from_micros(since_1970.unsigned_abs());
            match since_1970 {
                ..0 => UNIX_EPOCH.checked_sub(distance),
                0.. => UNIX_EPOCH.checked_add(distance),
            }
        });
        time.ok_or_else(|| self.error(self.at - 8, expected, Found::Number(since_2000)))
    }

    /// Reads a byte with no bits outside of `mask`. Version 1 has no other flags, so another bit means damage.
    fn flags(&mut self, expected: &'static str, mask: u8) -> Result<u8, DecodeError> {
        match self.u8(expected)? {
            flags if flags & !mask == 0 => Ok(flags),
            other => Err(self.error(self.at - 1, expected, Found::Byte(other))),
        }
    }

    /// Reads text up to its terminating zero.
    fn string(&mut self, expected: &'static str) -> Result<String, DecodeError> {
        let rest = &self.bytes[self.at..];
        let Some(length) = rest.iter().position(|byte| *byte == 0) else {
            return Err(self.error(self.at, expected, Found::Remaining(rest.len())));
        };
        let Ok(text) = std::str::from_utf8(&rest[..length]) else {
            return Err(self.error(self.at, expected, Found::NotUtf8));
        };
        let text = text.to_owned();
        self.at += length + 1;
        Ok(text)
    }

    /// Reads a schema. The server sends an empty one for `pg_catalog`.
    fn namespace(&mut self) -> Result<String, DecodeError> {
        let namespace = self.string("schema")?;
        Ok(if namespace.is_empty() { "pg_catalog".to_owned() } else { namespace })
    }

    fn counted_bytes(&mut self, length: &'static str, value: &'static str) -> Result<Bytes, DecodeError> {
        let claimed = self.u32(length)? as usize;
        if claimed > self.remaining() {
            return Err(self.error(self.at, value, Found::Remaining(self.remaining())));
        }
        let start = self.at;
        self.at += claimed;
        Ok(self.bytes.slice(start..self.at))
    }

    /// Reads a 16-bit count and that many items of at least `size_min` bytes. Reserves memory for no more items than
    /// the message can hold.
    fn repeated<T>(
        &mut self,
        size_min: usize,
        item: impl Fn(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        let count = u16::from_be_bytes(self.array("number of columns")?);
        let mut items = Vec::with_capacity(usize::from(count).min(self.remaining() / size_min));
        for _ in 0..count {
            items.push(item(self)?);
        }
        Ok(items)
    }
}
