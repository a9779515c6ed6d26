//! A booted Debian with PostgreSQL, RabbitMQ and outboxd's units, as an administrator sets them up.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    time::{Duration, Instant},
};

use testkit::{BootedRoot, PageStep, programs};

/// Longest wait for anything that takes seconds on an idle machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Creates the user that the units run as, a database with an outbox, and a password for the tests' own connections.
const PREPARE: &str = "
    set -e
    cd /
    useradd --system --no-create-home --shell /usr/sbin/nologin outboxd
    install -d -m 0755 /etc/outboxd
    install -d -m 0700 /etc/outboxd/secrets
    sudo -u postgres psql -q -c 'ALTER SYSTEM SET wal_level = logical'
    sudo -u postgres psql -q -c \"ALTER ROLE postgres PASSWORD 'postgres'\"
    systemctl restart postgresql
    sudo -u postgres psql -q -c 'CREATE DATABASE orders'
    outboxd schema | sudo -u postgres psql -q -d orders
    systemctl daemon-reload";

/// Configuration of one source over the Unix socket, where PostgreSQL knows the user by its name (peer).
pub(crate) const BY_SOCKET: &str = "
    [rabbitmq]
    url = \"amqp://guest:guest@127.0.0.1:5672/%2f\"

    [sources.orders]
    postgres.url = \"postgresql://outboxd@/orders?host=/run/postgresql\"
    delivery.backoff_max_ms = 500
";

/// The booted root with outboxd. Ends when dropped.
pub(crate) struct Host {
    pub(crate) root: BootedRoot,
}

impl Host {
    /// Boots, and installs outboxd and the units of this repository.
    pub(crate) async fn start() -> Self {
        let root = BootedRoot::start().await;
        root.copy_in(&programs::executable("outboxd"), "/usr/bin/outboxd");
        for unit in ["outboxd.service", "outboxd@.service"] {
            let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd").join(unit);
            root.copy_in(&file, &format!("/etc/systemd/system/{unit}"));
        }
        root.shell(PREPARE).await;
        Self { root }
    }

    /// As [`start`](Self::start), with a configuration and the role that outboxd prints for it.
    pub(crate) async fn configured(configuration: &str) -> Self {
        let host = Self::start().await;
        host.write("/etc/outboxd/outboxd.toml", configuration, 0o644);
        host.root
            .shell("cd /; outboxd setup --print-sql | sudo -u postgres psql -q -v ON_ERROR_STOP=1 -d orders")
            .await;
        host
    }

    /// Writes a file of the root, which belongs to root.
    pub(crate) fn write(&self, file: &str, content: &str, mode: u32) {
        let path = self.root.path(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Adds settings to a unit: the section `[Service]` of a drop-in.
    pub(crate) async fn drop_in(&self, unit: &str, settings: &str) {
        self.write(
            &format!("/etc/systemd/system/{unit}.d/test.conf"),
            &format!("[Service]\n{settings}\n"),
            0o644,
        );
        self.root.shell("systemctl daemon-reload").await;
    }

    /// Runs statements as the superuser in the database `orders`. Returns what psql printed.
    pub(crate) async fn sql(&self, statements: &str) -> String {
        let script = format!(
            "cd /; sudo -u postgres psql -X -q -A -t -v ON_ERROR_STOP=1 -d orders <<'END OF SQL'\n{statements}\nEND OF SQL"
        );
        self.root.shell(&script).await.trim().to_owned()
    }

    /// Inserts rows of the aggregate type `Order`.
    pub(crate) async fn insert(&self, rows: usize) {
        self.sql(&format!(
            "INSERT INTO outbox (aggregatetype, aggregateid, type, payload)
             SELECT 'Order', 'a' || n % 10, 'OrderCreated', jsonb_build_object('n', n) FROM generate_series(1, {rows}) n"
        ))
        .await;
    }

    /// Binds a durable queue to the exchange of those rows.
    pub(crate) async fn bind(&self, queue: &str) {
        let url = self.broker_url().await;
        testkit::consumer::bind(&url, "Order.events", queue, "#").await;
    }

    /// URL that reaches the root's RabbitMQ from this machine.
    pub(crate) async fn broker_url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.root.forward(5672).await)
    }

    /// URL that reaches the root's PostgreSQL from this machine, as the superuser.
    pub(crate) async fn database_url(&self) -> String {
        format!("postgresql://postgres:postgres@127.0.0.1:{}/orders", self.root.forward(5432).await)
    }

    /// Runs the blocks of a page's step as an administrator, and compares the output with what the page shows.
    pub(crate) async fn follow(&self, step: &PageStep) {
        assert!(!step.blocks.is_empty(), "step {} has nothing to run: {}", step.number, step.words);
        let mut output = String::new();
        for block in &step.blocks {
            println!("{}\n{}", block.place, block.text);
            match &*block.language {
                "sh" => {
                    let ran = self.root.run(&format!("exec 2>&1; set -eu; {}", block.text)).await;
                    output = String::from_utf8_lossy(&ran.stdout).into_owned();
                    assert!(ran.status.success(), "{}: {}\n{output}", block.place, ran.status);
                    println!("{output}");
                }
                "text" => block.compare(&output),
                other => panic!("{}: a block of {other} cannot be run", block.place),
            }
        }
    }

    /// What the unit's status line says of the sources.
    pub(crate) async fn status(&self, unit: &str) -> String {
        self.root.property(unit, "StatusText").await
    }

    /// Waits until the status line has a text.
    pub(crate) async fn until_status(&self, unit: &str, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status(unit).await;
            if status.contains(text) {
                return status;
            }
            if Instant::now() > deadline {
                panic!(
                    "{unit}: the status is {status:?}, without {text:?}\n{}",
                    self.root.journal(unit).await
                );
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Number of restarts that systemd has made.
    pub(crate) async fn restarts(&self, unit: &str) -> u32 {
        self.root.property(unit, "NRestarts").await.parse().unwrap()
    }

    /// Waits until systemd has restarted a unit so often.
    pub(crate) async fn until_restarts(&self, unit: &str, restarts: u32) {
        let deadline = Instant::now() + PATIENCE;
        while self.restarts(unit).await < restarts {
            if Instant::now() > deadline {
                panic!("{unit} is not restarted {restarts} times\n{}", self.root.journal(unit).await);
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}
