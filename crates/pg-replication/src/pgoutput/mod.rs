//! Decodes what the `pgoutput` plugin sends, protocol version 1: bytes of one message in, one [`PgOutput`] out.
//!
//! Pure and total: any bytes give a value or a [`DecodeError`], trailing bytes are an error, and no length that the bytes
//! claim is believed before it is checked. It knows the layout of messages (manual, section "Logical Replication Message
//! Formats"; written by `src/backend/replication/logical/proto.c` and `pgoutput.c`) and nothing of transactions, or of what
//! values mean. Messages that only later protocol versions send (streamed and prepared transactions) are deliberately absent:
//! version 1 is what the client asks for.
//!
//! Values are slices of the input, not copies. Names are checked to be UTF-8; values are not, that is up to who reads them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use crate::Lsn;

/// One pgoutput message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PgOutput {
    /// `B`: a transaction begins. It has committed already, or the server would not send it.
    Begin {
        /// LSN of the transaction's commit record: the same as `commit_lsn` of its [`Commit`](PgOutput::Commit).
        final_lsn: Lsn,
        /// Time of the commit, by the server's clock, to the microsecond.
        commit_time: SystemTime,
        /// Its transaction id.
        xid: u32,
    },
    /// `M`: a message of `pg_logical_emit_message`. A transactional one comes between Begin and Commit, any other stands
    /// by itself.
    LogicalMessage {
        /// It belongs to the transaction around it.
        transactional: bool,
        /// Place of the message in WAL.
        lsn: Lsn,
        /// Its prefix, the first argument.
        prefix: String,
        /// Its content, any bytes.
        content: Bytes,
    },
    /// `C`: the transaction is complete.
    Commit {
        /// LSN of the commit record.
        commit_lsn: Lsn,
        /// First byte after the commit record: what to report as flushed once the transaction is settled.
        end_lsn: Lsn,
        /// Time of the commit, by the server's clock, to the microsecond.
        commit_time: SystemTime,
    },
    /// `O`: the transaction was replicated from elsewhere.
    Origin {
        /// LSN of its commit on the server it came from.
        commit_lsn: Lsn,
        /// Name of the replication origin.
        name: String,
    },
    /// `R`: describes a table before its first row, and again after its definition changed.
    Relation(Relation),
    /// `Y`: names a type that is not built in, before a Relation that uses it.
    Type {
        /// OID in `pg_type`.
        type_oid: u32,
        /// Its schema.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// `I`: a row was inserted.
    Insert {
        /// OID of the table; its Relation came before.
        relation_oid: u32,
        /// The row.
        new: Tuple,
    },
    /// `U`: a row was updated.
    Update {
        /// OID of the table.
        relation_oid: u32,
        /// The row before, as far as it is known; absent when no column of the replica identity changed.
        old: Option<OldTuple>,
        /// The row after.
        new: Tuple,
    },
    /// `D`: a row was deleted.
    Delete {
        /// OID of the table.
        relation_oid: u32,
        /// The row, as far as it is known.
        old: OldTuple,
    },
    /// `T`: tables were truncated.
    Truncate {
        /// OIDs of the tables.
        relation_oids: Vec<u32>,
        /// TRUNCATE ... CASCADE.
        cascade: bool,
        /// TRUNCATE ... RESTART IDENTITY.
        restart_identity: bool,
    },
}

/// A table as a Relation message describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    /// OID in `pg_class`; what Insert and the others refer to.
    pub oid: u32,
    /// Schema.
    pub namespace: String,
    /// Table.
    pub name: String,
    /// Which columns identify a row in UPDATE and DELETE.
    pub replica_identity: ReplicaIdentity,
    /// Published columns, in the order of the values of a [`Tuple`]. Dropped and generated ones are not among them.
    pub columns: Vec<RelationColumn>,
}

/// `pg_class.relreplident`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaIdentity {
    /// `d`: the primary key, if there is one.
    Default,
    /// `n`: nothing.
    Nothing,
    /// `f`: all columns.
    Full,
    /// `i`: the columns of a chosen index.
    Index,
}

/// A column of a [`Relation`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelationColumn {
    /// Part of the replica identity.
    pub key: bool,
    /// Name, unquoted.
    pub name: String,
    /// OID in `pg_type`.
    pub type_oid: u32,
    /// `pg_attribute.atttypmod`; -1 for none.
    pub type_modifier: i32,
}

/// The values of a row, one a column of its [`Relation`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tuple(pub Vec<Value>);

impl Tuple {
    /// The values as text; `None` when one is neither text nor NULL. An Insert of a connection that did not ask for
    /// binary always has text: only an Update leaves unchanged values out.
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
    /// `u`: a large value kept out of line that the UPDATE did not touch, so that WAL does not have it.
    Unchanged,
    /// `t`: what the type's output function gives, in the client's encoding.
    Text(Bytes),
    /// `b`: what the type's send function gives; only when the option `binary` was asked for.
    Binary(Bytes),
}

/// The row before an UPDATE or DELETE, as far as it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OldTuple {
    /// `K`: the columns of the replica identity; all others are NULL.
    Key(Tuple),
    /// `O`: the whole row (REPLICA IDENTITY FULL).
    Full(Tuple),
}

/// The bytes are not a pgoutput message of protocol version 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("pgoutput {message}: expected {expected} at byte {offset}, found {found}")]
pub struct DecodeError {
    /// Kind of message, for instance `Insert message`; just `message` when it was not recognised.
    pub message: &'static str,
    /// Place in the message, in bytes from its first one.
    pub offset: usize,
    /// Expected piece.
    pub expected: &'static str,
    /// Piece that was found.
    pub found: Found,
}

/// Piece that a [`DecodeError`] met in place of the expected one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Found {
    /// The message ends too early, with so many bytes left.
    #[error("only {0} more bytes")]
    Remaining(usize),
    /// The message goes on for so many bytes.
    #[error("{0} more bytes")]
    Trailing(usize),
    /// A tag or a flag that has no meaning here.
    #[error("{0:#04x}")]
    Byte(u8),
    /// Text that is not UTF-8.
    #[error("bytes that are not UTF-8")]
    NotUtf8,
    /// A number that cannot be.
    #[error("{0}")]
    Number(i64),
}

/// Microseconds from 1970-01-01 to 2000-01-01, where PostgreSQL's clock starts (`datatype/timestamp.h`).
const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;

/// Decodes one message: the payload of one XLogData.
///
/// # Errors
/// Bytes that are no whole message of protocol version 1, or more than one.
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
        // A column takes 10 bytes at the least: one of flags, the name's terminating zero, OID and modifier.
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

/// The pieces of a message.
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

    /// Microseconds since 2000, if they can be counted from 1970, too.
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

    /// A byte that may have the bits of `mask` and no others: version 1 has no more flags, so another bit means that this
    /// is not what it seems to be.
    fn flags(&mut self, expected: &'static str, mask: u8) -> Result<u8, DecodeError> {
        match self.u8(expected)? {
            flags if flags & !mask == 0 => Ok(flags),
            other => Err(self.error(self.at - 1, expected, Found::Byte(other))),
        }
    }

    /// Text up to its terminating zero.
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

    /// A schema, for which the server sends nothing when it is `pg_catalog`.
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

    /// A 16-bit count and that many items of `size_min` bytes at the least: memory is taken for no more of them than the
    /// message has room for.
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
