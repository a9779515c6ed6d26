//! Keys of the brokers' addresses and login: the same for outboxd and, with the prefix `amqp_`, for each service.
//!
//! Knows these keys and no other. Opens no connection.

use std::{path::PathBuf, time::Duration};

use amqp_publisher::{Client, ConnectionOptions, Endpoint, RotatingUrls};
use configuration::Section;

/// Brokers and login.
#[derive(Debug)]
pub struct Access {
    urls: Vec<String>,
    rotating: Option<RotatingUrls>,
    ca_file: Option<PathBuf>,
    client_cert: Option<(PathBuf, PathBuf)>,
}

impl Access {
    /// Reads `url` or `urls`, `username`, `password` and the TLS files, each with `prefix`. Notes a problem if no URL
    /// is usable.
    pub fn read(section: &mut Section<'_>, prefix: &str) -> Self {
        let key = |name: &str| format!("{prefix}{name}");
        let (urls, rotating) = urls(section, prefix);
        let [ca_key, cert_key, key_key] = [key("tls_ca_file"), key("tls_cert_file"), key("tls_key_file")];
        let ca_file = readable_file(section, &ca_key);
        let (has_cert, has_key) = (section.has(&cert_key), section.has(&key_key));
        let cert = readable_file(section, &cert_key);
        let private_key = readable_file(section, &key_key);
        if has_cert != has_key {
            let (there, missing) = if has_cert { (&cert_key, &key_key) } else { (&key_key, &cert_key) };
            section.problem(there, format!("is of no use without {missing}"), "give both, or neither");
        }
        let encrypted = urls.iter().any(|url| url.starts_with("amqps://"));
        for (key, given) in [(&ca_key, ca_file.is_some()), (&cert_key, cert.is_some())] {
            if given && !encrypted && !urls.is_empty() {
                let cure = "use amqps://, or leave the key out";
                section.problem(key, "has no effect: no URL begins with amqps://", cure);
            }
        }
        Self { urls, rotating, ca_file, client_cert: cert.zip(private_key) }
    }

    /// Returns the connection options for `client`.
    pub fn connection(
        self,
        client: Client,
        heartbeat: Duration,
        connect_timeout: Duration,
    ) -> ConnectionOptions {
        let Self { urls, rotating, ca_file, client_cert } = self;
        ConnectionOptions { client, urls, rotating, heartbeat, connect_timeout, ca_file, client_cert }
    }
}

/// Returns the URLs with the separate user and password, and the files that hold them.
fn urls(section: &mut Section<'_>, prefix: &str) -> (Vec<String>, Option<RotatingUrls>) {
    let key = |name: &str| format!("{prefix}{name}");
    let (url_key, urls_key) = (key("url"), key("urls"));
    let given = |section: &Section<'_>, key: &str| section.has(key) || section.has(&format!("{key}_file"));
    let (one, many) = (given(section, &url_key), given(section, &urls_key));
    if one && many {
        section.problem(&urls_key, format!("contradicts {url_key}"), "give one of the two");
    }
    if !one && !many {
        let cure = "set it to for instance \"amqp://user@host:5672/%2f\"";
        section.problem(&url_key, "is missing", cure);
    }
    let origin = if one { &url_key } else { &urls_key };
    let url = section.rotating_secret(&url_key);
    let urls = section.rotating_secrets(&urls_key);
    let username = section.filled_text(&key("username"));
    let password = section.rotating_secret(&key("password"));
    let Some(urls) = url.or(urls) else { return (Vec::new(), None) };
    let from_files = RotatingUrls { urls, username, password };
    // The files were just readable. If one vanishes now, the first connection reports it.
    let text = from_files.urls.read().unwrap_or_default();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    if !one && lines.clone().next().is_none() {
        section.problem(&urls_key, "is empty", "list at least one URL");
    }
    let password = from_files.password.as_ref().and_then(|password| password.read().ok());

    let mut whole = Vec::new();
    for url in lines {
        match Endpoint::with_login(url, from_files.username.as_deref(), password.as_deref()) {
            Ok(url) => whole.push(url),
            Err(error) if error.is_several => {
                let cure = format!("{} ({urls_key} is a list of them)", error.cure);
                section.problem(origin, error.what, cure);
            }
            Err(error) => section.problem(origin, error.what, error.cure),
        }
    }
    let rotates = from_files.files().next().is_some();
    let rotating = rotates.then_some(from_files);
    (whole, rotating)
}

fn readable_file(section: &mut Section<'_>, key: &str) -> Option<PathBuf> {
    let file = section.path(key)?;
    if let Err(error) = std::fs::File::open(&file) {
        let what = format!("{} cannot be read: {error}", file.display());
        section.problem(key, what, "name a PEM file that this program's user can read");
    }
    Some(file)
}
