//! Private PostgreSQL server with its own data folder and port on 127.0.0.1, ready for logical replication.
//!
//! `initdb` runs once in a process. Every server starts from a copy of its result.

use super::{
    ports::Port,
    process::{self, Process},
    run,
};
use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
    time::{Duration, Instant},
};
use tokio::sync::{Mutex, OnceCell};

/// Limit for the start, which includes crash recovery on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Limit for a fast shutdown, which waits for WAL senders to send the rest.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// Options of a server.
#[derive(Clone, Debug, Default)]
pub struct PostgresOptions {
    /// Settings of `postgresql.conf`, which override those chosen here. Values are quoted here.
    pub settings: Vec<(String, String)>,
    /// Lines of `pg_hba.conf`, before those that trust every local user.
    pub hba: Vec<String>,
    /// Certificate chain and private key in PEM, with which the server offers TLS.
    pub certificate: Option<(String, String)>,
    /// Set if the server gets a system identifier of its own. Other servers are copies with a common one.
    pub own_system: bool,
    /// Environment of the server's processes.
    pub environment: Vec<(String, String)>,
}

/// Private server. It ends, and its data with it, when dropped or when this process ends.
#[derive(Debug)]
pub struct Postgres {
    folder: PathBuf,
    socket_folder: PathBuf,
    port: Port,
    environment: Vec<(String, String)>,
    process: Mutex<Option<Process>>,
}

/// Returns the server shared by all tests of this process. Each uses its own database.
pub async fn shared_postgres() -> &'static Postgres {
    static SHARED: OnceCell<Postgres> = OnceCell::const_new();
    SHARED.get_or_init(|| Postgres::start(PostgresOptions::default())).await
}

impl Postgres {
    /// Creates a server and waits until it accepts connections.
    pub async fn start(options: PostgresOptions) -> Self {
        let server = tokio::task::spawn_blocking(|| Self::create(options)).await.expect("created");
        server.start_again().await;
        server
    }

    /// Returns the server's port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Returns the folder of the Unix socket, the `host` of a connection string.
    pub fn socket_dir(&self) -> &Path {
        &self.socket_folder
    }

    /// Returns the path of the log, which all starts share.
    pub fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// Returns the data folder.
    pub fn data_dir(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Returns a connection string for a superuser without a password.
    pub fn url(&self, database: &str) -> String {
        format!("postgresql://postgres@127.0.0.1:{}/{database}", self.port())
    }

    /// Creates an empty database and returns its connection string.
    pub async fn create_database(&self, name: &str) -> String {
        let client = self.client("postgres").await;
        client.batch_execute(&format!("CREATE DATABASE \"{name}\"")).await.expect("database created");
        self.url(name)
    }

    /// Waits until commits wait for a synchronous standby. After a reload the checkpointer publishes the setting with
    /// a delay.
    pub async fn commits_wait(&self, database: &str) {
        let probe = self.client(database).await;
        let probing = tokio::spawn(async move {
            let commit = "SET synchronous_commit = on; SELECT pg_logical_emit_message(true, 'probe', '')";
            while probe.batch_execute(commit).await.is_ok() {}
        });
        let client = self.client(database).await;
        let waiting = "SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        while client.query_opt(waiting, &[]).await.expect("the server answers").is_none() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        probing.abort();
    }

    /// Returns a client, driven by a task of the calling runtime.
    pub async fn client(&self, database: &str) -> tokio_postgres::Client {
        let (client, connection) =
            tokio_postgres::connect(&self.url(database), tokio_postgres::NoTls).await.unwrap_or_else(
                |error| panic!("cannot connect to the private server: {error}\n{}", self.log_tail()),
            );
        tokio::spawn(connection);
        client
    }

    /// Returns the postmaster's process id.
    pub async fn pid(&self) -> u32 {
        self.process.lock().await.as_ref().expect("the server runs").pid()
    }

    /// Stops the server as `pg_ctl stop -m fast` does: clients are disconnected, everything is written.
    pub async fn stop_fast(&self) {
        self.stop_by("INT").await;
    }

    /// Stops the server as `pg_ctl stop -m immediate` does: recovery follows at the next start.
    pub async fn stop_immediate(&self) {
        self.stop_by("QUIT").await;
    }

    /// Kills the postmaster and all its children at once, as the kernel does when memory runs out.
    pub async fn kill9(&self) {
        let Some(mut process) = self.process.lock().await.take() else { return };
        // Children end by themselves, but some only after their current work, and no new postmaster may start on the
        // data before.
        let mut pids = process::children(process.pid());
        pids.push(process.pid());
        process::signal(&pids, "KILL");
        process.wait_or_kill(STOP_LIMIT).await;
        while pids.iter().any(|pid| process::is_running(*pid)) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Starts the server again on the same port and data.
    pub async fn start_again(&self) {
        let mut running = self.process.lock().await;
        assert!(running.is_none(), "the server has not been stopped");
        let mut command = as_server_user(&bin_dir().join("postgres"));
        command.arg("-D").arg(self.data_dir()).envs(self.environment.iter().cloned());
        let mut process = Process::spawn(command, &self.folder, &self.log());
        let deadline = Instant::now() + START_LIMIT;
        while !self.says_ready(process.pid()) {
            if let Some(status) = process.ended() {
                panic!("the private server did not start ({status}); {}", self.log_tail());
            }
            assert!(
                Instant::now() < deadline,
                "the private server is not ready in time; {}",
                self.log_tail()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        *running = Some(process);
    }

    /// Stops the server in fast mode and starts it again.
    pub async fn restart(&self) {
        self.stop_fast().await;
        self.start_again().await;
    }

    /// Copies a stopped server's data to a place that is removed with the server.
    pub async fn back_up(&self, name: &str) -> PathBuf {
        assert!(self.process.lock().await.is_none(), "the server has not been stopped");
        let backup = self.folder.join(name);
        checked(Command::new("cp").args(["-a", "--reflink=auto"]).arg(self.data_dir()).arg(&backup));
        backup
    }

    /// Replaces a stopped server's data by a backup.
    pub async fn put_back(&self, backup: &Path) {
        assert!(self.process.lock().await.is_none(), "the server has not been stopped");
        fs::remove_dir_all(self.data_dir()).expect("data removed");
        checked(Command::new("cp").args(["-a", "--reflink=auto"]).arg(backup).arg(self.data_dir()));
    }

    /// Removes a stopped server's slots, which pg_basebackup does not copy.
    pub fn forget_slots(&self) {
        for slot in fs::read_dir(self.data_dir().join("pg_replslot")).expect("a folder of slots") {
            fs::remove_dir_all(slot.expect("a slot").path()).expect("slot removed");
        }
    }

    /// Makes a stopped server continue on a new timeline at its next start, as after a promotion.
    pub fn branch_off(&self) {
        let signal = self.data_dir().join("recovery.signal");
        fs::write(&signal, "").expect("signal written");
        give_to_server_user(&signal);
        let settings = self.data_dir().join("postgresql.auto.conf");
        let text = fs::read_to_string(&settings).expect("settings")
            + "restore_command = 'false'\nhot_standby = off\n";
        fs::write(settings, text).expect("settings written");
    }

    /// Copies a database to another server by `pg_dump`.
    pub async fn dump_into(&self, database: &str, other: &Postgres) {
        let dump = self.folder.join("dump.sql");
        let tool = |name: &str, url: String| {
            let mut command = as_server_user(&bin_dir().join(name));
            command.arg("--dbname").arg(url).arg("--file").arg(&dump);
            command
        };
        fs::write(&dump, "").expect("dump written");
        give_to_server_user(&dump);
        checked(&mut tool("pg_dump", self.url(database)));
        other.create_database(database).await;
        checked(tool("psql", other.url(database)).args(["--quiet", "--set", "ON_ERROR_STOP=1"]));
    }

    async fn stop_by(&self, signal: &str) {
        let Some(mut process) = self.process.lock().await.take() else { return };
        process.signal(signal);
        let stopped = process.wait_or_kill(STOP_LIMIT).await;
        assert!(stopped, "the private server did not stop on SIG{signal}; {}", self.log_tail());
    }

    /// Tells whether the postmaster is ready, by the eighth line of its pid file, as pg_ctl does.
    fn says_ready(&self, pid: u32) -> bool {
        let Ok(text) = fs::read_to_string(self.data_dir().join("postmaster.pid")) else { return false };
        let lines: Vec<&str> = text.lines().collect();
        lines.first() == Some(&pid.to_string().as_str())
            && lines.get(7).is_some_and(|line| line.trim() == "ready")
    }

    fn log_tail(&self) -> String {
        process::tail(&self.log())
    }

    fn create(options: PostgresOptions) -> Self {
        let folder = run::folder("postgres");
        let port = Port::reserve();
        let socket_folder = socket_folder(&folder, port.number());
        fs::create_dir_all(&socket_folder).expect("folder for the socket");
        let environment = options.environment.clone();
        let server = Self { folder, socket_folder, port, environment, process: Mutex::new(None) };
        if options.own_system {
            init(&server.folder, &server.data_dir());
        } else {
            checked(Command::new("cp").args(["-a", "--reflink=auto"]).arg(template()).arg(server.data_dir()));
        }
        server.configure(&options);
        for path in [server.data_dir(), server.socket_folder.clone()] {
            give_to_server_user(&path);
        }
        server
    }

    fn configure(&self, options: &PostgresOptions) {
        let socket = self.socket_folder.display().to_string();
        let port = self.port().to_string();
        let chosen = [
            ("listen_addresses", "127.0.0.1"),
            ("port", &port),
            ("unix_socket_directories", &socket),
            ("wal_level", "logical"),
            // Every source of every test leaves its slot behind.
            ("max_wal_senders", "100"),
            ("max_replication_slots", "400"),
            ("max_connections", "300"),
            ("shared_buffers", "32MB"),
            // Processes are killed here, machines are not.
            ("fsync", "off"),
            // POSIX shared memory would outlive a killed server; files are removed with the folder.
            ("dynamic_shared_memory_type", "mmap"),
            ("log_line_prefix", "%m [%p] %q%a %u@%d "),
            ("log_replication_commands", "on"),
        ];
        let tls = options.certificate.as_ref().map(|(chain, key)| {
            let key_file = self.data_dir().join("server.key");
            fs::write(self.data_dir().join("server.crt"), chain).expect("certificate written");
            fs::write(&key_file, key).expect("key written");
            fs::set_permissions(&key_file, fs::Permissions::from_mode(0o600)).expect("key made private");
            give_to_server_user(&self.data_dir().join("server.crt"));
            give_to_server_user(&key_file);
            ("ssl", "on")
        });
        let wanted = options.settings.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        let settings: String = chosen
            .into_iter()
            .chain(tls)
            .chain(wanted)
            .map(|(key, value)| format!("{key} = '{}'\n", value.replace('\'', "''")))
            .collect();
        fs::write(self.data_dir().join("postgresql.auto.conf"), settings).expect("settings written");

        let trusting =
            ["local all all trust", "host all all 127.0.0.1/32 trust", "local replication all trust"];
        let hba: Vec<&str> = options.hba.iter().map(String::as_str).chain(trusting).collect();
        fs::write(self.data_dir().join("pg_hba.conf"), hba.join("\n") + "\n").expect("pg_hba.conf written");
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let Some(process) = self.process.get_mut() {
            process.signal("QUIT");
        }
        run::sweep(&self.folder);
        let _ = fs::remove_dir_all(&self.socket_folder);
    }
}

/// Runs a script with psql, which stops at the first error.
pub fn psql(url: &str, script: &str) {
    let folder = run::folder("psql");
    give_to_server_user(&folder);
    let file = folder.join("script.sql");
    fs::write(&file, script).expect("script written");
    give_to_server_user(&file);
    let mut psql = as_server_user(&bin_dir().join("psql"));
    psql.args(["--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1"]);
    checked(psql.arg("--dbname").arg(url).arg("--file").arg(file));
    run::sweep(&folder);
}

/// Returns the socket's folder. The path `<folder>/.s.PGSQL.<port>` has at most 107 bytes.
fn socket_folder(folder: &Path, port: u16) -> PathBuf {
    let near = folder.join("socket");
    let longest = format!("{}/.s.PGSQL.{port}", near.display());
    if longest.len() <= 107 { near } else { run::short_folder(&port.to_string()) }
}

/// Returns the data folder that all servers of this process are copied from.
fn template() -> &'static Path {
    static TEMPLATE: OnceLock<PathBuf> = OnceLock::new();
    TEMPLATE.get_or_init(|| {
        let folder = run::folder("initdb");
        let data = folder.join("data");
        init(&folder, &data);
        data
    })
}

/// Creates a data folder in `folder`.
fn init(folder: &Path, data: &Path) {
    give_to_server_user(folder);
    checked(
        as_server_user(&bin_dir().join("initdb"))
            .args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"])
            .arg("-D")
            .arg(data)
            .current_dir(folder),
    );
}

/// Returns the folder with the programs of the newest installed server.
pub fn bin_dir() -> &'static Path {
    static BIN_DIR: OnceLock<PathBuf> = OnceLock::new();
    BIN_DIR.get_or_init(|| {
        let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        versions
            .map(|entry| {
                (entry.file_name().to_string_lossy().parse::<u32>().unwrap_or(0), entry.path().join("bin"))
            })
            .filter(|(_, bin)| bin.join("postgres").exists())
            .max()
            .map(|(_, bin)| bin)
            .expect("no PostgreSQL server below /usr/lib/postgresql; `make prerequisites` installs it")
    })
}

/// Returns a command that runs as the server's user, because PostgreSQL refuses to run as root. The user keeps root's
/// right to pass directories, such as a private /root, if this process has it.
fn as_server_user(program: &Path) -> Command {
    static PREFIX: OnceLock<Vec<String>> = OnceLock::new();
    let prefix = PREFIX.get_or_init(|| {
        let Some((uid, gid)) = server_user() else { return Vec::new() };
        let plain = ["setpriv", &format!("--reuid={uid}"), &format!("--regid={gid}"), "--clear-groups"]
            .map(str::to_owned);
        let mut capable = plain.to_vec();
        capable.extend(["--inh-caps=+dac_override", "--ambient-caps=+dac_override"].map(str::to_owned));
        let works = Command::new(&capable[0])
            .args(&capable[1..])
            .arg("true")
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        if works { capable } else { plain.to_vec() }
    });
    let mut words = prefix.iter().map(String::as_str).map(Path::new).chain([program]);
    let mut command = process::command(words.next().expect("at least the program"));
    command.args(words);
    // Its record belongs into the run's folder, not into the tests' working directory.
    command.current_dir(run::directory());
    // A test must not depend on psql variables of the developer's shell.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG")) {
        command.env_remove(name);
    }
    command.env("LC_ALL", "C.UTF-8").env("TZ", "UTC");
    command
}

fn give_to_server_user(path: &Path) {
    if let Some((uid, gid)) = server_user() {
        chown(path, Some(uid), Some(gid))
            .unwrap_or_else(|error| panic!("cannot give {} to the server's user: {error}", path.display()));
    }
}

/// Returns the server's user if this process is root: `postgres`, or `nobody` without such a user.
fn server_user() -> Option<(u32, u32)> {
    static USER: OnceLock<Option<(u32, u32)>> = OnceLock::new();
    *USER.get_or_init(|| {
        let status = fs::read_to_string("/proc/self/status").expect("this process has a status");
        let effective = status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().nth(1));
        if effective != Some("0") {
            return None;
        }
        let users = fs::read_to_string("/etc/passwd").expect("/etc/passwd is readable");
        let ids_of = |name: &str| {
            let fields: Vec<&str> =
                users.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|f| f[0] == name)?;
            Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
        };
        Some(ids_of("postgres").or_else(|| ids_of("nobody")).expect("a user postgres or nobody"))
    })
}

fn checked(command: &mut Command) {
    let output =
        command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("cannot run {command:?}: {e}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed ({}): {said}", output.status);
}
