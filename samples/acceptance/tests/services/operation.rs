//! Operation of the services: configuration, monitoring, API descriptions, and separation.

use std::time::Duration;

use hyper::Method;
use serde_json::Value;

use crate::{
    broker::{ByHand, publish, take},
    eventually, history_shows, settled, shared_shop, shop,
};
use testkit::{Service, http, programs, shared_postgres, shared_rabbitmq, unique};

const PROGRAMS: [&str; 3] = ["order-service", "customer-service", "order-history"];

#[tokio::test]
async fn each_explains_itself_and_ends_with_78_when_it_is_not_configured() {
    for program in PROGRAMS {
        let help =
            tokio::process::Command::new(programs::executable(program)).arg("--help").output().await.unwrap();
        let text = String::from_utf8(help.stdout).unwrap();
        assert!(help.status.success());
        for needed in ["--config", "DATABASE_URL", "AMQP_URL", "LISTEN", "/openapi.json", "78"] {
            assert!(text.contains(needed), "{program}: {text}");
        }
        let bare =
            tokio::process::Command::new(programs::executable(program)).env_clear().output().await.unwrap();
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
    // The environment sets only the address.
    let mut service = Service::with_arguments("order-service", &["--config", file.to_str().unwrap()]);
    service.start_again();
    service.wait_ready(crate::PATIENCE).await;
    assert_eq!(service.get("/orders").await.0, 200);
    assert!(service.sigterm(crate::PATIENCE).await.success());
}

#[tokio::test]
async fn each_describes_what_it_answers() {
    let shop = shared_shop().await;
    for (service, paths) in [
        (
            &shop.orders,
            vec!["/orders", "/orders/{id}", "/orders/{id}/cancel", "/orders/{id}/saga", "/sagas/{id}"],
        ),
        (&shop.customers, vec!["/customers", "/customers/{id}"]),
        (&shop.history, vec!["/customers/{id}/orderhistory", "/lag"]),
    ] {
        let (status, api) = service.get("/openapi.json").await;
        assert_eq!(status, 200);
        assert!(api["openapi"].as_str().unwrap().starts_with("3."), "{api}");
        let described: Vec<&String> = api["paths"].as_object().unwrap().keys().collect();
        assert_eq!(described, paths);
        // Every reference resolves.
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

/// Each status that a caller distinguishes is described, and parameters and amounts with their limits.
#[tokio::test]
async fn what_is_refused_is_described() {
    let shop = shared_shop().await;
    for (service, method, path, status) in [
        (&shop.orders, Method::GET, ["/orders/x", "/orders/{id}"], 400),
        (&shop.orders, Method::GET, ["/orders/0", "/orders/{id}"], 404),
        (&shop.orders, Method::GET, ["/orders?limit=", "/orders"], 400),
        (&shop.orders, Method::GET, ["/orders?after=", "/orders"], 400),
        (&shop.orders, Method::GET, ["/orders?customerId=x", "/orders"], 400),
        (&shop.orders, Method::POST, ["/orders", "/orders"], 400),
        (&shop.orders, Method::POST, ["/orders/x/cancel", "/orders/{id}/cancel"], 400),
        (&shop.orders, Method::POST, ["/orders/0/cancel", "/orders/{id}/cancel"], 404),
        (&shop.orders, Method::GET, ["/orders/x/saga", "/orders/{id}/saga"], 400),
        (&shop.orders, Method::GET, ["/orders/0/saga", "/orders/{id}/saga"], 404),
        (&shop.orders, Method::GET, ["/sagas/x", "/sagas/{id}"], 400),
        (&shop.orders, Method::GET, ["/sagas/0", "/sagas/{id}"], 404),
        (&shop.customers, Method::GET, ["/customers/x", "/customers/{id}"], 400),
        (&shop.customers, Method::GET, ["/customers/0", "/customers/{id}"], 404),
        (&shop.customers, Method::GET, ["/customers?limit=10001", "/customers"], 400),
        (&shop.customers, Method::POST, ["/customers", "/customers"], 400),
        (&shop.history, Method::GET, ["/customers/x/orderhistory", "/customers/{id}/orderhistory"], 400),
        (
            &shop.history,
            Method::GET,
            ["/customers/0/orderhistory?state=LOST", "/customers/{id}/orderhistory"],
            400,
        ),
        (&shop.history, Method::GET, ["/customers/0/orderhistory", "/customers/{id}/orderhistory"], 404),
    ] {
        let (answered, answer) = service.ask(method.clone(), path[0], String::new()).await;
        assert_eq!(answered, status, "{method} {}: {answer}", path[0]);
        let api = service.get("/openapi.json").await.1;
        let operation = &api["paths"][path[1]][method.as_str().to_lowercase()];
        assert!(operation["responses"][status.to_string()].is_object(), "{method} {}: {operation}", path[1]);
        assert!(operation["responses"]["default"].is_object(), "{operation}");
        let parameters = operation["parameters"].as_array().into_iter().flatten();
        for parameter in parameters {
            let schema = &parameter["schema"];
            match parameter["name"].as_str().unwrap() {
                "limit" => assert_eq!(
                    (&schema["type"], &schema["minimum"], &schema["maximum"]),
                    (&"integer".into(), &1.into(), &10_000.into()),
                    "{parameter}"
                ),
                "after" | "customerId" | "id" => assert_eq!(schema["type"], "integer", "{parameter}"),
                "state" => assert_eq!(schema["enum"].as_array().map(Vec::len), Some(4), "{parameter}"),
                other => panic!("{other}: {parameter}"),
            }
        }
    }
    for (service, schema, limit, value) in [
        (&shop.orders, "OrderTotal", "exclusiveMinimum", 0.0),
        (&shop.orders, "OrderTotal", "maximum", 1e12),
        (&shop.customers, "CreditLimit", "minimum", 0.0),
        (&shop.customers, "CreditLimit", "maximum", 1e12),
        (&shop.history, "OrderTotal", "exclusiveMinimum", 0.0),
    ] {
        let api = service.get("/openapi.json").await.1;
        let amount = &api["components"]["schemas"][schema]["properties"]["amount"];
        assert_eq!(amount[limit].as_f64(), Some(value), "{amount}");
        assert_eq!(amount["multipleOf"].as_f64(), Some(0.0001), "{amount}");
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
    // Each service writes its last line after the change that the view shows is committed.
    for (service, lines) in [
        (
            &shop.orders,
            vec![
                "event written OrderCreated",
                "answered",
                "event written OrderApproved",
                "settled",
                "handled",
            ],
        ),
        (&shop.customers, vec!["event written CustomerCreditReserved", "decided", "handled"]),
        (&shop.history, vec!["handled", "handled"]),
    ] {
        let logged = eventually("the log is complete", async || {
            Some(traced(service)).filter(|logged| logged.len() >= lines.len())
        });
        assert_eq!(logged.await, lines);
    }
}

#[tokio::test]
async fn no_service_can_read_the_tables_of_another() {
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
        let expected: &[i64] = match program {
            "order-service" | "order-history" => &[1, 2, 3, 4],
            _ => &[1],
        };
        assert_eq!(versions, expected);
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
    eventually("it says what it waits for", async || service.log().contains(log).then_some(())).await;
    let health = service.send(Method::GET, "/healthz", &[], String::new()).await;
    assert_eq!(health.status().as_u16(), 200, "the process works");
    for path in ["/orders", "/readyz"] {
        let (status, answer) = service.get(path).await;
        assert_eq!(status, 503, "{answer}");
    }
    postgres.create_database(&name).await;
    service.wait_ready(crate::PATIENCE).await;
    let body = r#"{"customerId": 1, "orderTotal": {"amount": 1}}"#.to_owned();
    assert_eq!(service.ask(Method::POST, "/orders", body).await.0, 201);
    eventually("it says that it does not consume", async || {
        service.log().contains("is not consumed").then_some(())
    })
    .await;
    assert_eq!(service.metric("inbox_connected{queue=\"order-service.customers\"}").await, Some(0.0));
    assert!(service.sigterm(Duration::from_secs(30)).await.success());
}

#[tokio::test]
async fn no_log_shows_a_password() {
    let (postgres, rabbitmq) = (shared_postgres().await, shared_rabbitmq().await);
    let name = unique("secretive");
    let (database, secret) = (postgres.create_database(&name).await, "gu3st-s3cret");
    let wrong_database = format!("postgresql://nobody:{secret}@127.0.0.1:1/none");
    let wrong_broker = rabbitmq.url("/").replace("guest:guest@", &format!("guest:{secret}@"));
    assert!(wrong_broker.contains(secret), "{wrong_broker}");
    for (database, broker, log) in [
        (&wrong_database, &rabbitmq.url("/"), "the database is not ready"),
        (&database, &wrong_broker, "refuses the login"),
    ] {
        let mut service = Service::prepare("order-service", database, broker);
        service.start_again();
        eventually("it says what is wrong", async || service.log().contains(log).then_some(())).await;
        assert!(service.sigterm(crate::PATIENCE).await.success());
        assert!(!service.log().contains(secret), "{}", service.log());
    }
}

#[tokio::test]
async fn tables_that_were_made_by_hand_are_used() {
    let (postgres, rabbitmq) = (shared_postgres().await, shared_rabbitmq().await);
    let name = unique("by_hand");
    let database = postgres.create_database(&name).await;
    let schema =
        tokio::process::Command::new(programs::executable("outboxd")).arg("schema").output().await.unwrap();
    postgres.client(&name).await.batch_execute(&String::from_utf8(schema.stdout).unwrap()).await.unwrap();
    let amqp = rabbitmq.create_vhost(&name).await;
    let service = Service::start("order-service", &database, &amqp).await;
    assert_eq!(service.get("/orders").await.0, 200);
}

#[tokio::test]
async fn a_broker_user_needs_no_more_than_the_configuration_file_says() {
    let (postgres, rabbitmq) = (shared_postgres().await, shared_rabbitmq().await);
    let name = unique("least");
    let database = postgres.create_database(&name).await;
    rabbitmq.create_vhost(&name).await;
    rabbitmq.create_user(&name, "pass").await;
    let amqp = rabbitmq.url(&name).replace("guest:guest@", &format!("{name}:pass@"));
    let queues = r"order-service\.(customers|replies)(\.dead)?";
    let declaring = [
        format!(r"^({queues}|Customer\.events)$"),
        format!(r"^({queues}|amq\.default)$"),
        format!(r"^({queues}|Customer\.events)$"),
    ];
    let using = ["^$".to_owned(), declaring[1].clone(), declaring[2].clone()];
    for (rights, declare) in [(declaring, "true"), (using, "false")] {
        rabbitmq.allow(&name, &name, [&rights[0], &rights[1], &rights[2]]).await;
        let mut service = Service::prepare("order-service", &database, &amqp).with("AMQP_DECLARE", declare);
        service.start_again();
        for queue in ["order-service.customers", "order-service.replies"] {
            let connected = format!("inbox_connected{{queue=\"{queue}\"}}");
            eventually("it consumes", async || {
                service.metric_if_up(&connected).await.filter(|connected| *connected == 1.0)
            })
            .await;
        }
        publish(
            &rabbitmq.url(&name),
            "order-service.customers",
            ByHand { id: Some(declare), event_type: Some("Nonsense"), body: b"{}" },
        )
        .await;
        eventually("it puts aside what it does not understand", async || {
            take(&rabbitmq.url(&name), "order-service.customers.dead").await
        })
        .await;
        assert!(service.sigterm(crate::PATIENCE).await.success());
    }
}

#[tokio::test]
async fn a_request_under_way_is_answered_before_the_end() {
    let mut shop = shop("under_way").await;
    let customer = shop.customer("10").await;
    let order = shop.order(customer, "10").await;
    settled(&shop, order).await;
    let (mut holder, connection) =
        tokio_postgres::connect(&shop.databases[0], tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let lock = holder.transaction().await.unwrap();
    lock.execute("SELECT FROM orders WHERE id = $1 FOR UPDATE", &[&order]).await.unwrap();
    let port = shop.orders.port();
    let path = format!("/orders/{order}/cancel");
    let cancelling =
        tokio::spawn(async move { http::request(Method::POST, port, &path, &[], String::new()).await });
    let waits =
        "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    eventually("the request waits for the row", async || lock.query_opt(waits, &[]).await.unwrap()).await;
    let ending = shop.orders.sigterm(crate::PATIENCE);
    let releasing = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        lock.rollback().await.unwrap();
    };
    let (status, ()) = tokio::join!(ending, releasing);
    assert!(status.success(), "{status}");
    assert_eq!(cancelling.await.unwrap().unwrap().0.as_u16(), 200);
}
