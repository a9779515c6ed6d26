//! Rotated secrets: a service reads their files for every connection, without a restart.

use std::{fs, path::PathBuf};

use serde_json::json;

use crate::{PATIENCE, eventually};
use testkit::{Postgres, PostgresOptions, Service, shared_rabbitmq, unique};

/// Prefix of every password. It appears in no log.
const SECRET: &str = "s3cret";

#[tokio::test]
async fn a_service_goes_on_with_the_password_that_its_files_have_now() {
    let hba = vec!["host all rotating 127.0.0.1/32 scram-sha-256".to_owned()];
    let server = Postgres::start(PostgresOptions { hba, ..Default::default() }).await;
    let database = server.create_database("customers").await;
    let admin = server.client("customers").await;
    let node = shared_rabbitmq().await;
    let (user, folder) = (unique("rotating"), tempfile::tempdir().unwrap());
    let write = |name: &str, text: String| -> PathBuf {
        let file = folder.path().join(name);
        fs::write(&file, text).unwrap();
        file
    };
    let database_url = |number: u8| {
        write("database", database.replace("postgres@", &format!("rotating:{SECRET}-{number}@")))
    };
    let amqp_password = |number: u8| write("amqp", format!("{SECRET}-{number}\n"));
    let role = |number: u8| format!("ROLE rotating LOGIN SUPERUSER PASSWORD '{SECRET}-{number}'");
    admin.batch_execute(&format!("CREATE {}", role(1))).await.unwrap();
    node.create_user(&user, &format!("{SECRET}-1")).await;
    let vhost = unique("rotated");
    node.ctl(&["add_vhost", &vhost]).await;
    node.allow(&user, &vhost, [".*"; 3]).await;

    let mut service = Service::with_arguments("customer-service", &[])
        .with("DATABASE_URL_FILE", database_url(1).to_str().unwrap())
        .with("AMQP_URL", &format!("amqp://127.0.0.1:{}/{vhost}", node.port()))
        .with("AMQP_USERNAME", &user)
        .with("AMQP_PASSWORD_FILE", amqp_password(1).to_str().unwrap());
    service.start_again();
    service.wait_ready(PATIENCE).await;

    admin.batch_execute(&format!("ALTER {}", role(2))).await.unwrap();
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'rotating'";
    admin.batch_execute(end).await.unwrap();
    node.create_user(&user, &format!("{SECRET}-2")).await;
    node.ctl(&["close_all_user_connections", &user, "rotated"]).await;
    eventually("the broker refuses the login", async || {
        service.log().contains("refuses the login").then_some(())
    })
    .await;
    let customer = json!({ "name": "Ada", "creditLimit": { "amount": 1 } });
    let (status, said) = service.post("/customers", &customer).await;
    assert_eq!(status, 503, "the database refuses the login: {said}");

    database_url(2);
    amqp_password(2);
    let consuming = "inbox_connected{queue=\"customer-service.orders\"}";
    eventually("it consumes", async || {
        service.metric_if_up(consuming).await.filter(|consuming| *consuming == 1.0)
    })
    .await;
    eventually("it is ready", async || (service.get_text("/readyz").await.0 == 200).then_some(())).await;
    let (status, said) = service.post("/customers", &customer).await;
    assert_eq!(status, 201, "{said}");
    assert!(!service.log().contains(SECRET), "{}", service.log());
    assert!(service.sigterm(PATIENCE).await.success());
}
