//! Keys of every service: from its TOML file, the environment, or both.

use std::{
    io,
    net::{SocketAddr, ToSocketAddrs},
    path::Path,
    time::Duration,
};

use amqp_publisher::{Client, ConnectionOptions};

use broker_access::Access;
use configuration::{Origins, Section, SettingsError};
use pg_replication::Endpoint;
use secret::Secret;

/// The keys of every program. In capital letters they are the environment's variables.
pub const BASE_KEYS: [&str; 13] = [
    "amqp_declare",
    "amqp_password",
    "amqp_password_file",
    "amqp_tls_ca_file",
    "amqp_tls_cert_file",
    "amqp_tls_key_file",
    "amqp_url",
    "amqp_url_file",
    "amqp_urls",
    "amqp_urls_file",
    "amqp_username",
    "drain_timeout_s",
    "listen",
];

/// The keys that a service with a database has besides.
const DATABASE_KEYS: [&str; 5] =
    ["amqp_prefetch", "database_connections_max", "database_url", "database_url_file", "inbox_retention_s"];

/// The keys that a service has besides when it coordinates sagas.
const SAGA_KEYS: [&str; 2] = ["saga", "saga_silence_s"];
/// The keys that a service has besides when it keeps a view.
const VIEW_KEYS: [&str; 2] = ["view_url", "view_url_file"];

const HEARTBEAT: Duration = Duration::from_secs(10);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Program of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Program {
    /// Name of the service.
    pub name: &'static str,
    /// Default address.
    pub listen: &'static str,
    /// Set when the service coordinates sagas. Only then it has the keys for them.
    pub orchestrates: bool,
    /// Where the service's view may be, for a service that keeps one. Only then it has the keys for it.
    pub view: Option<ViewPlaces>,
}

/// Stores in which a service can keep its view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ViewPlaces {
    /// Schemes of their URLs.
    pub schemes: &'static [&'static str],
    /// URL that a problem shows.
    pub example: &'static str,
    /// Set when the view is in the service's database unless `view_url` says otherwise.
    pub is_optional: bool,
}

/// Style of a saga.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SagaStyle {
    /// Each service acts on the events of the others.
    Choreography,
    /// One service sends commands to the others.
    Orchestration,
}

/// Settings of a service that coordinates sagas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SagaSettings {
    /// `saga`: style of the sagas that begin from now on.
    pub style: SagaStyle,
    /// `saga_silence_s`: longest wait for a reply that `saga_silent` does not count.
    pub silence: Duration,
}

/// Settings of every program, with a database or without.
#[derive(Clone, Debug)]
pub struct BaseSettings {
    /// The program's name, shown by PostgreSQL, RabbitMQ and in metrics.
    pub name: &'static str,
    /// `amqp_url` or `amqp_urls`, and the other `amqp_` keys.
    pub broker: ConnectionOptions,
    /// `amqp_declare`: whether the program declares what its subscriptions need, or only verifies it.
    pub declare: bool,
    /// `listen`: host and port of the HTTP endpoints.
    pub listen: String,
    /// `drain_timeout_s`: limit for work in progress after SIGTERM.
    pub drain_timeout: Duration,
}

/// Settings of a service with a database.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Settings of every program.
    pub base: BaseSettings,
    /// `database_url`: the service's database; `view_url` in its place, if that is PostgreSQL's.
    pub database: Endpoint,
    /// `view_url`: the view's place; `None` in the service's database.
    pub view: Option<Secret>,
    /// `database_connections_max`: most connections to the database.
    pub database_connections_max: usize,
    /// `amqp_prefetch`: most unacknowledged messages.
    pub prefetch: u16,
    /// `inbox_retention_s`: age at which a row of the inbox is removed; `None` keeps all.
    pub inbox_retention: Option<Duration>,
    /// `saga` and `saga_silence_s`: only a program that orchestrates has these keys.
    pub saga: SagaSettings,
}

/// Settings of a program, as they are read from its file and the environment.
pub trait Readable: Sized {
    /// Returns the keys. In capital letters they are the environment's variables.
    fn keys(program: Program) -> Vec<&'static str>;

    /// Reads every key from the tree of file and environment. Returns `None` after a reported problem.
    fn from_root(root: Section<'_>, program: Program) -> Option<Self>;
}

/// Reads `file`, if there is one, overridden by the environment.
///
/// # Errors
///
/// [`SettingsError`] with all problems, each with file or variable, key and cure. None shows a secret.
pub fn load<S: Readable>(program: Program, file: Option<&Path>) -> Result<S, SettingsError> {
    let keys = S::keys(program);
    let known = |variable: &str| keys.iter().any(|key| key.to_uppercase() == variable);
    let (environment, mut problems) = configuration::environment(known);
    let origins = Origins { file, prefix: "", environment: &environment };
    match configuration::read(&origins, |root| S::from_root(root, program)) {
        Ok(settings) if problems.is_empty() => Ok(settings),
        Ok(_) => Err(SettingsError { problems }),
        Err(error) => {
            problems.extend(error.problems);
            Err(SettingsError { problems })
        }
    }
}

/// Reads only `listen`: the file is not read where the environment gives it. Problems of other keys are not reported.
///
/// # Errors
///
/// [`SettingsError`] with the problem of `listen`, or of a file that cannot be read.
pub fn listen(program: Program, file: Option<&Path>) -> Result<SocketAddr, SettingsError> {
    let (environment, problems) = configuration::environment(|variable| variable == "LISTEN");
    if !problems.is_empty() {
        return Err(SettingsError { problems });
    }
    let file = file.filter(|_| environment.is_empty());
    let origins = Origins { file, prefix: "", environment: &environment };
    configuration::read(&origins, |mut root| address(&mut root, program.listen).map(|(_, address)| address))
}

/// Reads `listen`, as it is written and as the first address that it names.
fn address(root: &mut Section<'_>, default: &str) -> Option<(String, SocketAddr)> {
    root.parsed("listen", Some(default), |text| {
        let named = text
            .to_socket_addrs()
            .and_then(|mut named| named.next().ok_or_else(|| io::Error::other("the name has no address")));
        named.map(|address| (text.to_owned(), address)).map_err(|error| {
            (
                format!("names no address to listen on: {error}"),
                "write host:port, for instance \"0.0.0.0:8080\"".into(),
            )
        })
    })
}

impl Readable for Settings {
    fn keys(program: Program) -> Vec<&'static str> {
        let saga = if program.orchestrates { &SAGA_KEYS[..] } else { &[] };
        let view = if program.view.is_some() { &VIEW_KEYS[..] } else { &[] };
        BASE_KEYS.iter().chain(&DATABASE_KEYS).chain(saga).chain(view).copied().collect()
    }

    fn from_root(root: Section<'_>, program: Program) -> Option<Self> {
        from_root(root, program)
    }
}

impl BaseSettings {
    /// Reads [`BASE_KEYS`]. Returns `None` after a reported problem.
    pub fn read(root: &mut Section<'_>, program: Program) -> Option<Self> {
        let Program { name, listen, .. } = program;
        let listen = address(root, listen);
        let client = Client { product: name, version: env!("CARGO_PKG_VERSION") };
        let access = Access::read(root, "amqp_");
        let declare = root.flag("amqp_declare", true);
        let drain_timeout = root.seconds("drain_timeout_s", 1..=3600, 20);
        Some(Self {
            name,
            broker: access.connection(client, HEARTBEAT, CONNECT_TIMEOUT),
            declare,
            listen: listen?.0,
            drain_timeout,
        })
    }
}

/// Reads every key of a service with a database. Returns `None` after a reported problem.
pub fn from_root(mut root: Section<'_>, program: Program) -> Option<Settings> {
    let base = BaseSettings::read(&mut root, program);
    let view = program.view.and_then(|places| view(&mut root, places));
    let (database, view) = match view {
        Some(View::InPostgres(database)) => {
            root.rotating_secret("database_url");
            (Some(*database), None)
        }
        view => {
            required(&mut root, "database_url", "postgresql://user:password@host:5432/database");
            let url = root.rotating_secret("database_url");
            let database = url.and_then(|url| postgres(&root, "database_url", url));
            (database, view.and_then(View::elsewhere))
        }
    };
    let database_connections_max = root.count("database_connections_max", 1..=1000, 8);
    let prefetch = root.number("amqp_prefetch", 1..=u64::from(u16::MAX), 1);
    let inbox_retention = root.seconds("inbox_retention_s", 0..=3_155_760_000, 7 * 24 * 3600);
    let saga = saga(&mut root, program);
    root.finish();
    Some(Settings {
        base: base?,
        database: database?,
        view,
        database_connections_max,
        prefetch: u16::try_from(prefetch).unwrap_or(u16::MAX),
        inbox_retention: Some(inbox_retention).filter(|age| !age.is_zero()),
        saga: saga?,
    })
}

fn saga(root: &mut Section<'_>, program: Program) -> Option<SagaSettings> {
    let (style, silence) = (SagaStyle::Choreography, Duration::from_secs(60));
    if !program.orchestrates {
        return Some(SagaSettings { style, silence });
    }
    let styles = [("choreography", Some(style)), ("orchestration", Some(SagaStyle::Orchestration))];
    let style = root.choice("saga", &styles);
    let silence = root.seconds("saga_silence_s", 1..=86_400, silence.as_secs());
    Some(SagaSettings { style: style?, silence })
}

/// Place of a view.
enum View {
    InPostgres(Box<Endpoint>),
    Elsewhere(Secret),
}

impl View {
    fn elsewhere(self) -> Option<Secret> {
        match self {
            Self::InPostgres(_) => None,
            Self::Elsewhere(url) => Some(url),
        }
    }
}

/// Reads `view_url`. Its store parses the rest of it.
fn view(root: &mut Section<'_>, places: ViewPlaces) -> Option<View> {
    if !places.is_optional {
        required(root, "view_url", places.example);
    }
    let url = root.rotating_secret("view_url")?;
    let text = url.read().ok()?;
    let scheme = text.split_once("://").map_or("", |(scheme, _)| scheme);
    if !places.schemes.contains(&scheme) {
        let schemes: Vec<String> = places.schemes.iter().map(|scheme| format!("{scheme}://")).collect();
        let what = format!("names no place for this view: it begins with none of {}", schemes.join(", "));
        root.problem("view_url", what, format!("set it to for instance \"{}\"", places.example));
        return None;
    }
    match scheme {
        "postgresql" | "postgres" => {
            postgres(root, "view_url", url).map(|database| View::InPostgres(Box::new(database)))
        }
        _ => Some(View::Elsewhere(url)),
    }
}

fn postgres(root: &Section<'_>, key: &str, url: Secret) -> Option<Endpoint> {
    let parsed = Endpoint::read(url, None).and_then(|endpoint| endpoint.validate_tls().map(|()| endpoint));
    parsed.map_err(|error| root.problem(key, error.to_string(), "correct the URL")).ok()
}

/// Notes a problem when neither `key` nor the key of its file is given.
pub fn required(root: &mut Section<'_>, key: &str, example: &str) {
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
        let places =
            |is_optional| Some(ViewPlaces { schemes: &["mongodb", "http"], example: "", is_optional });
        for (listen, orchestrates, view, file) in [
            ("127.0.0.1:8081", true, None, include_str!("../../../config/order-service.toml")),
            ("127.0.0.1:8082", false, None, include_str!("../../../config/customer-service.toml")),
            ("127.0.0.1:8083", false, places(true), include_str!("../../../config/order-history.toml")),
            ("127.0.0.1:8084", false, places(false), include_str!("../../../config/order-search.toml")),
        ] {
            let program = Program { name: "a-service", listen, orchestrates, view };
            let documentation = documentation::read(file, |root| from_root(root, program));
            assert_eq!(documentation.keys().count(), Settings::keys(program).len());
        }
    }

    #[test]
    fn the_environment_alone_will_do_and_its_problems_name_the_variable() {
        let load = |variables: &[(&str, &str)]| {
            let environment: BTreeMap<String, String> =
                variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let origins = Origins { file: None, prefix: "", environment: &environment };
            let view = ViewPlaces {
                schemes: &["postgresql", "mongodb"],
                example: "mongodb://host/db",
                is_optional: true,
            };
            let listen = "127.0.0.1:8081";
            let program = Program { name: "a-service", listen, orchestrates: true, view: Some(view) };
            configuration::read(&origins, |root| from_root(root, program))
        };
        let urls = [("DATABASE_URL", "postgresql://shop:s3cret@db/shop"), ("AMQP_URL", "amqp://mq")];
        let [database, broker] = urls;
        let settings =
            load(&[database, broker, ("AMQP_PREFETCH", "7"), ("LISTEN", "localhost:9000")]).unwrap();
        assert_eq!((settings.prefetch, settings.base.listen.as_str()), (7, "localhost:9000"));
        assert_eq!(settings.saga.style, SagaStyle::Choreography);
        let orchestrated =
            load(&[database, broker, ("SAGA", "orchestration"), ("SAGA_SILENCE_S", "5")]).unwrap();
        let expected = SagaSettings { style: SagaStyle::Orchestration, silence: Duration::from_secs(5) };
        assert_eq!(orchestrated.saga, expected);
        let text = load(&[database, broker, ("SAGA", "chaos")]).unwrap_err().to_string();
        assert!(text.contains("SAGA") && text.contains("\"orchestration\""), "{text}");

        let kept_at =
            |url| load(&[database, broker, ("VIEW_URL", url)]).map(|settings| settings.view.is_some());
        assert!(kept_at("mongodb://u:s3cret@views/history").unwrap());
        assert!(!kept_at("postgresql://history@views/history").unwrap(), "in the service's own database");
        let text = kept_at("redis://u:s3cret@views").unwrap_err().to_string();
        assert!(text.contains("VIEW_URL") && text.contains("mongodb://host/db"), "{text}");
        assert!(!text.contains("s3cret"), "{text}");

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
