//! The nodes, and two instances of outboxd with their own links to both: one leads, the other is off or stands by.

use std::{
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio_postgres::Client;

use crate::{clock::Clock, queues, writers};
use testkit::{Daemon, Postgres, PostgresOptions, Proxy, RabbitMq, RabbitMqOptions, http, run};

pub(crate) const INSTANCES: usize = 2;
pub(crate) const SOURCE: &str = "orders";
pub(crate) const IN_FLIGHT_MAX: u64 = 256;

/// outboxd's configuration, which the report shows.
pub(crate) const RABBITMQ: &str = "heartbeat_s = 2\nconfirm_timeout_ms = 4000\nconnect_timeout_ms = 3000";
pub(crate) const DELIVERY: &str = "postgres.wal_sender_timeout_ms = 4000\ndelivery.backoff_max_ms = 2000";

/// Time limit of every wait, long enough for a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// Name of the database and of the virtual host.
pub(crate) const DATABASE: &str = "chaos";
/// outboxd's user at both servers, and its first password.
pub(crate) const RELAY: &str = "relay";
pub(crate) const PASSWORD: &str = "of the relay";

/// One instance of outboxd.
pub(crate) struct Instance {
    pub(crate) daemon: Mutex<Daemon>,
    pub(crate) admin_port: u16,
    pub(crate) to_postgres: Proxy,
    pub(crate) to_broker: Proxy,
}

/// Wall clocks that can jump.
pub(crate) struct Clocks {
    pub(crate) relay: Clock,
    pub(crate) postgres: Clock,
    pub(crate) broker: Clock,
}

pub(crate) struct World {
    pub(crate) postgres: Postgres,
    pub(crate) broker: RabbitMq,
    pub(crate) clocks: Option<Clocks>,
    pub(crate) instances: Arc<[Instance; INSTANCES]>,
    pub(crate) postgres_url: String,
    pub(crate) amqp_url: String,
}

impl World {
    /// Starts the nodes and one instance, and waits until it is ready.
    pub(crate) async fn create() -> Self {
        let clocks = Clock::several().map(|[relay, postgres, broker]| Clocks { relay, postgres, broker });
        let environment = |clock: fn(&Clocks) -> &Clock| {
            clocks.as_ref().map(|clocks| clock(clocks).environment()).unwrap_or_default()
        };
        let postgres = PostgresOptions {
            environment: environment(|clocks| &clocks.postgres),
            hba: vec![format!("host all {RELAY} 127.0.0.1/32 scram-sha-256")],
            ..Default::default()
        };
        let broker =
            RabbitMqOptions { environment: environment(|clocks| &clocks.broker), ..Default::default() };
        let (postgres, broker) = tokio::join!(Postgres::start(postgres), RabbitMq::start(broker));
        let postgres_url = postgres.create_database(DATABASE).await;
        let client = writers::connect(&postgres_url).await;
        writers::create_tables(&client).await;
        let role = format!("CREATE ROLE {RELAY} LOGIN SUPERUSER PASSWORD '{PASSWORD}'");
        client.batch_execute(&role).await.expect("role created");
        let amqp_url = broker.create_vhost(DATABASE).await;
        broker.create_user(RELAY, PASSWORD).await;
        broker.allow(RELAY, DATABASE, [".*"; 3]).await;
        // Nobody consumes from the queue.
        broker.set_policy(DATABASE, queues::SUBSCRIBED, json!({ "max-length": 1000 })).await;
        queues::declare(&amqp_url).await.expect("queues declared");
        let instances = Arc::new(std::array::from_fn(|_| {
            Instance::prepare(postgres.port(), broker.port(), environment(|clocks| &clocks.relay))
        }));
        let world = Self { postgres, broker, clocks, instances, postgres_url, amqp_url };
        let mut daemon = world.instances[0].daemon.lock().await;
        daemon.start_again();
        daemon.wait_ready(PATIENCE).await;
        drop(daemon);
        world
    }

    /// A client that connects to the server directly.
    pub(crate) async fn client(&self) -> Client {
        writers::connect(&self.postgres_url).await
    }

    /// Waits until one instance streams and the other, if it runs, stands by. Returns the leader.
    pub(crate) async fn settled(&self) -> Result<usize, String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut states = Vec::new();
            for instance in self.instances.iter() {
                states.push(instance.shown().await.map_or_else(String::new, |shown| {
                    shown["state"].as_str().unwrap_or_default().to_owned()
                }));
            }
            for leader in 0..INSTANCES {
                let other = 1 - leader;
                let is_wanted = self.instances[other].daemon.lock().await.is_wanted();
                let others = if is_wanted { "standby" } else { "" };
                if states[leader] == "streaming" && states[other] == others {
                    return Ok(leader);
                }
            }
            if Instant::now() > deadline {
                return Err(format!(
                    "not one instance streaming within {PATIENCE:?}: {states:?}; {}",
                    self.shown().await
                ));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Starts or stops the instance that does not lead. Returns the leader.
    pub(crate) async fn set_standby(&self, wanted: bool) -> Result<usize, String> {
        let leader = self.settled().await?;
        let mut other = self.instances[1 - leader].daemon.lock().await;
        match (wanted, other.is_wanted()) {
            (true, false) => other.start_again(),
            (false, true) => {
                // An instance that lost the slot with messages in flight exits with 1, although its successor has published them
                // since.
                other.sigterm(PATIENCE).await;
            }
            _ => return Ok(leader),
        }
        drop(other);
        self.settled().await
    }

    /// State of both instances, for the message of a failure.
    pub(crate) async fn shown(&self) -> String {
        let mut text = String::new();
        for instance in self.instances.iter() {
            text += &format!("{:#}\n", instance.shown().await.unwrap_or(Value::Null));
        }
        text
    }

    /// Copies all logs into `folder`.
    pub(crate) fn keep_logs(&self, folder: &std::path::Path) {
        let logs = self.instances.iter().enumerate().filter_map(|(number, instance)| {
            Some((format!("outboxd-{number}.log"), instance.daemon.try_lock().ok()?.log_file()))
        });
        let logs: Vec<(String, PathBuf)> = logs
            .chain([("postgres.log".into(), self.postgres.log()), ("rabbitmq.log".into(), self.broker.log())])
            .collect();
        let _ = fs::create_dir_all(folder);
        for (name, log) in logs {
            let _ = fs::copy(log, folder.join(name));
        }
    }
}

impl Instance {
    fn prepare(postgres: u16, broker: u16, environment: Vec<(String, String)>) -> Self {
        let (to_postgres, to_broker) = (Proxy::start(postgres), Proxy::start(broker));
        let secret = run::folder("secret").join("password");
        fs::write(&secret, PASSWORD).expect("password written");
        let secret = secret.display();
        let config = format!(
            "drain_timeout_s = 20\n\
             [rabbitmq]\nurl = \"amqp://127.0.0.1:{}/{DATABASE}\"\nusername = \"{RELAY}\"\n\
             password_file = \"{secret}\"\n{RABBITMQ}\n\
             [sources.{SOURCE}]\npostgres.url = \"postgresql://{RELAY}@127.0.0.1:{}/{DATABASE}\"\n\
             postgres.password_file = \"{secret}\"\n\
             delivery.in_flight_max = {IN_FLIGHT_MAX}\n{DELIVERY}\n{}",
            to_broker.port(),
            to_postgres.port(),
            queues::subscriptions()
        );
        let mut daemon = Daemon::prepare(&config);
        daemon.environment = environment;
        let admin_port = daemon.port();
        Self { daemon: Mutex::new(daemon), admin_port, to_postgres, to_broker }
    }

    /// The source in `/status`, if the instance answers.
    pub(crate) async fn shown(&self) -> Option<Value> {
        let asked = http::get(self.admin_port, "/status");
        let (_, text) = tokio::time::timeout(Duration::from_secs(2), asked).await.ok()?.ok()?;
        let status: Value = serde_json::from_str(&text).ok()?;
        status["sources"].as_array()?.first().cloned()
    }
}
