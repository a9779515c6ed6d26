//! Parser of the two syntaxes of a connection string (manual, "Connection Strings"): text in, a list of options out.
//!
//! `options` and `endpoint` know what an option means. Errors repeat no part of the text except an option's name,
//! because any other part of a mistyped connection string may belong to a password.

use percent_encoding::percent_decode_str;
use std::collections::BTreeMap;

use super::endpoint_error::EndpointError;

/// Options by name. The last of several with one name wins, as in libpq.
pub(crate) type Options = BTreeMap<String, String>;

/// Options whose values logs show. A value of these that holds `=` is refused, because it may contain another option.
const SHOWN: [&str; 5] = ["host", "hostaddr", "port", "dbname", "user"];

/// Reads a URL or key=value pairs.
pub(crate) fn parse(text: &str) -> Result<Options, EndpointError> {
    let text = text.trim();
    for scheme in ["postgresql://", "postgres://"] {
        if let Some(rest) = text.strip_prefix(scheme) {
            return parse_url(rest);
        }
    }
    let head = text.split(['=', '\'', '@']).next().unwrap_or_default();
    if head.contains("://") {
        return Err(EndpointError::Syntax("a URL must begin with postgresql:// or postgres://"));
    }
    parse_pairs(text)
}

fn parse_url(rest: &str) -> Result<Options, EndpointError> {
    let end = rest.len();
    let (at, slash, question) =
        (rest.find('@'), rest.find('/').unwrap_or(end), rest.find('?').unwrap_or(end));
    // An '@' after both the first '/' and the first '?' belongs to an option's value, not to user:password@.
    let (credentials, rest) = match at {
        Some(at) if at < slash || at < question => (&rest[..at], &rest[at + 1..]),
        _ => ("", rest),
    };
    let (head, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (hosts, database) = head.split_once('/').unwrap_or((head, ""));
    if hosts.contains('@') {
        return Err(EndpointError::Syntax(
            "there are two '@' before the path: write an '@' of user or password as %40",
        ));
    }
    // Logs show the database's name, so it must not hold another URL.
    if database.contains(['/', '@', ',']) {
        return Err(EndpointError::Syntax(
            "the path holds a '/', ',' or '@': give one URL (it may list several hosts: host1,host2/database), and write these \
             characters of user, password or database as %2F, %2C and %40",
        ));
    }
    let mut options = Options::new();
    let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
    for (name, value) in [("user", user), ("password", password), ("dbname", database)] {
        if !value.is_empty() {
            options.insert(name.to_owned(), decoded(name, value)?);
        }
    }
    options.extend(hosts_and_ports(hosts)?);
    for option in query.split('&').filter(|option| !option.is_empty()) {
        let (name, value) =
            option.split_once('=').ok_or(EndpointError::Syntax("an option after '?' has no '='"))?;
        let (name, value) = (checked_name(name)?, decoded(name, value)?);
        // JDBC's spelling, which libpq accepts, too.
        match (name, value.as_str()) {
            ("ssl", "true") => options.insert("sslmode".to_owned(), "require".to_owned()),
            _ => options.insert(name.to_owned(), value),
        };
    }
    Ok(options)
}

/// `host:port,[address]:port` as the options `host` and `port`.
fn hosts_and_ports(text: &str) -> Result<Options, EndpointError> {
    let (mut hosts, mut ports) = (Vec::new(), Vec::new());
    for place in text.split(',').filter(|_| !text.is_empty()) {
        let (host, port) = match place.strip_prefix('[') {
            Some(rest) => match rest.split_once(']') {
                Some((host, "")) => (host, ""),
                Some((host, port)) => (
                    host,
                    port.strip_prefix(':')
                        .ok_or(EndpointError::Syntax("after ']' only a port may follow"))?,
                ),
                None => return Err(EndpointError::Syntax("a '[' before an IPv6 address has no ']'")),
            },
            None if place.matches(':').count() > 1 => {
                return Err(EndpointError::Syntax("an IPv6 address must stand in brackets: [::1]:5432"));
            }
            None => place.split_once(':').unwrap_or((place, "")),
        };
        hosts.push(decoded("host", host)?);
        ports.push(decoded("port", port)?);
    }
    let mut options = Options::new();
    for (name, values) in [("host", hosts), ("port", ports)] {
        if values.iter().any(|value| !value.is_empty()) {
            options.insert(name.to_owned(), values.join(","));
        }
    }
    Ok(options)
}

fn decoded(name: &str, text: &str) -> Result<String, EndpointError> {
    match percent_decode_str(text).decode_utf8() {
        Ok(value) if !value.contains('\0') => Ok(value.into_owned()),
        _ => Err(EndpointError::NotText(name.to_owned())),
    }
}

fn parse_pairs(text: &str) -> Result<Options, EndpointError> {
    let mut options = Options::new();
    let mut text = text.trim_start();
    while !text.is_empty() {
        let (name, after) = text.split_once('=').ok_or(EndpointError::Syntax(
            "expected option=value pairs, or a URL that begins with postgresql://",
        ))?;
        let name = checked_name(name.trim_end())?;
        let after = after.trim_start();
        let quoted = after.starts_with('\'');
        let (value, after) = value(after).ok_or_else(|| EndpointError::NoClosingQuote(name.to_owned()))?;
        if SHOWN.contains(&name) && !quoted && value.contains('=') {
            return Err(EndpointError::Syntax(
                "a host, port, database or user holds a '=': separate options by blanks, and quote a value that has one",
            ));
        }
        options.insert(name.to_owned(), value);
        text = after.trim_start();
    }
    Ok(options)
}

/// Reads one value, quoted or up to the next blank, and returns it with the rest. `None`: the closing quote is
/// missing.
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

/// Returns the name if it can be an option's name.
pub(crate) fn checked_name(name: &str) -> Result<&str, EndpointError> {
    let plausible =
        !name.is_empty() && name.len() <= 32 && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    if plausible {
        Ok(name)
    } else {
        Err(EndpointError::Syntax(
            "something that is not an option's name stands where one is expected: quote values that hold blanks, \
             and percent-encode special characters in URLs",
        ))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    use proptest::prelude::*;

    fn read(text: &str) -> Vec<(String, String)> {
        parse(text).unwrap_or_else(|error| panic!("{text}: {error}")).into_iter().collect()
    }

    fn options(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn urls_come_apart() {
        for (text, expected) in [
            (
                "postgresql://u:p%40w@h1:1,h2:2/d%20b?sslmode=verify-full&application_name=a%20b&sslrootcert=/ca%26.pem",
                options(&[
                    ("application_name", "a b"),
                    ("dbname", "d b"),
                    ("host", "h1,h2"),
                    ("password", "p@w"),
                    ("port", "1,2"),
                    ("sslmode", "verify-full"),
                    ("sslrootcert", "/ca&.pem"),
                    ("user", "u"),
                ]),
            ),
            ("postgres://", options(&[])),
            ("postgres://h1,h2:7", options(&[("host", "h1,h2"), ("port", ",7")])),
            ("postgres://[::1]:7,[fe80::1]", options(&[("host", "::1,fe80::1"), ("port", "7,")])),
            ("postgresql:///db?host=/run/pg", options(&[("dbname", "db"), ("host", "/run/pg")])),
            ("postgresql://%2Frun%2Fpg/db", options(&[("dbname", "db"), ("host", "/run/pg")])),
            ("postgresql://h?ssl=true", options(&[("host", "h"), ("sslmode", "require")])),
            // The last one wins.
            ("postgresql://a@h?user=b", options(&[("host", "h"), ("user", "b")])),
            // An '@' in an option is none before a host, and a password may hold '?' and '/'.
            (
                "postgresql://h/db?user=me@corp&sslcert=/a@b.pem",
                options(&[("dbname", "db"), ("host", "h"), ("sslcert", "/a@b.pem"), ("user", "me@corp")]),
            ),
            (
                "postgres://u:p?w@h/db",
                options(&[("dbname", "db"), ("host", "h"), ("password", "p?w"), ("user", "u")]),
            ),
            ("postgres://u:p/w@h", options(&[("host", "h"), ("password", "p/w"), ("user", "u")])),
        ] {
            assert_eq!(read(text), expected, "{text}");
        }
    }

    #[test]
    fn pairs_come_apart() {
        let text = r" host = h sslkey='/my key' password='a\'b\\c' sslcert=/x\ y  dbname='' ";
        let expected = [
            ("dbname", ""),
            ("host", "h"),
            ("password", r"a'b\c"),
            ("sslcert", "/x y"),
            ("sslkey", "/my key"),
        ];
        assert_eq!(read(text), options(&expected));
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
            "postgres://u:p@[seCret/db",
            "postgres://u:p@a:b:seCret/db",
            "postgres://u:%ffseCret@h/db",
            "jdbc:postgresql://h/db?password=seCret",
            "postgres://u:p@h1/db,postgres://u:seCret@h2/db",
            "postgres://u:p@h1/db,u:seCret@h2",
            "postgres://u:p@h1,postgres://u:seCret@h2/db",
            "postgres://u:p@ss/seCret@h/db",
            "host=h;password=seCret",
            "host=h dbname=db;password=seCret",
        ] {
            let error = parse(text).expect_err(text);
            assert!(!format!("{error} {error:?}").contains("Cret"), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "(postgres://)?[a-z:@/?&='\\\\ %,é\\[\\]]{0,40}") {
            let _ = parse(&text);
        }

        #[test]
        fn any_value_survives_in_both_syntaxes(value in "\\PC{1,20}") {
            let quoted = crate::quote::option_value(&value);
            prop_assert_eq!(&parse(&format!("host=h sslkey={quoted} user=u")).unwrap()["sslkey"], &value);
            let encoded = utf8_percent_encode(&value, NON_ALPHANUMERIC);
            prop_assert_eq!(&parse(&format!("postgres://u@h?a=b&sslkey={encoded}")).unwrap()["sslkey"], &value);
        }
    }
}
