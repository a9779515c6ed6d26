//! Managed services: `rolreplication` does not show who may replicate, and the cures are the service's own.

use crate::stage::{PATIENCE, Said, Stage, alive, say, until};
use testkit::{Daemon, Postgres, PostgresOptions, shared_rabbitmq};

/// The line of a check, and the cure below it.
fn finding(said: &Said, name: &str) -> String {
    let lines: Vec<&str> = said.stdout.lines().collect();
    let at = lines.iter().position(|line| line.contains(&format!("  {name}  "))).expect("the check is there");
    lines[at..].iter().take(2).copied().collect::<Vec<_>>().join("\n")
}

/// Amazon RDS grants replication by a membership, and shows no REPLICATION attribute. The altered `pg_roles` of this database
/// does the same.
#[tokio::test]
async fn a_role_that_may_replicate_by_membership_is_not_refused_for_its_attribute() {
    let mut stage = Stage::shared("membership").await;
    let role = format!("role_{}", stage.name.replace('-', "_"));
    stage
        .sql(&format!(
            "CREATE ROLE {role} LOGIN REPLICATION;
             SET allow_system_table_mods = on;
             DO $$ BEGIN EXECUTE 'CREATE OR REPLACE VIEW pg_catalog.pg_roles AS ' || regexp_replace(
                 pg_get_viewdef('pg_catalog.pg_roles'), '(pg_authid\\.)?rolreplication', 'false AS rolreplication'); END $$;
             ALTER TABLE outbox OWNER TO {role};
             GRANT ALL ON SCHEMA public TO {role};
             GRANT ALL ON DATABASE \"{}\" TO {role}",
            stage.name
        ))
        .await;
    let may_replicate = format!("SELECT rolreplication FROM pg_roles WHERE rolname = '{role}'");
    assert!(!stage.client().await.query_one(&may_replicate, &[]).await.unwrap().get::<_, bool>(0));
    stage.consume().await;
    let config = stage.config_as(&role);
    let said = say(&Daemon::prepare(&config), &["check"]).await;
    assert_eq!(said.status, 0);
    assert!(finding(&said, "replication connection").contains("OK"));

    let mut daemon = Daemon::start(&config);
    daemon.wait_ready(PATIENCE).await;
    stage.write_row("a", 1, "OrderCreated").await;
    stage.verdict().await.assert_delivered(0);
    assert!(daemon.sigterm(PATIENCE).await.success());
    assert_eq!(say(&daemon, &["teardown", "--source", "orders"]).await.status, 0);
    stage.sql(&format!("REASSIGN OWNED BY {role} TO postgres; DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

/// These roles make the server look like an Amazon RDS cluster.
#[tokio::test]
async fn cures_are_those_of_the_service_in_check_and_in_the_reason_of_a_source() {
    let server = Postgres::start(PostgresOptions {
        settings: vec![("wal_level".to_owned(), "replica".to_owned())],
        ..PostgresOptions::default()
    })
    .await;
    let stage = Stage::on("service", &server, shared_rabbitmq().await).await;
    stage
        .sql("CREATE ROLE rds_superuser; CREATE ROLE rds_replication; CREATE ROLE me LOGIN; ALTER TABLE outbox OWNER TO me")
        .await;
    stage
        .sql(&format!("GRANT ALL ON SCHEMA public TO me; GRANT ALL ON DATABASE \"{}\" TO me", stage.name))
        .await;
    let config = stage.config_as("me");
    let said = say(&Daemon::prepare(&config), &["check"]).await;
    assert_eq!(said.status, 1);
    assert!(finding(&said, "wal_level").contains("rds.logical_replication = 1"));
    assert!(finding(&said, "replication connection").contains("GRANT rds_replication TO \"me\";"));
    assert!(!said.stdout.contains("ALTER SYSTEM") && !said.stdout.contains("ALTER ROLE"));

    stage.sql("ALTER SYSTEM SET wal_level = logical").await;
    server.restart().await;
    let mut daemon = alive(&config).await;
    until(&daemon, "orders", |shown| {
        shown["reason"].as_str().is_some_and(|reason| reason.contains("GRANT rds_replication TO \"me\";"))
    })
    .await;
    stage.sql("ALTER ROLE me REPLICATION").await;
    daemon.wait_ready(PATIENCE).await;
}
