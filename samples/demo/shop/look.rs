//! Views of an operator and a curious reader.

use super::{
    show::{Outcome, daemon, ensure, screen::Screen},
    stage::Stage,
};
use std::time::Duration;
use testkit::Service;

/// Interval of looking for new events.
const GLANCE: Duration = Duration::from_millis(50);

/// Shows outboxd's state, and the addresses of the services' descriptions.
pub(crate) async fn look_inside(screen: Screen, stage: &Stage) -> Outcome<()> {
    screen.step(
        7,
        "Look at it as an operator does",
        "`outboxd status` asks the running daemon. Every program has /healthz and /metrics for Prometheus; each service describes \
         its API as OpenAPI.",
    );
    screen.quote(&stage.outboxd(&["status"]).await?);
    println!();
    for (program, service) in stage.services().into_iter().chain([("api-gateway", &stage.gateway)]) {
        let (status, description) = service.get("/openapi.json").await;
        let paths = description["paths"].as_object().map_or(0, |paths| paths.len());
        ensure(status == 200 && paths > 0, || format!("{program} does not describe its API: {description}"))?;
        screen.fact(program, &format!("http://127.0.0.1:{}/openapi.json   {paths} paths", service.port()));
    }
    Ok(())
}

/// Suggests commands, and shows the events that they cause.
pub(crate) async fn stay(screen: Screen, stage: &mut Stage) -> Outcome<()> {
    screen.interlude(
        "Everything stays up until Ctrl-C",
        "Place orders on the page or by hand, and see below which events, commands and replies come of it.",
    );
    screen.fact("page", &format!("http://127.0.0.1:{}/", stage.gateway.port()));
    let first = async |service: &Service, list: &str, id: &str| {
        let (_, answer) = service.get(&format!("/{list}?limit=1")).await;
        answer[list][0][id].to_string()
    };
    let order = first(&stage.shop.orders, "orders", "orderId").await;
    let customer = first(&stage.shop.customers, "customers", "customerId").await;
    let [orders, orchestrated, customers, history] =
        stage.services().map(|(_, service)| format!("http://127.0.0.1:{}", service.port()));
    for (name, call) in [
        (
            "new customer",
            format!(r#"{customers}/customers -d '{{"name": "Grace", "creditLimit": {{"amount": 50}}}}'"#),
        ),
        (
            "new order",
            format!(
                r#"{orders}/orders -d '{{"customerId": {customer}, "orderTotal": {{"amount": 12.34}}}}'"#
            ),
        ),
        (
            "by orchestration",
            format!(
                r#"{orchestrated}/orders -d '{{"customerId": {customer}, "orderTotal": {{"amount": 12.34}}}}'"#
            ),
        ),
        ("its state", format!("{orders}/orders/{order}")),
        ("cancel", format!("-X POST {orders}/orders/{order}/cancel")),
        ("history", format!("'{history}/customers/{customer}/orderhistory?state=APPROVED'")),
        ("how far it is", format!("{history}/lag")),
        ("metrics", format!("{orders}/metrics")),
    ] {
        screen.fact(name, &format!("curl {call}"));
    }
    for url in &stage.shop.databases {
        screen.fact("database", &format!("psql {url}"));
    }
    daemon::invite(screen, &stage.shop.relay, &stage.rabbitmq);
    println!();
    let mut seen = stage.watcher()?.count();
    loop {
        for event in stage.watcher()?.behind(seen) {
            screen.fact(event.kind, &format!("{}, {}: {}", event.name, event.way(), event.body));
            seen += 1;
        }
        tokio::time::sleep(GLANCE).await;
    }
}
