//! Broker URLs from files, or with a password from a file. Every connection reads the files again, so a rotated
//! password takes effect.

use secret::Secret;

use super::endpoint::Endpoint;
use crate::error::BrokerError;

/// Source of URLs, and the login for each.
#[derive(Clone, Debug)]
pub struct RotatingUrls {
    /// URLs, one a line.
    pub urls: Secret,
    /// Replaces the user of every URL.
    pub username: Option<String>,
    /// Replaces the password of every URL.
    pub password: Option<Secret>,
}

impl RotatingUrls {
    /// Returns the current URLs, with the login.
    ///
    /// # Errors
    /// [`BrokerError`] when a file cannot be read or holds no valid URL. The error does not repeat a file's content.
    pub fn read(&self) -> Result<Vec<String>, BrokerError> {
        let urls = self.urls.read()?;
        let password = self.password.as_ref().map(Secret::read).transpose()?;
        let lines = urls.lines().map(str::trim).filter(|line| !line.is_empty());
        lines
            .map(|url| Ok(Endpoint::with_login(url, self.username.as_deref(), password.as_deref())?))
            .collect()
    }

    /// Returns the files.
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
