//! Names and values in the text of a command or statement, where a parameter cannot stand.

/// A quoted identifier (manual, "Identifiers and Key Words").
pub fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A quoted string; with a backslash in it an `E''` one, which means the same under either
/// `standard_conforming_strings` (manual, "String Constants").
pub fn literal(value: &str) -> String {
    let quoted = value.replace('\'', "''");
    if quoted.contains('\\') { format!("E'{}'", quoted.replace('\\', r"\\")) } else { format!("'{quoted}'") }
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
