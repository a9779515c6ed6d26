//! Quoting of words in commands that an operator copies into a POSIX shell.

/// Returns a word for a POSIX shell, in single quotes if necessary.
pub fn quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./:@%+,".contains(&byte);
    match !word.is_empty() && word.bytes().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_shell_would_read_is_quoted() {
        for (word, expected) in [
            ("orders_1.events", "orders_1.events"),
            ("", "''"),
            ("two words", "'two words'"),
            ("$(id) `id` \"\\!", "'$(id) `id` \"\\!'"),
            ("it's", r"'it'\''s'"),
        ] {
            assert_eq!(quoted(word), expected);
        }
    }
}
