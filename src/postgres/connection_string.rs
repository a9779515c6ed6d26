//! Takes out of a connection string what `tokio_postgres::Config` does not know, or reads in another unit than libpq.
//!
//! Knows the two syntaxes (manual, "Connection Strings"). What an option means is `endpoint`'s and `tls`'s business.
//! No error repeats a piece of the text other than something that looks like an option's name: any piece of a
//! mistyped connection string may be part of a password.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use std::collections::BTreeMap;

use super::endpoint::EndpointError;

/// Taken out, because `Config` does not know them (`ssl*`), names one differently (`keepalives_count`), cannot say
/// whether it was given (`keepalives_idle`), or reads seconds where libpq means milliseconds (`tcp_user_timeout`).
const TAKEN: [&str; 7] = [
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "keepalives_idle",
    "keepalives_count",
    "tcp_user_timeout",
];

/// A connection string in two parts.
#[derive(Debug)]
pub(super) struct Split {
    /// For `Config`.
    pub(super) rest: String,
    /// The options of `TAKEN` that were given; the last one wins, as in libpq.
    pub(super) taken: BTreeMap<String, String>,
}

/// Splits `text`, URL or key=value.
pub(super) fn split(text: &str) -> Result<Split, EndpointError> {
    let text = text.trim();
    for scheme in ["postgresql://", "postgres://"] {
        if let Some(rest) = text.strip_prefix(scheme) {
            return split_url(scheme, rest);
        }
    }
    let head = text.split(['=', '\'', '@']).next().unwrap_or_default();
    if head.contains("://") {
        return Err(EndpointError::Syntax("a URL must begin with postgresql:// or postgres://".to_owned()));
    }
    split_pairs(text)
}

fn split_url(scheme: &str, rest: &str) -> Result<Split, EndpointError> {
    let end = rest.len();
    let (at, slash, question) =
        (rest.find('@'), rest.find('/').unwrap_or(end), rest.find('?').unwrap_or(end));
    // An '@' behind both the first '/' and the first '?' belongs to an option's value, not to user:password@.
    let authority = match at {
        Some(at) if at < slash || at < question => at + 1,
        _ => 0,
    };
    let (head, query) = match rest[authority..].split_once('?') {
        Some((head, query)) => (&rest[..authority + head.len()], query),
        None => (rest, ""),
    };
    if head[authority..].split('/').next().is_some_and(|hosts| hosts.contains('@')) {
        return Err(EndpointError::Syntax(
            "there are two '@' before the path: write an '@' of user or password as %40".to_owned(),
        ));
    }
    let mut kept = Vec::new();
    let mut taken = BTreeMap::new();
    for option in query.split('&').filter(|option| !option.is_empty()) {
        let (name, value) = option
            .split_once('=')
            .ok_or_else(|| EndpointError::Syntax("an option after '?' has no '='".to_owned()))?;
        let name = checked_name(name)?;
        let value = percent_decode_str(value)
            .decode_utf8()
            .map_err(|_| EndpointError::Syntax(format!("the value of {name} is not UTF-8")))?;
        if TAKEN.contains(&name) {
            taken.insert(name.to_owned(), value.into_owned());
        } else {
            // Encoded again: Config looks for user:password@ up to the first '@' of the whole URL.
            const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b',').remove(b'-').remove(b'_').remove(b'.');
            kept.push(format!("{name}={}", utf8_percent_encode(&value, KEPT)));
        }
    }
    let separator = if kept.is_empty() { "" } else { "?" };
    Ok(Split { rest: format!("{scheme}{head}{separator}{}", kept.join("&")), taken })
}

fn split_pairs(text: &str) -> Result<Split, EndpointError> {
    let mut rest = String::new();
    let mut taken = BTreeMap::new();
    let mut text = text.trim_start();
    while !text.is_empty() {
        let (name, after) = text.split_once('=').ok_or_else(|| {
            EndpointError::Syntax(
                "expected option=value pairs, or a URL that begins with postgresql://".to_owned(),
            )
        })?;
        let name = checked_name(name.trim_end())?;
        let (value, after) = value(after.trim_start())
            .ok_or_else(|| EndpointError::Syntax(format!("the value of {name} has no closing quote")))?;
        if TAKEN.contains(&name) {
            taken.insert(name.to_owned(), value);
        } else {
            rest.push_str(name);
            rest.push_str("='");
            rest.push_str(&value.replace('\\', r"\\").replace('\'', r"\'"));
            rest.push_str("' ");
        }
        text = after.trim_start();
    }
    Ok(Split { rest, taken })
}

/// One value, quoted or up to the next blank, and what follows it. `None`: the quote is not closed.
fn value(text: &str) -> Option<(String, &str)> {
    let (text, quoted) = match text.strip_prefix('\'') {
        Some(text) => (text, true),
        None => (text, false),
    };
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((index, char)) = chars.next() {
        match char {
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            '\'' if quoted => return Some((value, &text[index + 1..])),
            blank if !quoted && blank.is_whitespace() => return Some((value, &text[index..])),
            other => value.push(other),
        }
    }
    (!quoted).then_some((value, ""))
}

fn checked_name(name: &str) -> Result<&str, EndpointError> {
    let plausible =
        !name.is_empty() && name.len() <= 32 && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    if plausible {
        Ok(name)
    } else {
        Err(EndpointError::Syntax(
            "something that is not an option's name stands where one is expected: quote values that hold blanks, \
             and percent-encode special characters in URLs"
                .to_owned(),
        ))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use proptest::prelude::*;

    fn taken(text: &str, name: &str) -> Option<String> {
        split(text).unwrap().taken.get(name).cloned()
    }

    #[test]
    fn takes_its_options_out_of_a_url_and_leaves_the_rest() {
        let split =
            split("postgresql://u:p%40w@h1:1,h2:2/db?sslmode=verify-full&application_name=a%20b&sslrootcert=/ca%26.pem")
                .unwrap();
        assert_eq!(split.rest, "postgresql://u:p%40w@h1:1,h2:2/db?application_name=a%20b");
        assert_eq!(split.taken["sslmode"], "verify-full");
        assert_eq!(split.taken["sslrootcert"], "/ca&.pem");
    }

    #[test]
    fn an_at_sign_in_an_option_is_not_taken_for_credentials() {
        let split = split("postgresql://h/db?user=me@corp&sslcert=/a@b.pem").unwrap();
        assert_eq!(split.taken["sslcert"], "/a@b.pem");
        let config: tokio_postgres::Config = split.rest.parse().unwrap();
        assert_eq!(config.get_user(), Some("me@corp"));
        assert_eq!(config.get_dbname(), Some("db"));
    }

    #[test]
    fn a_password_may_hold_a_question_mark_or_a_slash() {
        for text in ["postgres://u:p?w@h/db?sslmode=require", "postgres://u:p/w@h/db?sslmode=require"] {
            assert_eq!(taken(text, "sslmode").as_deref(), Some("require"), "{text}");
        }
    }

    #[test]
    fn takes_its_options_out_of_pairs_and_leaves_the_rest() {
        let split =
            split(r" host = h sslkey='/my key' password='a\'b\\c' sslcert=/x\ y  dbname='' ").unwrap();
        assert_eq!(split.taken["sslkey"], "/my key");
        assert_eq!(split.taken["sslcert"], "/x y");
        let config: tokio_postgres::Config = split.rest.parse().unwrap();
        assert_eq!(config.get_password(), Some(br"a'b\c".as_slice()));
        assert_eq!(config.get_dbname(), Some(""));
    }

    #[test]
    fn errors_do_not_repeat_what_may_be_a_password() {
        for text in [
            "host=h password=se Cret=x",
            "host=h password=se Cret",
            "host=h password='seCret",
            "postgres://u:se@Cret@h/db",
            "mysql://u:seCret@h/db",
            "postgres://u:p@h/db?seCret",
            "postgres://u:p@h/db?seCret=1",
            "jdbc:postgresql://h/db?password=seCret",
        ] {
            let error = split(text).expect_err(text);
            assert!(!format!("{error} {error:?}").contains("Cret"), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "(postgres://)?[a-z:@/?&='\\\\ %,é]{0,40}") {
            let _ = split(&text);
        }

        #[test]
        fn any_value_survives_in_both_syntaxes(value in "\\PC{1,20}") {
            let quoted = value.replace('\\', r"\\").replace('\'', r"\'");
            prop_assert_eq!(taken(&format!("host=h sslkey='{quoted}' user=u"), "sslkey"), Some(value.clone()));
            let encoded = utf8_percent_encode(&value, NON_ALPHANUMERIC);
            prop_assert_eq!(taken(&format!("postgres://u@h?a=b&sslkey={encoded}"), "sslkey"), Some(value));
        }
    }
}
