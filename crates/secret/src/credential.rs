//! Files that the service manager hands to a service: `credential:NAME` in place of a path.
//!
//! systemd names the folder of a unit's credentials in a variable. The folder differs from unit to unit, so a configuration names
//! the credential only.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
};

/// Beginning of a text that names a credential.
const PREFIX: &str = "credential:";

/// Variable with the folder of the credentials.
const FOLDER_VARIABLE: &str = "CREDENTIALS_DIRECTORY";

/// Error of a name that leads to no file.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// Nobody handed credentials to this process.
    #[error(
        "{0} is a credential of a systemd unit, and {FOLDER_VARIABLE} is not set: this process got no credentials"
    )]
    NoFolder(String),
    /// The name is a path, or empty.
    #[error("{0} names no credential: a name has letters, digits, '-', '_' and '.'")]
    NoName(String),
}

impl CredentialError {
    /// Returns the next step.
    pub fn cure(&self) -> String {
        match self {
            CredentialError::NoFolder(text) => {
                let name = text.trim_start_matches(PREFIX);
                format!(
                    "for a command by hand, name the folder of the original files: {FOLDER_VARIABLE}=/etc/outboxd/secrets; in the unit: \
                     LoadCredential={name}:/etc/outboxd/secrets/{name}"
                )
            }
            CredentialError::NoName(_) => format!("write {PREFIX}NAME, or the path of a file"),
        }
    }
}

/// Returns the file that a text names: the credential for `credential:NAME`, otherwise the path itself.
///
/// # Errors
///
/// [`CredentialError`] for a credential that has no file here.
pub fn file(text: &str) -> Result<PathBuf, CredentialError> {
    in_folder(text, env::var_os(FOLDER_VARIABLE))
}

fn in_folder(text: &str, folder: Option<OsString>) -> Result<PathBuf, CredentialError> {
    let Some(name) = text.strip_prefix(PREFIX) else { return Ok(text.into()) };
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.trim_start_matches('.').is_empty() || !name.chars().all(is_plain) {
        return Err(CredentialError::NoName(text.to_owned()));
    }
    match folder.filter(|folder| !folder.is_empty()) {
        Some(folder) => Ok(Path::new(&folder).join(name)),
        None => Err(CredentialError::NoFolder(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_is_a_file_in_the_folder_of_the_unit() {
        let folder = || Some(OsString::from("/run/credentials/outboxd.service"));
        for (text, path) in [
            ("credential:orders-password", "/run/credentials/outboxd.service/orders-password"),
            ("/etc/outboxd/secrets/orders-password", "/etc/outboxd/secrets/orders-password"),
            ("orders-password", "orders-password"),
        ] {
            assert_eq!(in_folder(text, folder()), Ok(PathBuf::from(path)));
        }
        for text in
            ["credential:", "credential:..", "credential:../x", "credential:/etc/shadow", "credential:a b"]
        {
            assert_eq!(in_folder(text, folder()), Err(CredentialError::NoName(text.to_owned())));
        }
        for none in [None, Some(OsString::new())] {
            let error = in_folder("credential:orders-password", none);
            assert!(error.is_err_and(|error| {
                error.cure().contains("LoadCredential=orders-password:/etc/outboxd/secrets/orders-password")
            }),);
        }
    }
}
