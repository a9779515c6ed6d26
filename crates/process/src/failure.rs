//! Failures of a program, with their exit status.

use std::{error::Error, fmt};

use diagnostics::{
    chain,
    legible::{self, Legible},
};

/// Failure of a program. The text is complete: what happened, where, and the next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// A wrong argument that only the configuration reveals.
    CommandLine(String),
    /// A wrong configuration. A restart without a change does not help.
    Configuration(String),
    /// A failure outside of the program. A retry may help.
    Runtime(String),
}

impl Failure {
    /// Returns the failure at run time of an error with its causes: `what: cause: cause of the cause`.
    pub fn runtime(error: &dyn Error) -> Failure {
        Failure::Runtime(chain(error))
    }

    /// Returns the failure of the configuration of an error with its causes.
    pub fn configuration(error: &dyn Error) -> Failure {
        Failure::Configuration(chain(error))
    }

    /// Returns the exit status. 78 is `EX_CONFIG` of sysexits.h, on which the unit file forbids a restart.
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
            // One line for each problem.
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
