//! Names as PostgreSQL and the configuration allow them.

use crate::message::LINE_BREAKS;
use crate::postgres::TableName;
use configuration::Complaint;

/// NAMEDATALEN - 1. PostgreSQL truncates longer names without an error.
const IDENTIFIER_BYTES_MAX: usize = 63;
const SOURCE_CHARS_MAX: usize = 40;

/// Checks the name of a section `[sources.NAME]`.
pub(super) fn source(name: &str) -> Result<(), Complaint> {
    let valid = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-');
    if (1..=SOURCE_CHARS_MAX).contains(&name.len()) && name.bytes().all(valid) {
        return Ok(());
    }
    let what = "is no valid source name".into();
    Err((what, format!("use 1 to {SOURCE_CHARS_MAX} of a-z, 0-9, _ and -")))
}

/// Checks the name of a replication slot (manual, "Replication Slots": lower-case letters, digits, underscore).
pub(super) fn slot(name: &str) -> Result<String, Complaint> {
    let valid = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_');
    if (1..=IDENTIFIER_BYTES_MAX).contains(&name.len()) && name.bytes().all(valid) {
        return Ok(name.to_owned());
    }
    let what = format!("\"{name}\" is no valid slot name");
    Err((what, format!("use 1 to {IDENTIFIER_BYTES_MAX} of a-z, 0-9 and _")))
}

/// Checks an identifier without quotes.
pub(super) fn identifier(name: &str) -> Result<String, Complaint> {
    if (1..=IDENTIFIER_BYTES_MAX).contains(&name.len()) && !name.contains('\0') {
        return Ok(name.to_owned());
    }
    let what = format!("\"{name}\" is no valid name");
    Err((what, format!("use 1 to {IDENTIFIER_BYTES_MAX} bytes")))
}

/// Problem and cure of an exchange's or queue's name that RabbitMQ would store in another form.
pub(super) fn altered_by_broker(name: &str) -> Option<(&'static str, &'static str)> {
    let what = "has a line break (LF or CR), which RabbitMQ removes from the names of exchanges and queues";
    name.contains(LINE_BREAKS).then_some((what, "remove the line break"))
}

/// Checks the form of a time zone (manual, "Time Zones"). Only the server knows which zones exist.
pub(super) fn time_zone(name: &str) -> Result<String, Complaint> {
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'/' | b'+' | b'-' | b':');
    if (1..=IDENTIFIER_BYTES_MAX).contains(&name.len()) && name.bytes().all(valid) {
        return Ok(name.to_owned());
    }
    let what = format!("\"{name}\" is no name of a time zone");
    Err((what, "write for instance \"America/New_York\" or \"UTC\"".to_owned()))
}

/// Parses `schema.table` or `table`. Parts in double quotes keep their case; others become lower case, as in SQL.
pub(super) fn table(text: &str) -> Result<TableName, Complaint> {
    let complaint = || {
        let cure = "write schema.table, with double quotes around a part that needs them in SQL";
        (format!("'{text}' is no table name"), cure.to_owned())
    };
    let (first, rest) = part(text).ok_or_else(complaint)?;
    let parts = match rest.strip_prefix('.') {
        None if rest.is_empty() => Some(("public".to_owned(), first)),
        None => None,
        Some(rest) => part(rest).filter(|(_, rest)| rest.is_empty()).map(|(second, _)| (first, second)),
    };
    let (schema, table) = parts.ok_or_else(complaint)?;
    Ok(TableName { schema: identifier(&schema)?, table: identifier(&table)? })
}

/// The identifier at the start of `text`, and the rest.
fn part(text: &str) -> Option<(String, &str)> {
    if let Some(mut rest) = text.strip_prefix('"') {
        let mut name = String::new();
        loop {
            let (before, after) = rest.split_once('"')?;
            name.push_str(before);
            match after.strip_prefix('"') {
                Some(after) => {
                    name.push('"');
                    rest = after;
                }
                None => return Some((name, after)),
            }
        }
    }
    let in_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '$') || !c.is_ascii();
    let end = text.find(|c| !in_name(c)).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let bad_start = name.starts_with(|c: char| c.is_ascii_digit() || c == '$');
    (!name.is_empty() && !bad_start).then(|| (name.to_ascii_lowercase(), rest))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn tables_are_written_as_in_sql() {
        for (text, schema, name) in [
            ("outbox", "public", "outbox"),
            ("Sales.Outbox", "sales", "outbox"),
            ("\"Sales\".\"out.box\"", "Sales", "out.box"),
            ("s.\"a\"\"b\"", "s", "a\"b"),
            ("\"x\"", "public", "x"),
            ("größe.t$1", "größe", "t$1"),
        ] {
            assert_eq!(
                table(text).unwrap(),
                TableName { schema: schema.into(), table: name.into() },
                "{text}"
            );
        }
        let long = "x".repeat(64);
        for bad in ["", ".", "a.", ".a", "a.b.c", "a b", "1a", "a-b", "\"a", "\"\"", "\"a\"b", "a;", &long] {
            assert!(table(bad).is_err(), "{bad} must not pass");
        }
    }

    #[test]
    fn names_have_their_alphabet_and_length() {
        assert!(source("order-service_2").is_ok() && source(&"a".repeat(40)).is_ok());
        for bad in ["", "Orders", "a.b", "ä", &"a".repeat(41)] {
            assert!(source(bad).is_err(), "{bad}");
        }
        assert!(slot("outboxd_orders").is_ok() && slot(&"a".repeat(63)).is_ok());
        for bad in ["", "a-b", "A", &"a".repeat(64)] {
            assert!(slot(bad).is_err(), "{bad}");
        }
        assert!(identifier("Any \"thing\"").is_ok() && identifier(&"é".repeat(32)).is_err());
    }
}
