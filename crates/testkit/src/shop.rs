//! The three companion services, each with its own database and role, and outboxd between them.

use super::{Daemon, Postgres, RabbitMq, Service, programs, run::unique};
use serde_json::{Value, json};
use std::time::Duration;

/// Services by database.
const SERVICES: [&str; 3] = ["orders", "customers", "history"];

/// outboxd's shipped configuration without the admin endpoints.
const RELAY: &str = include_str!("../../../config/shop.toml");

/// Running services. Dropped in this order: services end before the nodes that they use.
#[derive(Debug)]
pub struct Shop {
    /// order-service.
    pub orders: Service,
    /// customer-service.
    pub customers: Service,
    /// order-history.
    pub history: Service,
    /// outboxd.
    pub relay: Daemon,
    /// Connection strings of the databases of orders, customers and history, each for the service's own role.
    pub databases: [String; 3],
    /// URL of the virtual host.
    pub amqp_url: String,
}

impl Shop {
    /// Creates databases, roles and a virtual host, starts the three services and outboxd, and waits until outboxd
    /// streams.
    pub async fn open(name: &str, postgres: &Postgres, rabbitmq: &RabbitMq) -> Self {
        Self::open_with("choreography", name, postgres, rabbitmq).await
    }

    /// As [`open`](Self::open), with sagas in this style: `choreography` or `orchestration`.
    pub async fn open_with(style: &str, name: &str, postgres: &Postgres, rabbitmq: &RabbitMq) -> Self {
        Self::open_on(style, name, [postgres; 3], rabbitmq).await
    }

    /// As [`open_with`](Self::open_with), with the databases of orders, customers and history on these servers.
    pub async fn open_on(style: &str, name: &str, servers: [&Postgres; 3], rabbitmq: &RabbitMq) -> Self {
        let mut shop = Self::prepare(style, &unique(name), servers, rabbitmq, Postgres::url).await;
        shop.relay.start_again();
        shop.relay.wait_ready(Duration::from_secs(60)).await;
        shop
    }

    /// As [`open_on`](Self::open_on), with this prefix of names, and without starting outboxd, which reaches a database by
    /// `relay_url`.
    pub async fn prepare(
        style: &str,
        name: &str,
        servers: [&Postgres; 3],
        rabbitmq: &RabbitMq,
        relay_url: impl Fn(&Postgres, &str) -> String,
    ) -> Self {
        // Built before any of them starts: a build takes longer than a start may.
        for program in ["order-service", "customer-service", "order-history", "outboxd"] {
            programs::executable(program);
        }
        let mut databases = Vec::new();
        for (service, postgres) in SERVICES.into_iter().zip(servers) {
            databases.push(own_database(postgres, &format!("{name}_{service}")).await);
        }
        let databases: [String; 3] = databases.try_into().expect("three databases");
        let amqp_url = rabbitmq.create_vhost(name).await;
        let [orders, customers, history] = &databases;
        let order_service = async {
            let mut service = Service::prepare("order-service", orders, &amqp_url).with("SAGA", style);
            service.start_again();
            service.wait_ready(Duration::from_secs(60)).await;
            service
        };
        let (orders, customers, history) = tokio::join!(
            order_service,
            Service::start("customer-service", customers, &amqp_url),
            Service::start("order-history", history, &amqp_url),
        );
        let relay = RELAY
            .replace("amqp://guest:guest@127.0.0.1:5672/%2f", &amqp_url)
            .replace(
                "postgresql://outboxd@127.0.0.1:5432/orders",
                &relay_url(servers[0], &format!("{name}_orders")),
            )
            .replace(
                "postgresql://outboxd@127.0.0.1:5432/customers",
                &relay_url(servers[1], &format!("{name}_customers")),
            )
            // Slots belong to the server, which other shops share.
            .replace("[sources.orders]", &format!("[sources.orders]\npostgres.slot = \"{name}_orders\""))
            .replace(
                "[sources.customers]",
                &format!("[sources.customers]\npostgres.slot = \"{name}_customers\""),
            );
        let relay = Daemon::prepare(&relay);
        Self { orders, customers, history, relay, databases, amqp_url }
    }

    /// Starts an api-gateway in front of the services, and waits until it is ready.
    pub async fn gateway(&self) -> Service {
        let mut gateway = self.prepare_gateway();
        gateway.start_again();
        gateway.wait_ready(Duration::from_secs(60)).await;
        gateway
    }

    /// Sets an api-gateway up in front of the services, without starting it.
    pub fn prepare_gateway(&self) -> Service {
        let url = |service: &Service| format!("http://127.0.0.1:{}", service.port());
        Service::with_arguments("api-gateway", &[])
            .with("ORDER_SERVICE_URL", &url(&self.orders))
            .with("CUSTOMER_SERVICE_URL", &url(&self.customers))
            .with("ORDER_HISTORY_URL", &url(&self.history))
            .with("AMQP_URL", &self.amqp_url)
    }

    /// Creates a customer and returns its id.
    pub async fn customer(&self, limit: &str) -> i64 {
        let body = format!(r#"{{"name": "Ada", "creditLimit": {{"amount": {limit}}}}}"#);
        let (status, answer) = self.customers.ask(hyper::Method::POST, "/customers", body).await;
        assert_eq!(status, 201, "{answer}");
        answer["customerId"].as_i64().expect("an id")
    }

    /// Places an order and returns its id.
    pub async fn order(&self, customer: i64, total: &str) -> i64 {
        let body = format!(r#"{{"customerId": {customer}, "orderTotal": {{"amount": {total}}}}}"#);
        let (status, answer) = self.orders.ask(hyper::Method::POST, "/orders", body).await;
        assert_eq!(status, 201, "{answer}");
        answer["orderId"].as_i64().expect("an id")
    }

    /// Returns the order as the order service has it.
    pub async fn state_of(&self, order: i64) -> (String, Value) {
        let (status, answer) = self.orders.get(&format!("/orders/{order}")).await;
        assert_eq!((status, &answer["orderId"]), (200, &json!(order)));
        (answer["orderState"].as_str().expect("a state").to_owned(), answer["rejectionReason"].clone())
    }
}

/// Creates a role and its database, to which only superusers may connect besides.
async fn own_database(postgres: &Postgres, name: &str) -> String {
    let client = postgres.client("postgres").await;
    for statement in [
        format!("CREATE ROLE {name} LOGIN"),
        format!("CREATE DATABASE {name} OWNER {name}"),
        format!("REVOKE CONNECT ON DATABASE {name} FROM PUBLIC"),
    ] {
        client.batch_execute(&statement).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
    }
    format!("postgresql://{name}@127.0.0.1:{}/{name}", postgres.port())
}
