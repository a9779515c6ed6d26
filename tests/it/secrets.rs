//! Secrets that somebody rotates: read from their files for every connection, without a restart and without being shown.

use std::{fs, path::PathBuf};

use crate::{
    stage::{PATIENCE, Stage, say, source, until, until_state},
    support::{Daemon, Postgres, PostgresOptions, shared_postgres, shared_rabbitmq, unique},
};

/// Begins every password, and stands in no log.
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

/// One source has its password in a file, the other its whole URL; the third is told neither.
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
    // A file that is not there for a moment is said, and looked for again.
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

    // Before a start the same file is a problem of the configuration.
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
