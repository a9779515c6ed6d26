//! `docker/compose.shop.yaml` without Docker: its scripts, environment and configuration on private servers, one for each database.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use saphyr::{LoadableYamlNode, Scalar, Yaml};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio_postgres::NoTls;

use crate::eventually;
use testkit::{Daemon, Postgres, PostgresOptions, Service, postgres::psql, shared_rabbitmq, unique};

/// Programs of the images, and the key of the address that each listens at.
const PROGRAMS: [(&str, &str); 5] = [
    ("api-gateway", "LISTEN"),
    ("order-service", "LISTEN"),
    ("customer-service", "LISTEN"),
    ("order-history", "LISTEN"),
    ("outboxd", "OUTBOXD__ADMIN__LISTEN"),
];

/// The shop as Compose reads it: a service that extends one of the other file has that one's keys, too.
#[derive(Debug, Deserialize)]
struct Compose {
    services: BTreeMap<String, Container>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Container {
    image: String,
    build: Option<Build>,
    #[serde(default)]
    command: Vec<String>,
    #[serde(default)]
    environment: BTreeMap<String, String>,
    #[serde(default)]
    volumes: Vec<String>,
    #[serde(default)]
    ports: Vec<String>,
    #[serde(default)]
    cap_drop: Vec<String>,
    #[serde(default)]
    security_opt: Vec<String>,
    #[serde(default)]
    read_only: bool,
    healthcheck: Option<HealthCheck>,
    hostname: Option<String>,
    pull_policy: Option<String>,
    restart: Option<String>,
    stop_grace_period: Option<String>,
}

#[derive(Debug, Deserialize)]
struct HealthCheck {
    test: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Build {
    context: String,
    dockerfile: String,
    target: Option<String>,
}

/// A file of the folder `docker` as JSON.
fn document(file: &str) -> Value {
    let text = fs::read_to_string(folder().join(file)).unwrap();
    let documents = Yaml::load_from_str(&text).unwrap();
    assert_eq!(documents.len(), 1, "{file}");
    json_of(&documents[0])
}

/// Lays the keys of `over` over those of `under`, as `extends` does: tables by key, volumes by their place in the container.
fn extended(mut under: Value, over: Value) -> Value {
    let Value::Object(over) = over else { panic!("{over} is no service") };
    for (key, value) in over {
        match (&*key, value) {
            ("environment", Value::Object(more)) => {
                let environment = under["environment"].as_object_mut().unwrap();
                environment.extend(more);
            }
            ("volumes", Value::Array(more)) => {
                let volumes = under["volumes"].as_array_mut().unwrap();
                let target = |volume: &Value| mount(volume.as_str().unwrap()).1.to_owned();
                volumes.retain(|one| more.iter().all(|other| target(other) != target(one)));
                volumes.extend(more);
            }
            (key, value) => under[key] = value,
        }
    }
    under
}

impl Compose {
    fn read() -> Self {
        let mut compose = document("compose.shop.yaml");
        for service in compose["services"].as_object_mut().unwrap().values_mut() {
            let Some(extends) = service.as_object_mut().unwrap().remove("extends") else { continue };
            let base = document(extends["file"].as_str().unwrap());
            let base = base["services"][extends["service"].as_str().unwrap()].clone();
            *service = extended(base, service.take());
        }
        serde_json::from_value(compose).unwrap()
    }

    /// Database servers with their names.
    fn servers(&self) -> impl Iterator<Item = (&str, &Container)> {
        let is_server = |(_, container): &(&String, &Container)| container.image.starts_with("postgres:");
        self.services.iter().filter(is_server).map(|(name, container)| (name.as_str(), container))
    }
}

impl Container {
    /// Files that the server's first start runs, in the order of their names in the container.
    fn scripts(&self) -> Vec<PathBuf> {
        let mut mounts: Vec<(&str, &str)> = self.volumes.iter().map(|volume| mount(volume)).collect();
        mounts.sort_by_key(|(_, target)| *target);
        let scripts = mounts.into_iter().filter(|(_, to)| to.starts_with("/docker-entrypoint-initdb.d/"));
        scripts.map(|(file, _)| folder().join(file)).collect()
    }

    fn has_logical_wal(&self) -> bool {
        self.command == ["postgres", "-c", "wal_level=logical"]
    }
}

/// Returns the part of YAML that the files use, as JSON. Anchors are resolved, and `<<` gives the keys that are not there.
fn json_of(yaml: &Yaml<'_>) -> Value {
    match yaml {
        Yaml::Value(Scalar::String(text)) => json!(text),
        Yaml::Value(Scalar::Integer(number)) => json!(number),
        Yaml::Value(Scalar::Boolean(flag)) => json!(flag),
        Yaml::Sequence(items) => items.iter().map(json_of).collect(),
        Yaml::Mapping(entries) => {
            let mut table = Map::new();
            for (key, value) in entries {
                match (key.as_str().unwrap(), json_of(value)) {
                    ("<<", Value::Object(merged)) => merged.into_iter().for_each(|(key, value)| {
                        table.entry(key).or_insert(value);
                    }),
                    (key, value) => drop(table.insert(key.to_owned(), value)),
                }
            }
            Value::Object(table)
        }
        other => panic!("the compose file has a value of another kind: {other:?}"),
    }
}

/// Splits `file:target:ro`.
fn mount(volume: &str) -> (&str, &str) {
    let parts: Vec<&str> = volume.split(':').collect();
    let [file, target, "ro"] = parts[..] else { panic!("{volume} is no file:target:ro") };
    (file, target)
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docker")
}

/// Host of a URL: `orders-db` of `postgresql://orders:secret@orders-db:5432/orders`.
fn host(url: &str) -> &str {
    url.split_once('@').unwrap().1.split(':').next().unwrap()
}

#[test]
fn each_service_of_the_compose_file_has_a_server_of_its_own() {
    let compose = Compose::read();
    let servers: BTreeSet<&str> = compose.servers().map(|(name, _)| name).collect();
    let mut used = BTreeSet::new();
    for program in ["order-service", "customer-service", "order-history"] {
        let server = host(&compose.services[program].environment["DATABASE_URL"]);
        assert!(used.insert(server), "{server} has two databases");
    }
    assert_eq!(used, servers);
    let relayed: BTreeSet<&str> = compose.services["outboxd"]
        .environment
        .iter()
        .filter(|(key, _)| key.ends_with("__POSTGRES__URL"))
        .map(|(_, url)| host(url))
        .collect();
    let logical: BTreeSet<&str> =
        compose.servers().filter(|(_, server)| server.has_logical_wal()).map(|(name, _)| name).collect();
    assert_eq!(relayed, logical, "outboxd streams from these servers");
}

#[test]
fn every_file_and_port_of_the_compose_file_is_there() {
    let compose = Compose::read();
    for (name, container) in &compose.services {
        for (file, _) in container.volumes.iter().map(|volume| mount(volume)) {
            assert!(folder().join(file).is_file(), "{name}: {file}");
        }
        for port in &container.ports {
            assert!(port.starts_with("127.0.0.1:"), "{name}: {port} is open to other machines");
        }
    }
    let dockerfile = fs::read_to_string(folder().join("Dockerfile")).unwrap();
    for (program, key) in PROGRAMS {
        let container = &compose.services[program];
        let Build { context, dockerfile: file, target } = container.build.as_ref().unwrap();
        let shop = ("outboxd-shop", Some("shop"));
        let expected = if program == "outboxd" { ("outboxd", None) } else { shop };
        assert_eq!((&*container.image, target.as_deref()), expected);
        assert_eq!((&**context, &**file), ("..", "docker/Dockerfile"));
        assert!(dockerfile.lines().any(|line| line.contains("release/build.sh") && line.contains(program)));
        let listens = container.environment[key].strip_prefix("0.0.0.0:").unwrap();
        assert_eq!(container.ports, [format!("127.0.0.1:{listens}:{listens}")]);
        // Never asked for at a registry, where the name may be somebody else's.
        assert_eq!(container.pull_policy.as_deref(), Some("build"));
        // Longer than drain_timeout_s.
        assert_eq!(container.stop_grace_period.as_deref(), Some("45s"));
        assert!(container.read_only, "{program} writes no file");
        assert_eq!((&*container.cap_drop, container.security_opt.len()), (&["ALL".to_owned()][..], 1));
        if program != "outboxd" {
            assert_eq!(container.command, [program]);
            assert_eq!(container.healthcheck.as_ref().unwrap().test, ["CMD", program, "health"]);
        }
    }
    for (name, container) in &compose.services {
        // Also after a restart of the machine, where "on-failure" starts nothing.
        assert_eq!(container.restart.as_deref(), Some("unless-stopped"), "{name}");
    }
    // The folder of the node's data has the name of the host in it.
    assert_eq!(compose.services["rabbitmq"].hostname.as_deref(), Some("rabbitmq"));
}

#[test]
fn prometheus_scrapes_every_program_of_the_compose_files() {
    let targets = |file: &str| -> BTreeSet<String> {
        let document = document(file);
        let jobs = document["scrape_configs"].as_array().unwrap().iter();
        let targets = jobs.flat_map(|job| job["static_configs"][0]["targets"].as_array().unwrap());
        targets.map(|target| target.as_str().unwrap().to_owned()).collect()
    };
    let compose = Compose::read();
    let listening = PROGRAMS.map(|(program, key)| {
        let port = compose.services[program].environment[key].rsplit(':').next().unwrap();
        format!("{program}:{port}")
    });
    assert_eq!(targets("prometheus.shop.yml"), BTreeSet::from(listening));
    assert_eq!(targets("prometheus.yml"), BTreeSet::from(["outboxd:9464".to_owned()]));
}

#[test]
fn the_labels_of_the_images_have_the_version_of_the_package() {
    let dockerfile = fs::read_to_string(folder().join("Dockerfile")).unwrap();
    let versions: Vec<&str> =
        dockerfile.lines().filter_map(|line| line.strip_prefix("ARG VERSION=")).collect();
    assert_eq!(versions, [env!("CARGO_PKG_VERSION"); 2]);
}

/// A server as the compose file describes it, which asks for passwords.
async fn server(container: &Container) -> Postgres {
    let level = if container.has_logical_wal() { "logical" } else { "replica" };
    let roles = "orders,customers,history,outboxd,history_reader";
    let server = Postgres::start(PostgresOptions {
        settings: vec![("wal_level".to_owned(), level.to_owned())],
        hba: vec![format!("host all {roles} 127.0.0.1/32 scram-sha-256")],
        own_system: true,
        ..Default::default()
    })
    .await;
    let url = server.create_database(&container.environment["POSTGRES_DB"]).await;
    for script in container.scripts() {
        let (url, script) = (url.clone(), fs::read_to_string(script).unwrap());
        tokio::task::spawn_blocking(move || psql(&url, &script)).await.unwrap();
    }
    server
}

#[tokio::test]
async fn the_compose_file_describes_a_shop_that_works() {
    let compose = Compose::read();
    let mut servers = BTreeMap::new();
    for (name, container) in compose.servers() {
        servers.insert(name, server(container).await);
    }
    let amqp = shared_rabbitmq().await.create_vhost(&unique("compose_shop")).await;
    let here = |value: &str| {
        if value.starts_with("amqp://") {
            assert_eq!(host(value), "rabbitmq");
            return amqp.clone();
        }
        servers.iter().fold(value.to_owned(), |value, (name, server)| {
            value.replace(&format!("@{name}:5432/"), &format!("@127.0.0.1:{}/", server.port()))
        })
    };
    let environment = |program: &str| {
        let all = compose.services[program].environment.iter();
        // A private port takes the place of the container's.
        let kept = all.filter(|(name, _)| !name.ends_with("LISTEN"));
        kept.map(|(name, value)| (name.clone(), here(value))).collect::<Vec<_>>()
    };
    let start = async |program: &'static str, others: &[(&str, &Service)]| {
        let mut service = Service::with_arguments(program, &[]);
        for (name, value) in environment(program) {
            let value = others.iter().fold(value, |value, (name, other)| {
                let listens = &compose.services[*name].environment["LISTEN"];
                let port = listens.rsplit(':').next().unwrap();
                value.replace(&format!("http://{name}:{port}"), &format!("http://127.0.0.1:{}", other.port()))
            });
            assert!(!value.starts_with("http://") || value.starts_with("http://127."), "{name}: {value}");
            service = service.with(name.leak(), &value);
        }
        service.start_again();
        service.wait_ready(crate::PATIENCE).await;
        service
    };
    let [orders, customers, history] = [
        start("order-service", &[]).await,
        start("customer-service", &[]).await,
        start("order-history", &[]).await,
    ];
    let others = [("order-service", &orders), ("customer-service", &customers), ("order-history", &history)];
    let gateway = start("api-gateway", &others).await;
    let config = compose.services["outboxd"].volumes.iter().map(|volume| mount(volume));
    let (config, _) = config.into_iter().find(|(_, target)| *target == "/etc/outboxd/outboxd.toml").unwrap();
    let mut relay = Daemon::prepare(&fs::read_to_string(folder().join(config)).unwrap());
    relay.environment = environment("outboxd");
    relay.start_again();
    relay.wait_ready(crate::PATIENCE).await;

    let customer = json!({ "name": "Ada", "creditLimit": { "amount": 10 } });
    let (status, answer) = gateway.post("/api/customers", &customer).await;
    assert_eq!(status, 201, "{answer}");
    let customer = &answer["customerId"];
    let order = json!({ "customerId": customer, "orderTotal": { "amount": 7.5 } });
    let (status, answer) = gateway.post("/api/orders", &order).await;
    assert_eq!(status, 201, "{answer}");
    let shown = eventually("the view shows the order approved", async || {
        let (_, view) = gateway.get(&format!("/api/customers/{customer}/orderhistory")).await;
        (view["orders"][0]["state"] == "APPROVED").then_some(view)
    })
    .await;
    assert_eq!(shown["orders"][0]["orderId"], answer["orderId"]);
    let (status, composed) = gateway.get(&format!("/api/customers/{customer}/orders")).await;
    assert_eq!((status, &composed["unavailable"]), (200, &json!([])), "{composed}");
    assert_eq!(composed["orders"][0]["orderId"], answer["orderId"]);
    let (status, saga) = orders.get(&format!("/orders/{}/saga", answer["orderId"])).await;
    assert_eq!((status, &saga["state"]), (200, &json!("COMPLETED")), "{saga}");

    // The role for reports, with its password.
    let url =
        format!("postgresql://history_reader:secret@127.0.0.1:{}/history", servers["history-db"].port());
    let (reader, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    tokio::spawn(connection);
    let row = reader.query_one(include_str!("../../../../config/history-turnover.sql"), &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>("name"), "Ada");
    reader.query("SELECT FROM inbox", &[]).await.unwrap_err();
}
