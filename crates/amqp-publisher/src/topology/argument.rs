//! Optional arguments of exchanges and queues, with their AMQP types.

use std::{fmt, io};

use amq_protocol::types::{AMQPValue, FieldArray, FieldTable};

use crate::short_string::short;

/// Value of an optional argument.
///
/// RabbitMQ compares integers by value, whatever their width, but a list or table also by the types of its members
/// (`rabbit_misc:assert_args_equivalence`).
#[derive(Clone, Debug, PartialEq)]
pub enum Argument {
    /// AMQP long string.
    Text(String),
    /// AMQP boolean.
    Boolean(bool),
    /// AMQP signed 64-bit integer.
    Integer(i64),
    /// AMQP double.
    Double(f64),
    /// AMQP array.
    List(Vec<Argument>),
    /// AMQP table, in the order of its names.
    Table(Vec<(String, Argument)>),
}

/// Returns the arguments as an AMQP table.
pub(crate) fn table(arguments: &[(String, Argument)]) -> io::Result<FieldTable> {
    let mut table = FieldTable::default();
    for (name, value) in arguments {
        table.insert(short(name)?, value.field()?);
    }
    Ok(table)
}

impl Argument {
    fn field(&self) -> io::Result<AMQPValue> {
        Ok(match self {
            Self::Text(text) => AMQPValue::LongString(text.as_str().into()),
            Self::Boolean(boolean) => AMQPValue::Boolean(*boolean),
            Self::Integer(integer) => AMQPValue::LongLongInt(*integer),
            Self::Double(double) => AMQPValue::Double(*double),
            Self::List(items) => {
                let mut array = FieldArray::default();
                for item in items {
                    array.push(item.field()?);
                }
                AMQPValue::FieldArray(array)
            }
            Self::Table(members) => AMQPValue::FieldTable(table(members)?),
        })
    }
}

impl fmt::Display for Argument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) if text.is_empty() => write!(f, "\"\""),
            Self::Text(text) => f.write_str(text),
            Self::Boolean(boolean) => write!(f, "{boolean}"),
            Self::Integer(integer) => write!(f, "{integer}"),
            Self::Double(double) => write!(f, "{double}"),
            Self::List(items) => {
                f.write_str("[")?;
                for (index, item) in items.iter().enumerate() {
                    write!(f, "{}{item}", if index == 0 { "" } else { ", " })?;
                }
                f.write_str("]")
            }
            Self::Table(members) => {
                f.write_str("{")?;
                for (index, (name, value)) in members.iter().enumerate() {
                    write!(f, "{}{name}={value}", if index == 0 { "" } else { ", " })?;
                }
                f.write_str("}")
            }
        }
    }
}
