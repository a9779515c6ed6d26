//! How the services are run: from a file or the environment, watched, described, and kept apart.

use std::time::Duration;

use hyper::Method;
use serde_json::Value;

use crate::{
    history_shows, settled, shared_shop, shop,
    support::{Service, process, shared_postgres, shared_rabbitmq, unique},
};

const PROGRAMS: [&str; 3] = ["order-service", "customer-service", "order-history"];

#[tokio::test]
async fn each_explains_itself_and_ends_with_78_when_it_is_not_configured() {
    for program in PROGRAMS {
        let help =
            tokio::process::Command::new(process::executable(program)).arg("--help").output().await.unwrap();
        let text = String::from_utf8(help.stdout).unwrap();
        assert!(help.status.success());
        for needed in ["--config", "DATABASE_URL", "AMQP_URL", "LISTEN", "/openapi.json", "78"] {
            assert!(text.contains(needed), "{program}: {text}");
        }
        let bare =
            tokio::process::Command::new(process::executable(program)).env_clear().output().await.unwrap();
        assert_eq!(bare.status.code(), Some(78));
        let text = String::from_utf8(bare.stderr).unwrap();
        assert!(text.contains("DATABASE_URL") && text.contains("AMQP_URL"), "{text}");
    }
}

#[tokio::test]
async fn a_file_will_do_for_configuration() {
    let (postgres, rabbitmq) = (shared_postgres().await, shared_rabbitmq().await);
    let name = unique("from_file");
    let database = postgres.create_database(&name).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("order-service.toml");
    let amqp = rabbitmq.create_vhost(&name).await;
    std::fs::write(&file, format!("database_url = \"{database}\"\namqp_url = \"{amqp}\"\n")).unwrap();
    // The environment says only where to listen.
    let mut service = Service::with_arguments("order-service", &["--config", file.to_str().unwrap()]);
    service.start_again();
    service.wait_healthy(crate::PATIENCE).await;
    assert_eq!(service.get("/orders").await.0, 200);
    assert!(service.sigterm(crate::PATIENCE).await.success());
}

#[tokio::test]
async fn each_describes_what_it_answers() {
    let shop = shared_shop().await;
    for (service, paths) in [
        (&shop.orders, vec!["/orders", "/orders/{id}", "/orders/{id}/cancel"]),
        (&shop.customers, vec!["/customers", "/customers/{id}"]),
        (&shop.history, vec!["/customers/{id}/orderhistory", "/lag"]),
    ] {
        let (status, api) = service.get("/openapi.json").await;
        assert_eq!(status, 200);
        assert!(api["openapi"].as_str().unwrap().starts_with("3."), "{api}");
        let described: Vec<&String> = api["paths"].as_object().unwrap().keys().collect();
        assert_eq!(described, paths);
        // Every reference leads somewhere.
        let text = api.to_string();
        for reference in text.split("\"$ref\":\"#").skip(1) {
            let pointer = reference.split('"').next().unwrap();
            assert!(api.pointer(pointer).is_some(), "{pointer} in {text}");
        }
        for (_, operations) in api["paths"].as_object().unwrap() {
            for (method, operation) in operations.as_object().unwrap() {
                assert!(operation["summary"].is_string(), "{method} {operation}");
            }
        }
    }
}

#[tokio::test]
async fn one_identifier_leads_through_all_services_and_their_logs() {
    let shop = shop("trace").await;
    let customer = shop.customer("10").await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let header = [("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")];
    let body = format!(r#"{{"customerId": {customer}, "orderTotal": {{"amount": 1}}}}"#);
    let answer = shop.orders.send(Method::POST, "/orders", &header, body).await;
    assert!(answer.headers()["traceparent"].to_str().unwrap().starts_with(&format!("00-{trace}-")));
    let order = serde_json::from_str::<Value>(answer.body()).unwrap()["orderId"].as_i64().unwrap();
    history_shows(&shop, customer, &[(order, "APPROVED")]).await;

    let traced = |service: &Service| -> Vec<String> {
        let log = service.log();
        let of_trace = log.lines().filter(|line| line.contains(trace));
        of_trace
            .map(|line| {
                let line: Value = serde_json::from_str(line).unwrap();
                let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
                format!(
                    "{}{}",
                    text("message"),
                    if text("event_type").is_empty() {
                        String::new()
                    } else {
                        format!(" {}", text("event_type"))
                    }
                )
            })
            .collect()
    };
    assert_eq!(
        traced(&shop.orders),
        ["event OrderCreated", "answered", "event OrderApproved", "settled", "handled"]
    );
    assert_eq!(traced(&shop.customers), ["event CustomerCreditReserved", "decided", "handled"]);
    assert_eq!(traced(&shop.history), ["handled", "handled"]);
}

#[tokio::test]
async fn no_service_can_read_anothers_tables() {
    let shop = shared_shop().await;
    let user = |url: &str| url.split("//").nth(1).unwrap().split('@').next().unwrap().to_owned();
    for own in &shop.databases {
        for other in shop.databases.iter().filter(|other| *other != own) {
            let as_other = other.replace(&format!("//{}@", user(other)), &format!("//{}@", user(own)));
            let Err(error) = tokio_postgres::connect(&as_other, tokio_postgres::NoTls).await else {
                panic!("{as_other} lets in");
            };
            assert_eq!(error.code().map(|code| code.code()), Some("42501"), "{error}");
        }
    }
}

#[tokio::test]
async fn instances_that_start_together_create_the_schema_once() {
    let (postgres, rabbitmq) = (shared_postgres().await, shared_rabbitmq().await);
    for program in PROGRAMS {
        let name = unique("together");
        let (database, amqp) = (postgres.create_database(&name).await, rabbitmq.create_vhost(&name).await);
        let start = || Service::start(program, &database, &amqp);
        let mut instances: [Service; 4] = tokio::join!(start(), start(), start(), start()).into();
        for instance in &mut instances {
            assert!(instance.sigterm(crate::PATIENCE).await.success());
        }
        let versions =
            postgres.client(&name).await.query("SELECT version FROM schema_version", &[]).await.unwrap();
        let versions: Vec<i64> = versions.iter().map(|row| row.get(0)).collect();
        assert_eq!(versions, [1, 2, 3]);
    }
}

#[tokio::test]
async fn a_service_waits_for_its_database_and_takes_orders_without_a_broker() {
    let (postgres, rabbitmq) = (shared_postgres().await, shared_rabbitmq().await);
    let name = unique("waiting");
    let amqp = rabbitmq.url("not-there-yet");
    let mut service = Service::prepare("order-service", &postgres.url(&name), &amqp);
    service.start_again();
    let log = "the database is not ready";
    crate::eventually("it says what it waits for", async || service.log().contains(log).then_some(())).await;
    postgres.create_database(&name).await;
    service.wait_healthy(crate::PATIENCE).await;
    let body = r#"{"customerId": 1, "orderTotal": {"amount": 1}}"#.to_owned();
    assert_eq!(service.ask(Method::POST, "/orders", body).await.0, 201);
    crate::eventually("it says that it does not consume", async || {
        service.log().contains("not consuming").then_some(())
    })
    .await;
    assert_eq!(service.metric("inbox_connected{queue=\"order-service.customers\"}").await, 0.0);
    assert!(service.sigterm(Duration::from_secs(30)).await.success());
}

#[tokio::test]
async fn no_log_shows_a_password() {
    let shop = shared_shop().await;
    let customer = shop.customer("1").await;
    let order = shop.order(customer, "1").await;
    settled(shop, order).await;
    let secret = "gu3st-s3cret";
    let mut service = Service::prepare(
        "order-service",
        &format!("postgresql://nobody:{secret}@127.0.0.1:1/none"),
        &format!("amqp://nobody:{secret}@127.0.0.1:1/%2f"),
    );
    service.start_again();
    crate::eventually("it says that it cannot connect", async || {
        service.log().contains("the database is not ready").then_some(())
    })
    .await;
    assert!(service.sigterm(crate::PATIENCE).await.success());
    assert!(!service.log().contains(secret), "{}", service.log());
}
