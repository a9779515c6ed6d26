//! URLs of brokers that stand in files, or whose password does: read again for every connection, so that a password may be
//! rotated.

use secret::Secret;

use super::endpoint::Endpoint;
use crate::error::BrokerError;

/// Where the URLs come from, and what is put into each of them.
#[derive(Clone, Debug)]
pub struct RotatingUrls {
    /// One URL a line.
    pub urls: Secret,
    /// In place of every URL's user.
    pub username: Option<String>,
    /// In place of every URL's password.
    pub password: Option<Secret>,
}

impl RotatingUrls {
    /// The URLs as they are now, login included.
    ///
    /// # Errors
    /// A file cannot be read, or holds no URL. Neither error repeats what a file holds.
    pub fn read(&self) -> Result<Vec<String>, BrokerError> {
        let urls = self.urls.read()?;
        let password = self.password.as_ref().map(Secret::read).transpose()?;
        let lines = urls.lines().map(str::trim).filter(|line| !line.is_empty());
        lines
            .map(|url| Ok(Endpoint::with_login(url, self.username.as_deref(), password.as_deref())?))
            .collect()
    }

    /// The files.
    pub fn files(&self) -> impl Iterator<Item = String> {
        let secrets = [Some(&self.urls), self.password.as_ref()].into_iter().flatten();
        secrets.filter_map(Secret::file).map(|file| file.display().to_string())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn urls_and_password_are_those_of_the_files_at_the_time() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "one\n").unwrap();
        let urls = RotatingUrls {
            urls: Secret::Text("amqp://a/%2f\namqp://u:old@b/%2f".to_owned()),
            username: None,
            password: Some(Secret::File(file.path().to_owned())),
        };
        assert!(urls.read().unwrap().iter().all(|url| url.contains(":one@")));
        std::fs::write(file.path(), "tw/o").unwrap();
        assert!(urls.read().unwrap().iter().all(|url| url.contains(":tw%2Fo@")));
        std::fs::write(file.path(), "").unwrap();
        let error = urls.read().unwrap_err().to_string();
        assert!(error.contains("is empty") && error.contains(&file.path().display().to_string()), "{error}");
    }
}
