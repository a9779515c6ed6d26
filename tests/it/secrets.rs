//! Rotated secrets: read from their files for every connection, without a restart, and never shown.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::ExitStatusExt},
    path::{Path, PathBuf},
};

use crate::stage::{PATIENCE, Stage, say, source, until, until_state};
use testkit::{
    Daemon, Postgres, PostgresOptions, process, programs, shared_postgres, shared_rabbitmq, unique,
};

/// Prefix of every password. No log may hold it.
const SECRET: &str = "s3cret";

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }
}

/// One source has its password in a file, another its whole URL. The third has neither.
#[tokio::test]
async fn postgresql_passwords_are_rotated_while_the_sources_stream() {
    let hba = vec!["host all rotating 127.0.0.1/32 scram-sha-256".to_owned()];
    let server = Postgres::start(PostgresOptions { hba, ..Default::default() }).await;
    let mut stage = Stage::on("rotated", &server, shared_rabbitmq().await).await;
    stage.sql(&format!("CREATE ROLE rotating LOGIN SUPERUSER PASSWORD '{SECRET}-1'")).await;
    let files = Files::new();
    let at = |user: &str| stage.postgres_url.replace("postgres@", &format!("{user}@"));
    let password = files.write("password", &format!("{SECRET}-1\n"));
    let url = files.write("url", &at(&format!("rotating:{SECRET}-1")));
    let sources = format!(
        "[sources.by-password]\npostgres.url = \"{}\"\npostgres.password_file = \"{}\"\n\
         [sources.by-url]\npostgres.url_file = \"{}\"\n",
        at("rotating"),
        password.display(),
        url.display()
    );
    stage.source = sources;
    let mut inbox = stage.inbox(&["Order.events"]).await;
    let mut daemon = stage.relay_as_printed_role().await;
    for said in [say(&daemon, &["check"]).await.stdout, say(&daemon, &["check", "--offline"]).await.stdout] {
        for file in [&password, &url] {
            assert!(said.contains(&format!("read for every connection: {}", file.display())), "{said}");
        }
    }

    let cut = format!(
        "ALTER ROLE rotating PASSWORD '{SECRET}-2';
         SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'rotating'"
    );
    stage.sql(&cut).await;
    for name in ["by-password", "by-url"] {
        let shown = until(&daemon, name, |shown| {
            shown["last_error"].as_str().is_some_and(|error| error.contains("password authentication failed"))
        })
        .await;
        assert_eq!(shown["state"], "halted");
    }
    // A missing file is reported, and read again.
    fs::remove_file(&password).unwrap();
    let named = format!("{} cannot be read", password.display());
    until(&daemon, "by-password", |shown| {
        shown["last_error"].as_str().is_some_and(|error| error.contains(&named))
    })
    .await;
    files.write("password", &format!("{SECRET}-2\n"));
    files.write("url", &at(&format!("rotating:{SECRET}-2")));
    for name in ["by-password", "by-url"] {
        until_state(&daemon, name, "streaming").await;
    }
    stage
        .sql("INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES ('Order', 'a', 'E', '1')")
        .await;
    assert_eq!(inbox.bodies(3).await, ["1", "1", "1"]);
    assert_eq!(source(&daemon, "orders").await["state"], "streaming");
    for shown in [daemon.log(), daemon.status().await.to_string()] {
        assert!(!shown.contains(SECRET), "{shown}");
    }
    assert!(daemon.sigterm(PATIENCE).await.success());

    // At a start, a missing file is a problem of the configuration.
    fs::remove_file(&url).unwrap();
    let said = say(&Daemon::prepare(&stage.config()), &["check"]).await;
    assert!(said.status == 78 && said.stderr.contains("postgres.url_file"), "{}", said.stderr);
}

#[tokio::test]
async fn rabbitmq_passwords_are_rotated_while_the_source_streams() {
    let node = shared_rabbitmq().await;
    let mut stage = Stage::on("rotated_mq", shared_postgres().await, node).await;
    let user = unique("rotating");
    node.create_user(&user, &format!("{SECRET}-1")).await;
    node.allow(&user, &stage.name, [".*"; 3]).await;
    let files = Files::new();
    let password = files.write("password", &format!("{SECRET}-1\n"));
    let mut inbox = stage.inbox(&["Order.events"]).await;
    stage.rabbitmq = format!("username = \"{user}\"\npassword_file = \"{}\"", password.display());
    let mut daemon = stage.relay_as_printed_role().await;
    for said in [say(&daemon, &["check"]).await.stdout, say(&daemon, &["check", "--offline"]).await.stdout] {
        assert!(said.contains(&format!("read for every connection: {}", password.display())), "{said}");
    }
    node.create_user(&user, &format!("{SECRET}-2")).await;
    node.ctl(&["close_all_user_connections", &user, "rotated"]).await;
    let refused = until(&daemon, "orders", |shown| {
        shown["last_error"].as_str().is_some_and(|error| error.contains("refuses the login"))
    })
    .await;
    assert_eq!(refused["state"], "halted");
    fs::remove_file(&password).unwrap();
    let named = format!("{} cannot be read", password.display());
    until(&daemon, "orders", |shown| {
        shown["last_error"].as_str().is_some_and(|error| error.contains(&named))
    })
    .await;
    files.write("password", &format!("{SECRET}-2\n"));
    until_state(&daemon, "orders", "streaming").await;
    stage
        .sql("INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES ('Order', 'a', 'E', '1')")
        .await;
    assert_eq!(inbox.bodies(1).await, ["1"]);
    for shown in [daemon.log(), daemon.status().await.to_string()] {
        assert!(!shown.contains(SECRET), "{shown}");
    }
    assert!(daemon.sigterm(PATIENCE).await.success());
}

#[tokio::test]
async fn check_warns_of_secrets_that_others_may_read_or_hear() {
    let files = Files::new();
    let mode = |path: &PathBuf, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    mode(&files.0.path().to_owned(), 0o755);
    let (open, replaced) = (files.write("open", SECRET), files.write("replaced", SECRET));
    mode(&open, 0o644);
    mode(&replaced, 0o620);
    let config = |broker: &str| {
        format!(
            "[rabbitmq]\nurl = \"amqp://me@{broker}/%2f\"\npassword_file = \"{}\"\n[sources.orders]\n\
             postgres.url = \"postgresql://me@h/db\"\npostgres.password_file = \"{}\"\n",
            replaced.display(),
            open.display()
        )
    };
    let offline = ["check", "--offline"];
    let said = say(&Daemon::prepare(&config("broker.example")), &offline).await;
    assert_eq!(said.status, 0);
    let is_closed = |path: &Path| {
        let mut above = path.ancestors().skip(1).filter_map(|directory| directory.metadata().ok());
        above.any(|facts| facts.permissions().mode() & 1 == 0)
    };
    if is_closed(&open) {
        println!("skipped: TMPDIR is closed to others, so nothing in it is open to them");
        return;
    }
    for line in [
        format!("{} holds a secret, and other users of this machine may read it (mode 0644)", open.display()),
        format!(
            "{} holds a secret, and other users of this machine may replace it (mode 0620)",
            replaced.display()
        ),
        format!("-> chmod 0640 {}", open.display()),
        "warning  login         amqp:// sends the password for RabbitMQ at broker.example, and every message, unencrypted"
            .to_owned(),
        "use amqps://".to_owned(),
        "warnings: 3".to_owned(),
    ] {
        assert!(said.stdout.contains(&line), "{line}");
    }
    // The configuration itself, when it holds a password.
    for file in [&open, &replaced] {
        mode(file, 0o640);
    }
    let daemon = Daemon::prepare(
        &config("localhost")
            .replace("me@h", &format!("me:{SECRET}@h"))
            .replace("postgres.password_file", "#"),
    );
    assert!(say(&daemon, &offline).await.stdout.contains("warnings: 0"));
    mode(&daemon.config_file(), 0o604);
    let said = say(&daemon, &offline).await;
    assert!(!said.stdout.contains(SECRET));
    // Except when the tests' directory is closed to other users.
    let closed = is_closed(&daemon.config_file());
    assert_eq!(said.stdout.contains("outboxd.toml holds a secret"), !closed, "{}", said.stdout);
}

#[tokio::test]
async fn no_core_is_dumped() {
    let directory = tempfile::tempdir().unwrap();
    let begin = |words: &[&str]| {
        let mut command = tokio::process::Command::new("sh");
        command.arg("-c").arg("ulimit -S -c \"$(ulimit -H -c)\" && exec \"$@\"").arg("sh").args(words);
        command.current_dir(directory.path()).process_group(0).kill_on_drop(true);
        command.spawn().unwrap()
    };
    let dumps = async |mut child: tokio::process::Child| {
        process::signal(&[child.id().expect("it runs")], "FPE");
        let status = child.wait().await.unwrap();
        assert_eq!(status.signal(), Some(8), "{status}");
        status.core_dumped()
    };
    let other = begin(&["sleep", "60"]);
    let name = format!("/proc/{}/comm", other.id().expect("it runs"));
    crate::stage::eventually("it is sleep", async || {
        fs::read_to_string(&name).is_ok_and(|name| name == "sleep\n")
    })
    .await;
    if !dumps(other).await {
        println!("skipped: no process of this machine dumps core (ulimit -H -c, core_pattern)");
        return;
    }
    let stage = Stage::shared("core").await;
    let daemon = Daemon::prepare(&stage.config());
    let (outboxd, file) = (programs::executable("outboxd"), daemon.config_file());
    let child = begin(&[&outboxd.display().to_string(), "--config", &file.display().to_string(), "run"]);
    crate::stage::until_alive(&daemon).await;
    assert!(!dumps(child).await, "outboxd dumped core");
}
