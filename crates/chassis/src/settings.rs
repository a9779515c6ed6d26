//! Keys of every service: from its TOML file, the environment, or both.

use std::{net::ToSocketAddrs, path::Path, time::Duration};

use amqp_publisher::{Client, ConnectionOptions};

use broker_access::Access;
use configuration::{Origins, Section, SettingsError};
use pg_replication::Endpoint;

/// The keys. In capital letters they are the environment's variables.
pub(super) const KEYS: [&str; 18] = [
    "amqp_declare",
    "amqp_password",
    "amqp_password_file",
    "amqp_prefetch",
    "amqp_tls_ca_file",
    "amqp_tls_cert_file",
    "amqp_tls_key_file",
    "amqp_url",
    "amqp_url_file",
    "amqp_urls",
    "amqp_urls_file",
    "amqp_username",
    "database_connections_max",
    "database_url",
    "database_url_file",
    "drain_timeout_s",
    "inbox_retention_s",
    "listen",
];

const HEARTBEAT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Settings of every service.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The service's name, shown by PostgreSQL, RabbitMQ and in metrics.
    pub name: &'static str,
    /// `database_url`: the service's database.
    pub database: Endpoint,
    /// `database_connections_max`: most connections to the database.
    pub database_connections_max: usize,
    /// `amqp_url` or `amqp_urls`, and the other `amqp_` keys.
    pub broker: ConnectionOptions,
    /// `amqp_declare`: whether the service declares what its subscriptions need, or only verifies it.
    pub declare: bool,
    /// `amqp_prefetch`: most unacknowledged messages.
    pub prefetch: u16,
    /// `inbox_retention_s`: age at which a row of the inbox is removed; `None` keeps all.
    pub inbox_retention: Option<Duration>,
    /// `listen`: host and port of the HTTP endpoints.
    pub listen: String,
    /// `drain_timeout_s`: limit for work in progress after SIGTERM.
    pub drain_timeout: Duration,
}

/// Reads `file`, if there is one, overridden by the environment.
///
/// # Errors
///
/// [`SettingsError`] with all problems, each with file or variable, key and cure. None shows a secret.
pub fn load(
    name: &'static str,
    listen: &'static str,
    file: Option<&Path>,
) -> Result<Settings, SettingsError> {
    let known = |variable: &str| KEYS.iter().any(|key| key.to_uppercase() == variable);
    let (environment, mut problems) = configuration::environment(known);
    let origins = Origins { file, prefix: "", environment: &environment };
    match read(&origins, name, listen) {
        Ok(settings) if problems.is_empty() => Ok(settings),
        Ok(_) => Err(SettingsError { problems }),
        Err(error) => {
            problems.extend(error.problems);
            Err(SettingsError { problems })
        }
    }
}

fn read(origins: &Origins<'_>, name: &'static str, listen: &'static str) -> Result<Settings, SettingsError> {
    configuration::read(origins, |root| from_root(root, name, listen))
}

/// Reads every key from the tree of file and environment. Returns `None` after a reported problem.
pub fn from_root(mut root: Section<'_>, name: &'static str, listen: &'static str) -> Option<Settings> {
    let listen = root.parsed("listen", Some(listen), |text| match text.to_socket_addrs() {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err((
            format!("names no address to listen on: {error}"),
            "write host:port, for instance \"0.0.0.0:8080\"".into(),
        )),
    });
    required(&mut root, "database_url", "postgresql://user:password@host:5432/database");
    let database = root.rotating_secret("database_url").and_then(|url| {
        let parsed =
            Endpoint::read(url, None).and_then(|endpoint| endpoint.validate_tls().map(|()| endpoint));
        parsed.map_err(|error| root.problem("database_url", error.to_string(), "correct the URL")).ok()
    });
    let database_connections_max = root.count("database_connections_max", 1..=1000, 8);
    let client = Client { product: name, version: env!("CARGO_PKG_VERSION") };
    let access = Access::read(&mut root, "amqp_");
    let declare = root.flag("amqp_declare", true);
    let prefetch = root.number("amqp_prefetch", 1..=u64::from(u16::MAX), 1);
    let inbox_retention = root.seconds("inbox_retention_s", 0..=3_155_760_000, 7 * 24 * 3600);
    let drain_timeout = root.seconds("drain_timeout_s", 1..=3600, 20);
    root.finish();
    Some(Settings {
        name,
        database: database?,
        database_connections_max,
        broker: access.connection(client, HEARTBEAT, CONNECT_TIMEOUT),
        declare,
        prefetch: u16::try_from(prefetch).unwrap_or(u16::MAX),
        inbox_retention: Some(inbox_retention).filter(|age| !age.is_zero()),
        listen: listen?,
        drain_timeout,
    })
}

fn required(root: &mut Section<'_>, key: &str, example: &str) {
    let given = root.has(key) || root.has(&format!("{key}_file"));
    if !given {
        root.problem(key, "is missing", format!("set it to for instance \"{example}\""));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use configuration::documentation;
    use std::collections::BTreeMap;

    #[test]
    fn each_services_file_documents_every_key_with_its_default() {
        for (listen, file) in [
            ("127.0.0.1:8081", include_str!("../../../config/order-service.toml")),
            ("127.0.0.1:8082", include_str!("../../../config/customer-service.toml")),
            ("127.0.0.1:8083", include_str!("../../../config/order-history.toml")),
        ] {
            let documentation = documentation::read(file, |root| from_root(root, "a-service", listen));
            assert_eq!(documentation.keys().count(), KEYS.len());
        }
    }

    #[test]
    fn the_environment_alone_will_do_and_its_problems_name_the_variable() {
        let load = |variables: &[(&str, &str)]| {
            let environment: BTreeMap<String, String> =
                variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let origins = Origins { file: None, prefix: "", environment: &environment };
            read(&origins, "a-service", "127.0.0.1:8081")
        };
        let urls = [("DATABASE_URL", "postgresql://shop:s3cret@db/shop"), ("AMQP_URL", "amqp://mq")];
        let [database, broker] = urls;
        let settings =
            load(&[database, broker, ("AMQP_PREFETCH", "7"), ("LISTEN", "localhost:9000")]).unwrap();
        assert_eq!((settings.prefetch, settings.listen.as_str()), (7, "localhost:9000"));

        let text = load(&[]).unwrap_err().to_string();
        for variable in ["DATABASE_URL", "AMQP_URL"] {
            assert!(text.contains(&format!("{variable}: ")), "{text}");
        }
        let wrong =
            [database, ("AMQP_URL", "http://u:s3cret@mq"), ("LISTEN", "8080"), ("AMQP_PREFETCH", "many")];
        let text = load(&wrong).unwrap_err().to_string();
        assert!(["AMQP_URL", "LISTEN", "AMQP_PREFETCH"].iter().all(|name| text.contains(name)), "{text}");
        assert!(!text.contains("s3cret"), "{text}");

        let several = [
            ("DATABASE_URL", "postgresql://a:s3cret@h1/db,postgresql://b:s3cret@h2/db"),
            ("AMQP_URL", "amqp://a:s3cret@h1/%2f,amqp://b:s3cret@h2/%2f"),
        ];
        let text = load(&several).unwrap_err().to_string();
        assert!(
            ["DATABASE_URL", "AMQP_URL", "amqp_urls is a list"].iter().all(|name| text.contains(name)),
            "{text}"
        );
        assert!(!text.contains("s3cret") && !text.contains("rabbitmq."), "{text}");
    }
}
