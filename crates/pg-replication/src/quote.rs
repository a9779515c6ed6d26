//! Quoting of names and values in commands, statements and connection strings, where parameters are not possible.

/// Returns a quoted identifier (manual, "Identifiers and Key Words").
pub fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Returns a quoted string. One with a backslash becomes an `E''` string, which means the same under either
/// `standard_conforming_strings` (manual, "String Constants").
pub fn literal(value: &str) -> String {
    let quoted = value.replace('\'', "''");
    if quoted.contains('\\') { format!("E'{}'", quoted.replace('\\', r"\\")) } else { format!("'{quoted}'") }
}

/// Returns a value for a key=value pair of a connection string, quoted if necessary.
pub fn option_value(value: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    match !value.is_empty() && value.bytes().all(plain) {
        true => value.to_owned(),
        false => format!("'{}'", value.replace('\\', r"\\").replace('\'', r"\'")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_are_doubled_and_backslashes_kept() {
        assert_eq!(identifier("Aus\"gang"), "\"Aus\"\"gang\"");
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal(r"a\'; DROP"), r"E'a\\''; DROP'");
    }
}
