//! Private RabbitMQ node with its own data, epmd and ports on 127.0.0.1, and the management and consistent-hash
//! plugins.

use super::{
    http,
    ports::Port,
    process::{self, Process},
    run,
};
use hyper::{Method, StatusCode};
use lapin::{Connection, ConnectionProperties};
use serde_json::{Value, json};
use std::{
    fs,
    net::{Ipv4Addr, TcpStream},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};
use tokio::sync::{Mutex, OnceCell};

/// Limit for the start. An Erlang node loads hundreds of modules: seconds alone, much longer beside a compiler on few
/// cores.
const START_LIMIT: Duration = Duration::from_secs(180);
const STOP_LIMIT: Duration = Duration::from_secs(60);
/// `guest:guest` in base64.
const GUEST: &str = "Basic Z3Vlc3Q6Z3Vlc3Q=";

/// Options of a node.
#[derive(Clone, Debug, Default)]
pub struct RabbitMqOptions {
    /// Lines of `rabbitmq.conf`, after those chosen here.
    pub settings: Vec<String>,
    /// Certificate chain and private key in PEM, with which the node listens on [`RabbitMq::tls_port`].
    pub certificate: Option<(String, String)>,
    /// Environment of the node's processes.
    pub environment: Vec<(String, String)>,
}

/// Private node. It ends, and its data with it, when dropped or when this process ends.
#[derive(Debug)]
pub struct RabbitMq {
    folder: PathBuf,
    name: String,
    amqp: Port,
    amqps: Port,
    management: Port,
    distribution: Port,
    epmd_port: Port,
    environment: Vec<(String, String)>,
    node: Mutex<Option<Process>>,
    /// epmd, which tells `rabbitmqctl` the node's distribution port. All starts of the node share it.
    epmd: Mutex<Option<Process>>,
}

/// Returns the node shared by all tests of this process. Each uses its own virtual host.
pub async fn shared_rabbitmq() -> &'static RabbitMq {
    static SHARED: OnceCell<RabbitMq> = OnceCell::const_new();
    SHARED.get_or_init(|| RabbitMq::start(RabbitMqOptions::default())).await
}

impl RabbitMq {
    /// Creates a node and waits until it accepts connections and its management API answers.
    pub async fn start(options: RabbitMqOptions) -> Self {
        let node = Self::create(&options);
        node.start_again().await;
        node
    }

    /// Returns the AMQP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.amqp.number()
    }

    /// Returns the AMQP port with TLS, for a node with a certificate.
    pub fn tls_port(&self) -> u16 {
        self.amqps.number()
    }

    /// Returns the path of the log, which all starts share.
    pub fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// Returns the AMQP URI of a virtual host, for the administrator `guest`.
    pub fn url(&self, vhost: &str) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/{}", self.port(), percent_encoded(vhost))
    }

    /// Returns the URL of the management pages, for `guest` with password `guest`.
    pub fn management_url(&self) -> String {
        format!("http://127.0.0.1:{}/", self.management.number())
    }

    /// Creates a virtual host and returns its AMQP URI.
    pub async fn create_vhost(&self, name: &str) -> String {
        self.api(Method::PUT, &format!("/api/vhosts/{}", percent_encoded(name)), Value::Null).await;
        self.allow("guest", name, [".*"; 3]).await;
        self.url(name)
    }

    /// Creates a user without any right, or changes its password.
    pub async fn create_user(&self, name: &str, password: &str) {
        let user = json!({ "password": password, "tags": "" });
        self.api(Method::PUT, &format!("/api/users/{}", percent_encoded(name)), user).await;
    }

    /// Deletes a user, whose connections stay.
    pub async fn delete_user(&self, name: &str) {
        self.api(Method::DELETE, &format!("/api/users/{}", percent_encoded(name)), Value::Null).await;
    }

    /// Sets a user's rights in a virtual host: patterns for configure, write and read.
    pub async fn allow(&self, user: &str, vhost: &str, [configure, write, read]: [&str; 3]) {
        let rights = json!({ "configure": configure, "write": write, "read": read });
        let path = format!("/api/permissions/{}/{}", percent_encoded(vhost), percent_encoded(user));
        self.api(Method::PUT, &path, rights).await;
    }

    /// Allows a user only those routing keys at a topic exchange that match a pattern.
    pub async fn allow_topics(&self, user: &str, vhost: &str, exchange: &str, write: &str) {
        let rights = json!({ "exchange": exchange, "write": write, "read": ".*" });
        self.api(Method::PUT, &topic_permissions(user, vhost), rights).await;
    }

    /// Allows a user all routing keys again.
    pub async fn allow_all_topics(&self, user: &str, vhost: &str) {
        self.api(Method::DELETE, &topic_permissions(user, vhost), Value::Null).await;
    }

    /// Sets a policy for a queue. The policy has the queue's name.
    pub async fn set_policy(&self, vhost: &str, queue: &str, definition: Value) {
        let policy =
            json!({ "pattern": format!("^{queue}$"), "definition": definition, "apply-to": "queues" });
        self.api(Method::PUT, &policy_path(vhost, queue), policy).await;
    }

    /// Removes a queue's policy.
    pub async fn clear_policy(&self, vhost: &str, queue: &str) {
        self.api(Method::DELETE, &policy_path(vhost, queue), Value::Null).await;
    }

    /// Raises the memory alarm: publishing connections get `connection.blocked` and are no longer read.
    pub async fn block(&self) {
        self.eval("rabbit_alarm:set_alarm({{resource_limit, memory, node()}, []}).").await;
    }

    /// Clears the memory alarm.
    pub async fn unblock(&self) {
        self.eval("rabbit_alarm:clear_alarm({resource_limit, memory, node()}).").await;
    }

    /// Closes every AMQP connection as an administrator does, with a reason. Takes a second.
    pub async fn close_all_connections(&self) {
        self.ctl(&["close_all_connections", "--global", "closed by a test"]).await;
    }

    /// Sends a request to the management API and returns its JSON, or null.
    pub async fn api(&self, method: Method, path: &str, body: Value) -> Value {
        let (status, text) = self
            .request(method.clone(), path, body)
            .await
            .unwrap_or_else(|error| panic!("{method} {path}: {error}; {}", self.log_tail()));
        assert!(status.is_success(), "{method} {path} was answered {status}: {text}");
        serde_json::from_str(&text).unwrap_or(Value::Null)
    }

    /// Evaluates Erlang in the node. Takes a second.
    pub async fn eval(&self, expression: &str) -> String {
        self.ctl(&["eval", expression]).await
    }

    /// Runs `rabbitmqctl` and returns its output. Takes a second.
    pub async fn ctl(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(bin_dir().join("rabbitmqctl"));
        command.args(arguments).current_dir(&self.folder).stdin(Stdio::null());
        self.set_environment(&mut command);
        let output = tokio::process::Command::from(command).output().await.expect("rabbitmqctl runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let complained = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "rabbitmqctl {arguments:?}: {said}{complained}; {}",
            self.log_tail()
        );
        said
    }

    /// Returns the node's process id.
    pub async fn pid(&self) -> u32 {
        self.node.lock().await.as_ref().expect("the node runs").pid()
    }

    /// Stops the node in order.
    pub async fn stop(&self) {
        let Some(mut node) = self.node.lock().await.take() else { return };
        // On SIGTERM the node would stop its applications in an order that makes the management plugin wait five
        // seconds for one that has ended.
        self.ctl(&["stop"]).await;
        let stopped = node.wait_or_kill(STOP_LIMIT).await;
        assert!(stopped, "the private node did not stop; {}", self.log_tail());
    }

    /// Kills the node.
    pub async fn kill9(&self) {
        // The node's port programs end when their pipe to it closes.
        if let Some(mut node) = self.node.lock().await.take() {
            node.signal("KILL");
            node.wait_or_kill(STOP_LIMIT).await;
        }
    }

    /// Freezes the node: it keeps its connections and does nothing.
    pub async fn suspend(&self) {
        self.node.lock().await.as_ref().expect("the node runs").signal("STOP");
    }

    /// Resumes a frozen node.
    pub async fn resume(&self) {
        self.node.lock().await.as_ref().expect("the node runs").signal("CONT");
    }

    /// Starts the node again on the same ports and data.
    pub async fn start_again(&self) {
        let mut running = self.node.lock().await;
        assert!(running.is_none(), "the node has not been stopped");
        self.start_epmd().await;
        let mut command = process::command(bin_dir().join("rabbitmq-server"));
        // The node's standard input is no terminal. With input allowed the script becomes the node instead of its
        // parent.
        command.arg("-noinput").env("RABBITMQ_ALLOW_INPUT", "1");
        self.set_environment(&mut command);
        command.envs(self.environment.iter().cloned());
        let mut node = Process::spawn(command, &self.folder, &self.log());
        let deadline = Instant::now() + START_LIMIT;
        while let Err(reason) = self.answers().await {
            if let Some(status) = node.ended() {
                panic!("the private node did not start ({status}); {}", self.log_tail());
            }
            assert!(Instant::now() < deadline, "the private node is not up: {reason}; {}", self.log_tail());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        *running = Some(node);
    }

    /// Stops the node in order and starts it again.
    pub async fn restart(&self) {
        self.stop().await;
        self.start_again().await;
    }

    async fn start_epmd(&self) {
        let mut epmd = self.epmd.lock().await;
        if epmd.as_mut().is_some_and(|process| process.ended().is_none()) {
            return;
        }
        let mut command = process::command("epmd");
        self.set_environment(&mut command);
        *epmd = Some(Process::spawn(command, &self.folder, &self.log()));
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.epmd_port.number())).is_err() {
            let ended = epmd.as_mut().and_then(Process::ended);
            assert!(ended.is_none(), "the private epmd did not start; {}", self.log_tail());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Checks that the node answers. The listeners start one after the other, the API before the last one.
    async fn answers(&self) -> Result<(), String> {
        TcpStream::connect((Ipv4Addr::LOCALHOST, self.port())).map_err(|error| error.to_string())?;
        let (status, text) = self.request(Method::GET, "/api/overview", Value::Null).await?;
        if status != StatusCode::OK {
            return Err(format!("the management API answers {status}: {text}"));
        }
        let connection = Connection::connect(&self.url("/"), ConnectionProperties::default())
            .await
            .map_err(|error| error.to_string())?;
        connection.close(200, "up".into()).await.map_err(|error| error.to_string())
    }

    async fn request(&self, method: Method, path: &str, body: Value) -> http::Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        http::request(method, self.management.number(), path, &[("authorization", GUEST)], body).await
    }

    fn log_tail(&self) -> String {
        process::tail(&self.log())
    }

    fn create(options: &RabbitMqOptions) -> Self {
        let node = Self {
            folder: run::folder("rabbitmq"),
            name: run::unique("outboxd"),
            amqp: Port::reserve(),
            amqps: Port::reserve(),
            management: Port::reserve(),
            distribution: Port::reserve(),
            epmd_port: Port::reserve(),
            environment: options.environment.clone(),
            node: Mutex::new(None),
            epmd: Mutex::new(None),
        };
        node.write("plugins", "[rabbitmq_management,rabbitmq_consistent_hash_exchange].\n");
        node.write("rabbitmq.conf", &node.settings(options));
        fs::create_dir(node.folder.join("home")).expect("folder for the cookie");
        // The cookie is a secret: a process that knows it may run code in the node.
        let cookie: String = std::iter::repeat_with(fastrand::alphanumeric).take(32).collect();
        node.write("home/.erlang.cookie", &cookie);
        let only_owner = fs::Permissions::from_mode(0o400);
        fs::set_permissions(node.folder.join("home/.erlang.cookie"), only_owner)
            .expect("cookie made private");
        node
    }

    fn settings(&self, options: &RabbitMqOptions) -> String {
        let mut lines = vec![
            format!("listeners.tcp.1 = 127.0.0.1:{}", self.port()),
            "management.tcp.ip = 127.0.0.1".to_owned(),
            format!("management.tcp.port = {}", self.management.number()),
            // Far above the need of tests: quorum queues may hold several write-ahead logs of 512 MiB in memory, and
            // an alarm would block all tests that share the node. Any free disk space is enough.
            "vm_memory_high_watermark.absolute = 3GB".to_owned(),
            "disk_free_limit.absolute = 50MB".to_owned(),
            "log.console = true".to_owned(),
            "log.console.level = info".to_owned(),
            "log.file = false".to_owned(),
            // The management API's figures are at most this old.
            "collect_statistics_interval = 1000".to_owned(),
        ];
        if let Some((chain, key)) = &options.certificate {
            self.write("server.crt", chain);
            self.write("server.key", key);
            lines.push(format!("listeners.ssl.1 = 127.0.0.1:{}", self.tls_port()));
            for (option, file) in
                [("certfile", "server.crt"), ("keyfile", "server.key"), ("cacertfile", "server.crt")]
            {
                lines.push(format!("ssl_options.{option} = {}", self.folder.join(file).display()));
            }
        }
        lines.extend(options.settings.iter().cloned());
        lines.join("\n") + "\n"
    }

    fn write(&self, file: &str, text: &str) {
        let path = self.folder.join(file);
        fs::write(&path, text).unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
    }

    /// Sets every variable that the scripts would otherwise take from this machine's own node or the developer's
    /// shell.
    fn set_environment(&self, command: &mut Command) {
        let of_this_machine = std::env::vars_os().map(|(name, _)| name);
        for name in of_this_machine.filter(|name| {
            let name = name.to_string_lossy();
            name.starts_with("RABBITMQ_") || name.starts_with("ERL_") || name == "NOTIFY_SOCKET"
        }) {
            command.env_remove(name);
        }
        for (name, file) in [
            ("HOME", "home"),
            ("RABBITMQ_CONFIG_FILE", "rabbitmq.conf"),
            ("RABBITMQ_ADVANCED_CONFIG_FILE", "none.config"),
            ("RABBITMQ_CONF_ENV_FILE", "none.env"),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", "plugins"),
            ("RABBITMQ_GENERATED_CONFIG_DIR", "generated"),
            ("RABBITMQ_LOG_BASE", "logs"),
            ("RABBITMQ_MNESIA_BASE", "data"),
            ("ERL_CRASH_DUMP", "crash.dump"),
        ] {
            command.env(name, self.folder.join(file));
        }
        command
            .env("LANG", "C.UTF-8")
            .env("LC_ALL", "C.UTF-8")
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("ERL_EPMD_PORT", self.epmd_port.number().to_string())
            .env("RABBITMQ_DIST_PORT", self.distribution.number().to_string())
            .env("RABBITMQ_LOG", "-color")
            .env("RABBITMQ_NODENAME", format!("{}@localhost", self.name))
            // Two schedulers that sleep when idle, instead of one for each core that spins for a while.
            .env(
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                "-start_epmd false +S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none \
                 -kernel inet_dist_use_interface {127,0,0,1}",
            );
    }
}

impl Drop for RabbitMq {
    fn drop(&mut self) {
        run::sweep(&self.folder);
    }
}

/// Returns the folder of the scripts. Those in the search path require root or the user `rabbitmq`.
fn bin_dir() -> &'static Path {
    static BIN_DIR: OnceLock<PathBuf> = OnceLock::new();
    BIN_DIR.get_or_init(|| {
        let versions = fs::read_dir("/usr/lib/rabbitmq/lib").into_iter().flatten().flatten();
        let of_versions = versions.map(|entry| entry.path().join("sbin"));
        process::first_existing(of_versions.chain([PathBuf::from("/usr/lib/rabbitmq/bin")]))
            .expect("no RabbitMQ below /usr/lib/rabbitmq; `make prerequisites` installs it")
    })
}

fn topic_permissions(user: &str, vhost: &str) -> String {
    format!("/api/topic-permissions/{}/{}", percent_encoded(vhost), percent_encoded(user))
}

fn policy_path(vhost: &str, name: &str) -> String {
    format!("/api/policies/{}/{}", percent_encoded(vhost), percent_encoded(name))
}

/// Encodes a segment of a path: everything but letters and digits becomes `%XX`.
fn percent_encoded(text: &str) -> String {
    let byte =
        |b: u8| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") };
    text.bytes().map(byte).collect()
}
