//! Signals and stderr from the process that starts the services.

use crate::{eventually, history_shows, settled, shop};
use testkit::{Service, UnreadPipe, process, shared_postgres, shared_rabbitmq, unique};

const PROGRAMS: [&str; 3] = ["order-service", "customer-service", "order-history"];

#[tokio::test]
async fn no_signal_ends_a_service_without_a_line_and_sigquit_drains() {
    let (postgres, rabbitmq) = (shared_postgres().await, shared_rabbitmq().await);
    for program in PROGRAMS {
        let name = unique("signals");
        let (database, amqp) = (postgres.create_database(&name).await, rabbitmq.create_vhost(&name).await);
        let mut service = Service::start(program, &database, &amqp).await;
        for name in ["HUP", "USR1", "USR2", "ALRM", "XFSZ"] {
            process::signal(&[service.pid()], name);
            let line = format!("SIG{name} is ignored");
            eventually(&line, async || service.log().contains(&line).then_some(())).await;
        }
        service.wait_ready(crate::PATIENCE).await;
        process::signal(&[service.pid()], "QUIT");
        assert!(service.wait(crate::PATIENCE).await.success());
        let log = service.log();
        assert!(log.contains("SIGQUIT") && log.contains("\"drained\""), "{log}");
    }
}

#[tokio::test]
async fn a_service_that_waits_for_its_database_says_which_signal_ended_it() {
    let (postgres, rabbitmq) = (shared_postgres().await, shared_rabbitmq().await);
    let name = unique("not_there");
    let mut service = Service::prepare("order-history", &postgres.url(&name), &rabbitmq.url("/"));
    service.start_again();
    eventually("it waits", async || service.log().contains("the database is not ready").then_some(())).await;
    process::signal(&[service.pid()], "HUP");
    eventually("it ignores", async || service.log().contains("SIGHUP is ignored").then_some(())).await;
    process::signal(&[service.pid()], "QUIT");
    assert!(service.wait(crate::PATIENCE).await.success());
    assert!(service.log().contains("stopped before the database was ready"), "{}", service.log());
}

#[tokio::test]
async fn a_stderr_that_nobody_reads_stops_no_service() {
    let mut shop = shop("unread").await;
    let customer = shop.customer("1000").await;
    let pipe = UnreadPipe::create();
    for service in [&mut shop.orders, &mut shop.customers, &mut shop.history] {
        assert!(service.sigterm(crate::PATIENCE).await.success());
        service.start_again_logging_to(pipe.path());
        service.wait_ready(crate::PATIENCE).await;
    }
    let mut orders = Vec::new();
    for _ in 0..300 {
        orders.push(shop.order(customer, "1").await);
    }
    for order in &orders {
        assert_eq!(settled(&shop, *order).await.0, "APPROVED");
    }
    let expected: Vec<(i64, &str)> = orders.iter().map(|order| (*order, "APPROVED")).collect();
    history_shows(&shop, customer, &expected).await;
    for service in [&mut shop.orders, &mut shop.customers, &mut shop.history] {
        assert!(service.sigterm(crate::PATIENCE).await.success(), "nobody reads its last words either");
    }
}
