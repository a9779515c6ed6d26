//! A booted Debian with PostgreSQL, RabbitMQ and the packages, in which the steps of a page run.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use lapin::{options::BasicAckOptions, types::FieldTable};
use testkit::{
    BootedRoot, Oracle, PageBlock, PageSteps, Workload,
    consumer::{Reading, received},
};
use tokio::task::JoinHandle;

/// What the page's example calls database and queue.
const DATABASE: &str = "orders";
const QUEUE: &str = "billing.orders";

/// Time in which everything that was written arrives, on a busy machine.
const SETTLE_LIMIT: Duration = Duration::from_secs(120);

pub(crate) struct Machine {
    pub(crate) root: BootedRoot,
    postgres: u16,
    rabbitmq: u16,
}

/// Result of a command of a package manager.
pub(crate) struct Said {
    pub(crate) text: String,
    pub(crate) took: Duration,
}

impl Machine {
    /// Boots, makes the database of the page's example, and brings in the package and its successors.
    pub(crate) async fn start() -> Self {
        let root = BootedRoot::start().await;
        let workload = Workload::default();
        root.shell(
            "set -e
             echo 'APT::Get::Assume-Yes \"true\";' >/etc/apt/apt.conf.d/90tests
             sudo -u postgres psql -q -c \"ALTER SYSTEM SET wal_level = logical\" -c \"ALTER USER postgres PASSWORD 'postgres'\"
             systemctl restart postgresql@15-main
             sudo -u postgres createdb orders
             rabbitmqctl --quiet await_startup",
        )
        .await;
        let (postgres, rabbitmq) = (root.forward(5432).await, root.forward(5672).await);
        let machine = Self { root, postgres, rabbitmq };
        let (client, connection) =
            tokio_postgres::connect(&machine.postgres_url(), tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        workload.create_tables(&client).await;
        let folder = tempfile::tempdir().unwrap();
        let first = package();
        machine.root.copy_in(&first, &format!("/root/{}", name(&first)));
        for successor in [1, 2, 3] {
            let next = repackaged(&first, successor, folder.path());
            machine.root.copy_in(&next, &format!("/root/{}", name(&next)));
        }
        machine
    }

    fn postgres_url(&self) -> String {
        format!("postgresql://postgres:postgres@127.0.0.1:{}/{DATABASE}", self.postgres)
    }

    /// Runs the blocks of a numbered step: files are written into /etc/outboxd, commands run in /root.
    pub(crate) async fn step(&self, steps: &PageSteps, number: usize) -> String {
        let step =
            steps.iter().find(|step| step.number == number).unwrap_or_else(|| panic!("no step {number}"));
        assert!(!step.blocks.is_empty(), "step {number} has nothing to run: {}", step.words);
        let mut said = String::new();
        for PageBlock { place, language, file, text } in &step.blocks {
            match (&**language, file) {
                (_, Some(file)) => fs::write(self.root.path(&format!("/etc/outboxd/{file}")), text).unwrap(),
                ("sh", None) => said = self.root.shell(&format!("set -e\n{text}")).await,
                (other, None) => panic!("{place}: a block of {other} cannot be run"),
            }
            println!("{place}\n{text}{said}");
        }
        said
    }

    /// Runs a command of a package manager, which must succeed.
    pub(crate) async fn packages(&self, command: &str) -> Said {
        let began = Instant::now();
        let text = self.root.shell(&format!("{command} 2>&1")).await;
        let took = began.elapsed();
        println!("{command}: {took:?}\n{text}");
        Said { text, took }
    }

    /// Installs a successor of the package.
    pub(crate) async fn upgrade(&self, successor: u32) -> Said {
        self.packages(&format!(
            "apt-get install --allow-downgrades ./outboxd_{}_amd64.deb",
            successor_version(successor)
        ))
        .await
    }

    /// Installs, fills in and starts by the steps of the page.
    pub(crate) async fn set_up(&self) {
        let steps = PageSteps::below("docs/start/install.md", "Debian package");
        for number in 1..=7 {
            self.step(&steps, number).await;
        }
        self.until_streaming().await;
    }

    /// Waits until `status` shows the source as streaming.
    pub(crate) async fn until_streaming(&self) {
        self.until("outboxd status 2>&1", |said| said.contains("streaming")).await;
    }

    /// Repeats a command until its output is as wanted.
    pub(crate) async fn until(&self, command: &str, wanted: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + SETTLE_LIMIT;
        loop {
            let output = self.root.run(command).await;
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            if wanted(&said) {
                return said;
            }
            if Instant::now() > deadline {
                panic!("{command} says for long:\n{said}\n{}", self.root.journal("outboxd").await);
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Property of the service.
    pub(crate) async fn property(&self, name: &str) -> String {
        self.root.property("outboxd", name).await
    }

    /// Consumes what the subscription of the page gets, until the handle is dropped.
    pub(crate) fn consume(&self, oracle: &Oracle) -> Consuming {
        let url = format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.rabbitmq);
        let oracle = oracle.clone();
        Consuming(tokio::spawn(async move {
            loop {
                // Ends when the broker does; opened again until the broker is back.
                if let Ok(mut reading) = Reading::open(&url, QUEUE, 100, FieldTable::default()).await {
                    while let Ok(Some(delivery)) = reading.next().await {
                        oracle.received(received(&delivery));
                        let _ = delivery.ack(BasicAckOptions::default()).await;
                    }
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }))
    }

    /// Writes transactions, while the given future runs, or as many as the workload has.
    pub(crate) async fn write(
        &self,
        workload: &Workload,
        oracle: &Oracle,
        meanwhile: impl Future<Output = ()>,
    ) {
        let url = self.postgres_url();
        let written = async {
            workload.run(&url, oracle).await;
        };
        let stops = async {
            meanwhile.await;
            workload.stopped.store(true, Ordering::Relaxed);
        };
        tokio::join!(written, stops);
    }

    /// Writes some transactions.
    pub(crate) async fn write_some(&self, transactions: usize, oracle: &Oracle) {
        let workload = Workload { transactions, ..Workload::default() };
        workload.run(&self.postgres_url(), oracle).await;
    }

    /// Waits until all rows have arrived, and demands every row in order, with at most so many duplicates.
    pub(crate) async fn assert_delivered(&self, oracle: &Oracle, duplicates_max: usize) {
        let verdict = oracle.settle(SETTLE_LIMIT, Duration::from_secs(2)).await;
        println!(
            "{} rows, {} messages, {} duplicates",
            verdict.committed, verdict.received, verdict.duplicates
        );
        if !verdict.lost.is_empty() || verdict.duplicates > duplicates_max {
            println!("{}", self.root.journal("outboxd").await);
        }
        verdict.assert_delivered(duplicates_max);
    }

    /// Paths of all files that no service changes by itself.
    pub(crate) async fn files(&self) -> BTreeSet<String> {
        let found = self
            .root
            .shell(
                "find / -xdev \\( -path /proc -o -path /sys -o -path /dev -o -path /run -o -path /tmp -o -path /root -o -path /var/tmp \
                 -o -path /var/log -o -path /var/cache -o -path /var/lib/postgresql -o -path /var/lib/rabbitmq -o -path /var/lib/dpkg \
                 -o -path /var/lib/apt -o -path /var/lib/systemd/timers \\) -prune -o -print",
            )
            .await;
        found.lines().map(str::to_owned).collect()
    }
}

/// Running consumer.
pub(crate) struct Consuming(JoinHandle<()>);

impl Drop for Consuming {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The package of `make deb`.
pub(crate) fn package() -> PathBuf {
    let version = env!("CARGO_PKG_VERSION");
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("target/dist/deb/outboxd_{version}-1_amd64.deb"));
    assert!(path.is_file(), "{} is not there: make deb", path.display());
    path
}

fn name(package: &Path) -> String {
    package.file_name().unwrap().to_str().unwrap().to_owned()
}

/// Version of a successor: the patch level is so much higher.
pub(crate) fn successor_version(successor: u32) -> String {
    let (front, patch) = env!("CARGO_PKG_VERSION").rsplit_once('.').unwrap();
    format!("{front}.{}-1", patch.parse::<u32>().unwrap() + successor)
}

/// The package with a higher version, and the same content.
fn repackaged(first: &Path, successor: u32, folder: &Path) -> PathBuf {
    let version = successor_version(successor);
    let content = folder.join(format!("content-{successor}"));
    let run = |arguments: &[&str]| {
        let dpkg = Command::new("dpkg-deb").args(arguments).output().unwrap();
        assert!(dpkg.status.success(), "{}", String::from_utf8_lossy(&dpkg.stderr));
    };
    run(&["--raw-extract", first.to_str().unwrap(), content.to_str().unwrap()]);
    let control = content.join("DEBIAN/control");
    let text = fs::read_to_string(&control).unwrap();
    let old = format!("Version: {}-1\n", env!("CARGO_PKG_VERSION"));
    assert!(text.contains(&old), "{text}");
    fs::write(&control, text.replace(&old, &format!("Version: {version}\n"))).unwrap();
    let package = folder.join(format!("outboxd_{version}_amd64.deb"));
    run(&[
        "--root-owner-group",
        "-Zgzip",
        "-z1",
        "--build",
        content.to_str().unwrap(),
        package.to_str().unwrap(),
    ]);
    package
}
