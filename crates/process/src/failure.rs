//! Why a program ends otherwise than well, and with which exit status.

use std::{error::Error, fmt};

use diagnostics::{
    chain,
    legible::{self, Legible},
};

/// Why a program did not do what it was asked to. The text is complete: what happened, where, and what to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// An argument is wrong that only the configuration shows to be so.
    CommandLine(String),
    /// The configuration is wrong; starting again without changing it is of no use.
    Configuration(String),
    /// Something outside is; trying again may help.
    Runtime(String),
}

impl Failure {
    /// A failure at run time, with everything that caused it: `what: cause: cause of the cause`.
    pub fn runtime(error: &dyn Error) -> Failure {
        Failure::Runtime(chain(error))
    }

    /// A failure of the configuration, likewise.
    pub fn configuration(error: &dyn Error) -> Failure {
        Failure::Configuration(chain(error))
    }

    /// The exit status: 78 is `EX_CONFIG` of sysexits.h, and the unit file tells systemd not to restart on it.
    pub fn exit_status(&self) -> u8 {
        match self {
            Failure::Runtime(_) => 1,
            Failure::CommandLine(_) => 2,
            Failure::Configuration(_) => 78,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // One line a problem.
            Failure::Configuration(text) => f.write_str(&legible::lines(text)),
            Failure::CommandLine(text) | Failure::Runtime(text) => write!(f, "{}", Legible(text)),
        }
    }
}

impl Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot connect to 127.0.0.1:5432")]
    struct Connect(#[source] io::Error);

    #[test]
    fn a_failure_tells_the_whole_chain() {
        let error = Connect(io::Error::other("refused"));
        let failure = Failure::runtime(&error);
        assert_eq!(failure.to_string(), "cannot connect to 127.0.0.1:5432: refused");
        assert_eq!(failure.exit_status(), 1);
        assert_eq!(Failure::configuration(&error).exit_status(), 78);
    }
}
