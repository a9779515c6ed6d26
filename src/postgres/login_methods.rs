//! `require_auth`: which ways to log in the client accepts, by the code of the server's first authentication message
//! (manual, "Message Formats", "Authentication...").

/// Methods as `require_auth` names them, with their codes. `none`: the server asks for nothing.
const METHODS: [(&str, i32); 6] =
    [("none", 0), ("password", 3), ("md5", 5), ("gss", 7), ("sspi", 9), ("scram-sha-256", 10)];

/// Values of `require_auth`.
pub(super) const EXPECTED: &str =
    "a list of scram-sha-256, md5, password and none, or of the same with a '!' before each";

/// The accepted methods, one bit each; by default all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LoginMethods(u8);

impl Default for LoginMethods {
    fn default() -> Self {
        LoginMethods(u8::MAX)
    }
}

impl LoginMethods {
    /// A list of methods, either all wanted or all unwanted. `None`: neither.
    pub(super) fn parse(text: &str) -> Option<Self> {
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
            (true, false) => Some(LoginMethods(bits)),
            (false, true) => Some(LoginMethods(!bits)),
            _ => None,
        }
    }

    /// Checks the code that the server begins with; gives the name of the method if it is not allowed.
    pub(super) fn accepts(self, code: i32) -> Result<(), &'static str> {
        match METHODS.iter().position(|(_, known)| *known == code) {
            Some(place) if self.0 & (1 << place) != 0 => Ok(()),
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
}
