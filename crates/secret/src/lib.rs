//! Secret values: given directly, or by a file that is read again for every use, such as a rotated password or a
//! token that expires.
//!
//! Knows files, and no configuration keys. [`Secret`] and [`SecretError`] never show a value.

pub mod core_dumps;
pub mod credential;
pub mod exposure;
pub mod pem;

use std::{
    fmt,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

/// Most bytes of a file: more than any configuration or secret. `/dev/zero` has no end.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Value, or the file that holds it.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// The value.
    Text(String),
    /// The file with the value, read for every use.
    File(PathBuf),
}

/// Error of a file without a usable value.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read.
    #[error("{} cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// The file is empty.
    #[error("{} is empty", .0.display())]
    Empty(PathBuf),
}

impl Secret {
    /// Reads a file, and returns the secret to keep and its value. The content of a pipe can be read only once, so it
    /// is kept as text.
    ///
    /// # Errors
    /// [`SecretError`].
    pub fn of_file(path: &Path) -> Result<(Self, String), SecretError> {
        let text = content(path)?;
        let lasting = std::fs::metadata(path).is_ok_and(|facts| facts.is_file());
        let secret = if lasting { Secret::File(path.to_owned()) } else { Secret::Text(text.clone()) };
        Ok((secret, text))
    }

    /// Returns the current value, without the line feed at a file's end.
    ///
    /// # Errors
    /// [`SecretError`].
    pub fn read(&self) -> Result<String, SecretError> {
        match self {
            Secret::Text(text) => Ok(text.clone()),
            Secret::File(path) => content(path),
        }
    }

    /// Returns the file, if the value comes from one.
    pub fn file(&self) -> Option<&Path> {
        match self {
            Secret::Text(_) => None,
            Secret::File(path) => Some(path),
        }
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Secret::Text(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Secret::Text(_) => f.write_str("Text(..)"),
            Secret::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

fn content(path: &Path) -> Result<String, SecretError> {
    let text = text_of(path).map_err(|source| SecretError::Unreadable { path: path.to_owned(), source })?;
    match text.trim_end_matches(['\n', '\r']) {
        "" => Err(SecretError::Empty(path.to_owned())),
        text => Ok(text.to_owned()),
    }
}

/// Reads the text of a file.
///
/// # Errors
///
/// [`io::Error`] when the file cannot be read, is not UTF-8, or has more than 1 MiB.
pub fn text_of(file: &Path) -> io::Result<String> {
    let mut text = String::new();
    if File::open(file)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)? as u64 > FILE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 1 MiB"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_file_is_read_again_and_its_value_is_not_shown() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "hunter2\n").unwrap();
        let (secret, text) = Secret::of_file(file.path()).unwrap();
        assert_eq!(text, "hunter2");
        std::fs::write(file.path(), "hunter3\r\n").unwrap();
        assert_eq!(secret.read().unwrap(), "hunter3");
        std::fs::write(file.path(), "\n").unwrap();
        let error = secret.read().unwrap_err();
        assert!(error.to_string().ends_with("is empty"), "{error}");
        let shown = format!("{secret:?} {:?}", Secret::from("hunter4".to_owned()));
        assert!(!shown.contains("hunter"), "{shown}");
    }
}
