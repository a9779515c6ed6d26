//! `synchronous_standby_names` that includes every walsender, outboxd's too.

use std::process::Stdio;

use crate::stage::{PATIENCE, Stage, eventually, say};
use testkit::{Daemon, Postgres, PostgresOptions, Proxy, postgres::bin_dir, run, shared_rabbitmq};

/// A standby that receives and flushes WAL, enough for commits to return. Ends when it is dropped.
fn standby(server: &Postgres) -> tokio::process::Child {
    tokio::process::Command::new(bin_dir().join("pg_receivewal"))
        .args(["--synchronous", "--no-loop", "--directory"])
        .arg(run::folder("standby"))
        .args(["--dbname", &format!("{}?application_name=replica", server.url("postgres"))])
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("pg_receivewal runs")
}

#[tokio::test]
async fn no_commit_waits_for_a_blocked_broker_where_every_walsender_is_a_synchronous_standby() {
    let server = Postgres::start(PostgresOptions {
        hba: vec!["host replication all 127.0.0.1/32 trust".to_owned()],
        ..PostgresOptions::default()
    })
    .await;
    let node = shared_rabbitmq().await;
    let mut stage = Stage::on("synchronous", &server, node).await;
    // Otherwise outboxd would give up the silent broker, and release the slot.
    stage.rabbitmq = "confirm_timeout_ms = 3600000\nheartbeat_s = 3600".to_owned();
    stage.consume().await;
    let (postgres, broker) = (Proxy::start(server.port()), Proxy::start(node.port()));
    let mut daemon = Daemon::start(&stage.config_through(&postgres, &broker));
    daemon.wait_ready(PATIENCE).await;
    // The first of several walsenders of one priority is the synchronous one, so outboxd starts first.
    let _standby = standby(&server);
    let admin = server.client("postgres").await;
    let is = async |name: &str, state: &str| {
        let sql = "SELECT FROM pg_stat_replication WHERE application_name = $1 AND sync_state = $2";
        admin.query_opt(sql, &[&name, &state]).await.unwrap().is_some()
    };
    eventually("the standby streams", async || is("replica", "async").await).await;
    admin.batch_execute("ALTER SYSTEM SET synchronous_standby_names = '*'").await.unwrap();
    admin.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    eventually("the standby is the synchronous one", async || is("replica", "sync").await).await;
    // The walsender of outboxd has read the setting after it sent another row.
    stage.write_row("a", 1, "OrderCreated").await;
    eventually("the row has arrived", async || stage.oracle.distinct_count() == 1).await;

    broker.stall();
    let writing = async {
        for number in 2..20 {
            // Each row is a commit of its own, which returns after a standby has it.
            stage.write_row("a", number, "OrderChanged").await;
        }
    };
    tokio::time::timeout(PATIENCE, writing).await.expect("commits do not wait for outboxd");
    eventually("the standby is the synchronous one", async || is("replica", "sync").await).await;
    broker.resume();
    stage.verdict().await.assert_delivered(0);

    let said = say(&daemon, &["check"]).await;
    assert_eq!(said.status, 0);
    let cure = "ALTER SYSTEM SET synchronous_standby_names = '\"replica\"'; SELECT pg_reload_conf();";
    assert!(said.stdout.contains("synchronous_standby_names is *") && said.stdout.contains(cure));
    let mended = admin.batch_execute("ALTER SYSTEM SET synchronous_standby_names = '\"replica\"'").await;
    mended.unwrap();
    admin.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    eventually("the setting is known", async || !say(&daemon, &["check"]).await.stdout.contains(cure)).await;
}
