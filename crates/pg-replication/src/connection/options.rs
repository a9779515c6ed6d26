//! The options of libpq 18 (manual, "Parameter Key Words"): which are honoured, which cannot matter here, and which are refused.
//!
//! Refused is what asks for protection that this client does not give, or for a session in which it cannot work. No option is
//! passed over in silence because it is unknown. Values are read by `endpoint` and `tls`.

use super::{
    connection_string::Options,
    endpoint_error::EndpointError,
    login_methods::{self, LoginMethods},
};
use diagnostics::nearest;

/// Options whose values are free, and read elsewhere.
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
    // The caller gives a name for where application_name is missing.
    "fallback_application_name",
    // There is no GSSAPI, so nobody reads these.
    "gssdelegation",
    "gsslib",
    "krbsrvname",
];

/// Options with a few values, those that are allowed, and what to say of others.
const WORDS: [(&str, &[&str], &str); 17] = [
    (
        "sslmode",
        &["disable", "allow", "prefer", "require", "verify-ca", "verify-full"],
        "disable, allow, prefer, require, verify-ca or verify-full",
    ),
    ("sslnegotiation", &["postgres", "direct"], "postgres or direct"),
    // TLS without compression is all that libpq does, too, whatever this says.
    ("sslcompression", &["0", "1"], "0 or 1"),
    ("sslsni", &["0", "1"], "0 or 1"),
    (
        "sslcertmode",
        &["disable", "allow"],
        "disable or allow: this client does not see whether the server asked for a certificate; have pg_hba.conf ask with \
         clientcert=verify-full",
    ),
    (
        "ssl_min_protocol_version",
        &["TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"],
        "TLSv1, TLSv1.1, TLSv1.2 (the lowest that is spoken) or TLSv1.3",
    ),
    ("ssl_max_protocol_version", &["TLSv1.2", "TLSv1.3"], "TLSv1.2 or TLSv1.3: no older version is spoken"),
    (
        "gssencmode",
        &["disable", "prefer"],
        "disable or prefer: there is no GSSAPI encryption, use TLS (sslmode=verify-full)",
    ),
    ("channel_binding", &["disable", "prefer", "require"], "disable, prefer or require"),
    (
        "target_session_attrs",
        &["any", "read-write", "primary"],
        "any, read-write or primary: slots are read on the primary, which read-only, standby and prefer-standby lead away from",
    ),
    ("load_balance_hosts", &["disable", "random"], "disable or random"),
    ("keepalives", &["0", "1"], "0 or 1"),
    (
        "client_encoding",
        &["UTF8", "UTF-8", "UNICODE", "auto"],
        "UTF8 or auto: UTF-8 is read and sent, whatever the database's encoding is",
    ),
    (
        "replication",
        &["false", "off", "no", "0"],
        "left out: ordinary and replication connections are opened as they are needed",
    ),
    ("min_protocol_version", &["3.0"], "3.0, the version that is spoken"),
    ("max_protocol_version", &["3.0", "3.2", "latest"], "3.0, 3.2 or latest"),
    // Removed from libpq in 14; it meant sslmode.
    ("requiressl", &["0"], "left out: write sslmode=require"),
];

/// Options that ask for what this client does not do, and what to do instead.
const REFUSED: [(&str, &str); 11] = [
    ("sslkeylogfile", "TLS keys are written to no file: leave it out"),
    ("sslpassword", "encrypted keys are not read: give sslkey a key without a passphrase"),
    (
        "sslcrl",
        "revocation lists are not read: leave it out, or take the revoked authority out of sslrootcert",
    ),
    (
        "sslcrldir",
        "revocation lists are not read: leave it out, or take the revoked authority out of sslrootcert",
    ),
    (
        "requirepeer",
        "nobody asks who runs the server of a Unix socket: leave it out, and let only the server's user write to the \
         socket's directory",
    ),
    ("scram_client_key", "the login takes a password: give password or passfile"),
    ("scram_server_key", "the login takes a password: give password or passfile"),
    ("oauth_issuer", OAUTH),
    ("oauth_client_id", OAUTH),
    ("oauth_client_secret", OAUTH),
    ("oauth_scope", OAUTH),
];

const OAUTH: &str = "OAuth is not spoken: use scram-sha-256 or cert in pg_hba.conf";

/// Takes out what is empty, which is as if it were not given, and refuses what cannot be honoured.
pub(crate) fn checked(options: Options) -> Result<Options, EndpointError> {
    let options: Options = options.into_iter().filter(|(_, value)| !value.is_empty()).collect();
    for (option, value) in &options {
        if HONOURED.contains(&option.as_str()) {
            continue;
        }
        if let Some((option, words, expected)) = WORDS.iter().find(|(known, ..)| known == option) {
            // As libpq has it: encodings and versions of TLS in any case, all others as they are.
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

/// `require_auth`.
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
