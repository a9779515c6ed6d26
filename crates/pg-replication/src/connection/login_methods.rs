//! Login methods that the client accepts, by the code of the server's first authentication message (manual, "Message
//! Formats").
//!
//! A server that asks for a clear-text password learns it. A server that asks for an MD5 hash chooses the salt: it
//! can guess the password offline, or relay another server's salt and log in there. Both methods therefore need an
//! identified server: a verified certificate, or a Unix socket. `require_auth` may allow them by name, but a
//! clear-text password never crosses an unencrypted network.

use super::{socket::Peer, wire_error::AuthenticationError};

/// Code of AuthenticationCleartextPassword.
const CLEAR_TEXT_PASSWORD: i32 = 3;
/// Code of AuthenticationMD5Password.
const MD5_PASSWORD: i32 = 5;

/// Methods by their name in `require_auth`, with their codes. `none`: the server asks for no authentication.
const METHODS: [(&str, i32); 6] =
    [("none", 0), ("password", 3), ("md5", 5), ("gss", 7), ("sspi", 9), ("scram-sha-256", 10)];

/// Description of the values of `require_auth`.
pub(crate) const EXPECTED: &str =
    "a list of scram-sha-256, md5, password and none, or of the same with a '!' before each";

/// The accepted methods. The default accepts all that do not disclose a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LoginMethods {
    /// One bit for each entry of [`METHODS`].
    accepted: u8,
    /// `require_auth` names the accepted methods, instead of excluding others.
    named: bool,
}

impl Default for LoginMethods {
    fn default() -> Self {
        LoginMethods { accepted: u8::MAX, named: false }
    }
}

impl LoginMethods {
    /// Parses a list of methods, either all wanted or all unwanted. `None`: the list is invalid.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut bits = 0;
        let (mut wanted, mut unwanted) = (false, false);
        for method in text.split(',').map(str::trim) {
            let name = method.strip_prefix('!');
            if name.is_some() {
                unwanted = true
            } else {
                wanted = true
            }
            let place = METHODS.iter().position(|(known, _)| *known == name.unwrap_or(method))?;
            bits |= 1 << place;
        }
        match (wanted, unwanted) {
            (true, false) => Some(LoginMethods { accepted: bits, named: true }),
            (false, true) => Some(LoginMethods { accepted: !bits, named: false }),
            _ => None,
        }
    }

    /// Checks the method that the server asks for, before anything is sent.
    pub(crate) fn check(self, code: i32, peer: Peer) -> Result<(), AuthenticationError> {
        self.accepts(code).map_err(AuthenticationError::MethodNotAllowed)?;
        let encrypted = match peer {
            Peer::Local | Peer::Verified => return Ok(()),
            Peer::Unverified => true,
            Peer::Unencrypted => false,
        };
        match code {
            CLEAR_TEXT_PASSWORD if !(self.named && encrypted) => {
                Err(AuthenticationError::ClearTextRefused { encrypted })
            }
            MD5_PASSWORD if !self.named => Err(AuthenticationError::Md5Refused { encrypted }),
            _ => Ok(()),
        }
    }

    /// Fails with the name of a method that `require_auth` does not allow.
    fn accepts(self, code: i32) -> Result<(), &'static str> {
        match METHODS.iter().position(|(_, known)| *known == code) {
            Some(place) if self.accepted & (1 << place) != 0 => Ok(()),
            Some(place) => Err(METHODS[place].0),
            None if self == Self::default() => Ok(()),
            None => Err("an unknown method"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn lists_of_wanted_and_of_unwanted_methods() {
        let accepted = |text: &str| -> Vec<&str> {
            let methods = LoginMethods::parse(text).unwrap();
            METHODS.iter().filter(|(_, code)| methods.accepts(*code).is_ok()).map(|(name, _)| *name).collect()
        };
        assert_eq!(accepted("scram-sha-256"), ["scram-sha-256"]);
        assert_eq!(accepted("md5, none"), ["none", "md5"]);
        assert_eq!(accepted("!password,!none"), ["md5", "gss", "sspi", "scram-sha-256"]);
        assert!(LoginMethods::default().accepts(99).is_ok());
        for bad in ["", "oauth", "md5,!none", "SCRAM"] {
            assert_eq!(LoginMethods::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_password_is_given_to_a_known_server_only_unless_its_method_is_named() {
        const SCRAM: i32 = 10;
        let peers = [Peer::Local, Peer::Verified, Peer::Unverified, Peer::Unencrypted];
        for (require_auth, code, given) in [
            (None, CLEAR_TEXT_PASSWORD, [true, true, false, false]),
            (None, MD5_PASSWORD, [true, true, false, false]),
            (None, SCRAM, [true; 4]),
            (None, 0, [true; 4]),
            (Some("!none"), MD5_PASSWORD, [true, true, false, false]),
            (Some("!none"), CLEAR_TEXT_PASSWORD, [true, true, false, false]),
            (Some("md5"), MD5_PASSWORD, [true; 4]),
            (Some("md5,scram-sha-256"), MD5_PASSWORD, [true; 4]),
            (Some("password"), CLEAR_TEXT_PASSWORD, [true, true, true, false]),
            (Some("password"), MD5_PASSWORD, [false; 4]),
            (Some("scram-sha-256"), CLEAR_TEXT_PASSWORD, [false; 4]),
        ] {
            let methods =
                require_auth.map_or_else(LoginMethods::default, |text| LoginMethods::parse(text).unwrap());
            let found = peers.map(|peer| methods.check(code, peer).is_ok());
            assert_eq!(found, given, "{require_auth:?}, method {code}");
        }
    }
}
