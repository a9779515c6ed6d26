//! Options of libpq 18 (manual, "Parameter Key Words"): honoured, without effect here, or refused.
//!
//! An option is refused if it asks for protection that this client does not give, or for a session that cannot work.
//! An unknown option is an error. `endpoint` and `tls` read the values.

use super::{
    connection_string::Options,
    endpoint_error::EndpointError,
    login_methods::{self, LoginMethods},
};
use diagnostics::nearest;

/// Options with free values, which `endpoint` and `tls` read.
const HONOURED: [&str; 24] = [
    "application_name",
    "connect_timeout",
    "dbname",
    "host",
    "hostaddr",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "options",
    "passfile",
    "password",
    "port",
    "require_auth",
    "service",
    "servicefile",
    "sslcert",
    "sslkey",
    "sslrootcert",
    "tcp_user_timeout",
    "user",
    // The caller supplies a default for application_name.
    "fallback_application_name",
    // Options of GSSAPI, which is not supported and never used.
    "gssdelegation",
    "gsslib",
    "krbsrvname",
];

/// Options with a fixed set of values: name, allowed values, and their description in an error.
const WORDS: [(&str, &[&str], &str); 17] = [
    (
        "sslmode",
        &["disable", "allow", "prefer", "require", "verify-ca", "verify-full"],
        "disable, allow, prefer, require, verify-ca or verify-full",
    ),
    ("sslnegotiation", &["postgres", "direct"], "postgres or direct"),
    // TLS compression is never used, in libpq neither.
    ("sslcompression", &["0", "1"], "0 or 1"),
    ("sslsni", &["0", "1"], "0 or 1"),
    (
        "sslcertmode",
        &["disable", "allow"],
        "disable or allow: this client does not see whether the server asks for a certificate; require it with \
         clientcert=verify-full in pg_hba.conf",
    ),
    (
        "ssl_min_protocol_version",
        &["TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"],
        "TLSv1, TLSv1.1, TLSv1.2 (the lowest version that is used) or TLSv1.3",
    ),
    (
        "ssl_max_protocol_version",
        &["TLSv1.2", "TLSv1.3"],
        "TLSv1.2 or TLSv1.3: older versions are not supported",
    ),
    (
        "gssencmode",
        &["disable", "prefer"],
        "disable or prefer: GSSAPI encryption is not supported, use TLS (sslmode=verify-full)",
    ),
    ("channel_binding", &["disable", "prefer", "require"], "disable, prefer or require"),
    (
        "target_session_attrs",
        &["any", "read-write", "primary"],
        "any, read-write or primary: slots are read on the primary, which the other values avoid",
    ),
    ("load_balance_hosts", &["disable", "random"], "disable or random"),
    ("keepalives", &["0", "1"], "0 or 1"),
    (
        "client_encoding",
        &["UTF8", "UTF-8", "UNICODE", "auto"],
        "UTF8 or auto: the client uses UTF-8, whatever the database's encoding",
    ),
    ("replication", &["false", "off", "no", "0"], "left out: the client sets it for each connection itself"),
    ("min_protocol_version", &["3.0"], "3.0, the version that the client uses"),
    ("max_protocol_version", &["3.0", "3.2", "latest"], "3.0, 3.2 or latest"),
    // Removed from libpq in version 14 in favour of sslmode.
    ("requiressl", &["0"], "left out: write sslmode=require"),
];

/// Unsupported options, each with the alternative.
const REFUSED: [(&str, &str); 11] = [
    ("sslkeylogfile", "TLS keys are never written to a file: leave it out"),
    ("sslpassword", "encrypted private keys are not supported: set sslkey to a key without a passphrase"),
    ("sslcrl", REVOCATION),
    ("sslcrldir", REVOCATION),
    (
        "requirepeer",
        "the owner of a Unix socket is not checked: leave it out, and give only the server's user write access to the \
         socket's directory",
    ),
    ("scram_client_key", SCRAM_KEYS),
    ("scram_server_key", SCRAM_KEYS),
    ("oauth_issuer", OAUTH),
    ("oauth_client_id", OAUTH),
    ("oauth_client_secret", OAUTH),
    ("oauth_scope", OAUTH),
];

const REVOCATION: &str = "certificate revocation lists are not supported: leave it out, or remove the revoked authority from sslrootcert";
const SCRAM_KEYS: &str = "SCRAM keys are not supported: set password or passfile";
const OAUTH: &str = "OAuth is not supported: use scram-sha-256 or cert in pg_hba.conf";

/// Removes empty options, which count as not given, and refuses unsupported options and invalid values.
pub(crate) fn checked(options: Options) -> Result<Options, EndpointError> {
    let options: Options = options.into_iter().filter(|(_, value)| !value.is_empty()).collect();
    for (option, value) in &options {
        if HONOURED.contains(&option.as_str()) {
            continue;
        }
        if let Some((option, words, expected)) = WORDS.iter().find(|(known, ..)| known == option) {
            // As in libpq: encodings and TLS versions ignore case, all other values do not.
            let any_case = option.ends_with("protocol_version") || *option == "client_encoding";
            let is = |word: &&str| *word == value || any_case && word.eq_ignore_ascii_case(value);
            if !words.iter().any(is) {
                return Err(EndpointError::Value { option, expected });
            }
        } else if let Some((option, instead)) = REFUSED.iter().find(|(known, _)| known == option) {
            return Err(EndpointError::Refused { option, instead });
        } else {
            let known = HONOURED.into_iter().chain(WORDS.iter().map(|(known, ..)| *known));
            let meant = nearest(option, known).map(str::to_owned);
            return Err(EndpointError::Unknown { option: option.clone(), meant });
        }
    }
    Ok(options)
}

/// Reads the accepted login methods from `require_auth`.
pub(crate) fn login_methods(options: &Options) -> Result<LoginMethods, EndpointError> {
    let Some(text) = options.get("require_auth") else { return Ok(LoginMethods::default()) };
    LoginMethods::parse(text)
        .ok_or(EndpointError::Value { option: "require_auth", expected: login_methods::EXPECTED })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn check(option: &str, value: &str) -> Result<Options, String> {
        let options = Options::from([(option.to_owned(), value.to_owned())]);
        checked(options).map_err(|error| error.to_string())
    }

    #[test]
    fn every_option_of_libpq_is_known() {
        // `PQconninfoOptions` of version 18.
        for option in "service user password passfile channel_binding connect_timeout dbname host hostaddr port \
             client_encoding options application_name fallback_application_name keepalives keepalives_idle \
             keepalives_interval keepalives_count tcp_user_timeout sslmode sslnegotiation sslcompression sslcert sslkey \
             sslcertmode sslpassword sslrootcert sslcrl sslcrldir sslsni requirepeer require_auth min_protocol_version \
             max_protocol_version ssl_min_protocol_version ssl_max_protocol_version gssencmode krbsrvname gsslib \
             gssdelegation replication target_session_attrs load_balance_hosts scram_client_key scram_server_key \
             oauth_issuer oauth_client_id oauth_client_secret oauth_scope sslkeylogfile"
            .split_whitespace()
        {
            assert_eq!(check(option, "").unwrap(), Options::new(), "{option} without a value");
            if let Err(error) = check(option, "s3cret") {
                assert!(error.contains(option) && !error.contains("s3cret"), "{option}: {error}");
                assert!(!error.contains("unknown"), "{option}: {error}");
            }
        }
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_by_name_with_what_is_allowed() {
        for (option, value, expected) in [
            ("target_session_attrs", "standby", "any, read-write or primary"),
            ("target_session_attrs", "prefer-standby", "any, read-write or primary"),
            ("gssencmode", "require", "disable or prefer"),
            ("client_encoding", "latin1", "UTF8 or auto"),
            ("ssl_max_protocol_version", "TLSv1.1", "TLSv1.2 or TLSv1.3"),
            ("sslcertmode", "require", "disable or allow"),
            ("sslmode", "verify", "disable, allow, prefer, require, verify-ca or verify-full"),
            ("replication", "database", "left out"),
            ("sslcrl", "/crl", "leave it out"),
            ("sslpassword", "x", "without a passphrase"),
            ("requirepeer", "postgres", "leave it out"),
            ("oauth_issuer", "https://x", "scram-sha-256"),
            ("keepalives_retries", "3", "did you mean keepalives_"),
            ("colour", "red", "unknown option colour"),
        ] {
            let error = check(option, value).unwrap_err();
            assert!(error.contains(option) && error.contains(expected), "{option}={value}: {error}");
        }
    }

    #[test]
    fn what_is_harmless_or_honoured_passes() {
        for (option, value) in [
            ("sslmode", "allow"),
            ("gssencmode", "prefer"),
            ("client_encoding", "utf8"),
            ("client_encoding", "auto"),
            ("target_session_attrs", "primary"),
            ("ssl_min_protocol_version", "tlsv1.3"),
            ("sslsni", "0"),
            ("krbsrvname", "postgres"),
            ("max_protocol_version", "latest"),
            ("replication", "false"),
        ] {
            assert!(check(option, value).is_ok(), "{option}={value}");
        }
    }
}
