//! Causes that stop a source: `check`, the log, `/readyz` and `status` name the same cure, and the state tells whether an
//! operator must act. The source continues by itself after the cure.

use std::fs;

use crate::stage::{PATIENCE, Stage, alive, say, until};
use testkit::{Daemon, Postgres, PostgresOptions, shared_postgres, shared_rabbitmq, unique};

/// The cures of all failed checks.
async fn cures(daemon: &Daemon) -> Vec<String> {
    let said = say(daemon, &["check"]).await;
    assert_eq!(said.status, 1);
    let lines: Vec<_> = said.stdout.lines().collect();
    let failed = lines.windows(2).filter(|lines| lines[0].starts_with("  FAILED"));
    let cures = failed.map(|lines| lines[1].strip_prefix("           -> ").expect("a cure").to_owned());
    cures.collect()
}

/// Waits for the state, and checks that every output has the cure. `what` is part of the reason.
async fn is_told(daemon: &Daemon, state: &str, what: &str, cures: &[String]) {
    assert!(!cures.is_empty());
    let shown =
        until(daemon, "orders", |shown| shown["reason"].as_str().is_some_and(|reason| reason.contains(what)))
            .await;
    assert_eq!(shown["state"], state, "{shown:#}");
    let (code, readiness) = daemon.readyz().await;
    assert_eq!(code, 503);
    let status = say(daemon, &["status"]).await.stdout;
    let log = daemon.log().replace("\\\"", "\"");
    for cure in cures {
        for told in [shown["reason"].as_str().unwrap(), &readiness, &status, &log] {
            assert!(told.contains(cure), "{cure}\nis missing in\n{told}");
        }
    }
}

#[tokio::test]
async fn what_only_a_person_can_mend_halts_the_source_with_the_cure_of_check() {
    let hba = vec!["host all relay 127.0.0.1/32 scram-sha-256".to_owned()];
    let server = Postgres::start(PostgresOptions { hba, ..Default::default() }).await;
    let name = unique("person");
    let sql = async |database: &str, statements: &str| {
        let client = server.client(database).await;
        client.batch_execute(statements).await.unwrap_or_else(|error| panic!("{statements}: {error:?}"));
    };
    sql("postgres", &format!("CREATE DATABASE {name}")).await;
    sql(
        &name,
        &format!(
            "CREATE TABLE outbox (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), aggregatetype text NOT NULL, aggregateid text
                 NOT NULL, type text NOT NULL, payload jsonb, seq bigint GENERATED ALWAYS AS IDENTITY);
             CREATE ROLE relay LOGIN PASSWORD 'another';
             REVOKE ALL ON DATABASE {name} FROM PUBLIC; GRANT SELECT ON outbox TO relay;
             CREATE PUBLICATION outboxd_orders FOR TABLE ONLY outbox WITH (publish = 'insert')"
        ),
    )
    .await;
    let broker = shared_rabbitmq().await;
    let user = unique("relay");
    broker.create_user(&user, "another").await;
    let vhost = broker.create_vhost(&name).await;
    let mut daemon = alive(&format!(
        "[rabbitmq]\nurl = \"{}\"\n[sources.orders]\npostgres.url = \"postgresql://relay:right@127.0.0.1:{}/{name}\"\n\
         postgres.slot = \"{name}\"\npostgres.create = false\n",
        vhost.replace("guest:guest@", &format!("{user}:right@")),
        server.port(),
    ))
    .await;

    let of_source = async |daemon: &Daemon| {
        let mut cures = cures(daemon).await;
        // outboxd connects to the broker only after the checks of the database.
        cures.retain(|cure| !cure.contains("rabbitmqctl change_password"));
        cures
    };
    let found = of_source(&daemon).await;
    is_told(&daemon, "halted", "28P01", &found).await;
    assert!(found[0].contains("ALTER ROLE \"relay\" PASSWORD"), "{found:?}");
    sql(&name, "ALTER ROLE relay PASSWORD 'right'").await;

    let found = of_source(&daemon).await;
    is_told(&daemon, "halted", "permission denied for database", &found).await;
    sql(&name, &found[0]).await;

    // Each cause is applied alone: `run` reports the first one it meets.
    let found = of_source(&daemon).await;
    for (what, part) in [
        ("table outboxd_state does not exist", "CREATE TABLE"),
        ("42501", " REPLICATION;"),
        ("does not exist, and postgres.create", "pg_create_logical_replication_slot"),
    ] {
        let cure =
            found.iter().find(|cure| cure.contains(part)).unwrap_or_else(|| panic!("{part}: {found:?}"));
        is_told(&daemon, "halted", what, std::slice::from_ref(cure)).await;
        sql(&name, cure).await;
    }

    let found = cures(&daemon).await;
    is_told(&daemon, "halted", "refuses the login", &found).await;
    broker.create_user(&user, "right").await;
    let found = cures(&daemon).await;
    is_told(&daemon, "halted", "refuses the vhost", &found).await;
    broker.allow(&user, &name, [".*"; 3]).await;
    daemon.wait_ready(PATIENCE).await;

    // outboxd's own table is dropped later.
    assert!(daemon.sigterm(PATIENCE).await.success());
    sql(&name, "DROP TABLE outboxd_state").await;
    daemon.start_again();
    let found = cures(&daemon).await;
    is_told(&daemon, "halted", "table outboxd_state does not exist", &found).await;
    sql(&name, &found[0]).await;
    daemon.wait_ready(PATIENCE).await;
}

#[tokio::test]
async fn a_setting_of_the_server_halts_and_a_limit_that_others_use_up_does_not() {
    let settings = [("wal_level", "replica"), ("max_replication_slots", "1")];
    let settings = settings.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec();
    let server = Postgres::start(PostgresOptions { settings, ..Default::default() }).await;
    let stage = Stage::on("settings", &server, shared_rabbitmq().await).await;
    let mut daemon = alive(&stage.config()).await;
    let found = cures(&daemon).await;
    is_told(&daemon, "halted", "wal_level is replica", &found).await;
    stage.sql("ALTER SYSTEM SET wal_level = logical").await;
    server.restart().await;

    let subject = "1 of 1 replication slots is free (max_replication_slots)";
    until(&daemon, "orders", |shown| shown["state"] == "connecting" && shown["reason"] != "starting").await;
    let found = cures(&daemon).await;
    is_told(&daemon, "connecting", subject, &found).await;
    stage.sql("ALTER SYSTEM SET max_replication_slots = 2").await;
    server.restart().await;
    daemon.wait_ready(PATIENCE).await;
}

#[tokio::test]
async fn a_mistyped_table_is_named_and_nobody_is_sent_to_recover() {
    let mut stage = Stage::shared("mistyped").await;
    stage.consume().await;
    let mut daemon = stage.relay().await;
    stage.write_row("a", 1, "OrderCreated").await;
    stage.verdict().await.assert_delivered(0);
    assert!(daemon.sigterm(PATIENCE).await.success());
    let right = fs::read_to_string(daemon.config_file()).unwrap();

    let wrong = right.replace("[sources.orders]\n", "[sources.orders]\noutbox.table = \"public.outbx\"\n");
    fs::write(daemon.config_file(), wrong).unwrap();
    daemon.start_again();
    let found = cures(&daemon).await;
    is_told(&daemon, "halted", "\"public\".\"outbx\" does not exist", &found).await;
    let said = say(&daemon, &["check"]).await.stdout;
    for told in [said, daemon.log(), daemon.status().await.to_string()] {
        assert!(!told.contains("outboxd recover"), "{told}");
    }
    assert!(daemon.sigterm(PATIENCE).await.success());

    fs::write(daemon.config_file(), right).unwrap();
    daemon.start_again();
    daemon.wait_ready(PATIENCE).await;
    stage.write_row("a", 2, "OrderChanged").await;
    stage.verdict().await.assert_delivered(0);
}

/// The server plans the condition, and `check` passes, but one row makes the condition fail.
#[tokio::test]
async fn a_condition_that_fails_for_a_row_halts_and_names_its_key() {
    let mut stage = Stage::shared("condition").await;
    stage.source = "outbox.unpublished = \"1 / (length(type) - 4) <> 0\"".to_owned();
    for event in ["OrderCreated", "Null"] {
        stage.write_unseen("a", event).await;
    }
    let mut daemon = alive(&stage.config()).await;
    assert_eq!(say(&daemon, &["check"]).await.status, 0);
    let cure = ["correct outbox.unpublished (an SQL condition".to_owned()];
    is_told(&daemon, "halted", "division by zero", &cure).await;
    stage.sql("DELETE FROM outbox WHERE type = 'Null'").await;
    daemon.wait_ready(PATIENCE).await;

    // `check` reports a condition that cannot be planned.
    let right = fs::read_to_string(daemon.config_file()).unwrap();
    fs::write(daemon.config_file(), right.replace("length(type) - 4", "no_such_column")).unwrap();
    let found = cures(&daemon).await;
    assert!(found[0].starts_with(&cure[0]), "{found:?}");
    let client = shared_postgres().await.client(&stage.name).await;
    let drop = format!("SELECT pg_drop_replication_slot('{}')", stage.slot());
    assert!(daemon.sigterm(PATIENCE).await.success());
    client.batch_execute(&drop).await.unwrap();
}
