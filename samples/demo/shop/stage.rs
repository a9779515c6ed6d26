//! Stage of the demo: two private nodes, the services and their gateway, outboxd with its own role, and a consumer of all messages.
//!
//! The order service runs twice, on one database: one instance begins sagas by choreography, the other by orchestration. So both
//! styles play side by side.

use super::{
    show::{
        LIMIT, Outcome, daemon,
        files::{keep, kept, short},
        nodes,
        screen::Screen,
    },
    walls,
    watcher::Watcher,
};
use hyper::Method;
use testkit::{Postgres, RabbitMq, Service, Shop};

const PROGRAMS: [&str; 5] = ["outboxd", "order-service", "customer-service", "order-history", "api-gateway"];
/// Sources of the relay's configuration.
const SOURCES: [&str; 2] = ["orders", "customers"];

/// Limits of the gateway in milliseconds: shorter than its defaults, so that a circuit closes while somebody watches.
const GATEWAY_LIMITS: [(&str, &str); 3] =
    [("QUERY_TIMEOUT_MS", "1000"), ("COMMAND_TIMEOUT_MS", "1000"), ("CIRCUIT_OPEN_MS", "1000")];

/// Style of a saga.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    Choreography,
    Orchestration,
}

/// Running programs. Dropped in this order: services and relay end before their nodes.
pub(crate) struct Stage {
    /// Instance of the gateway.
    pub(crate) gateway: Service,
    /// Instance of the order service that begins sagas by orchestration.
    pub(crate) coordinator: Service,
    pub(crate) shop: Shop,
    /// Set once outboxd has declared the exchanges.
    watcher: Option<Watcher>,
    pub(crate) postgres: Postgres,
    pub(crate) rabbitmq: RabbitMq,
}

impl Stage {
    /// Returns the consumer of all messages.
    pub(crate) fn watcher(&self) -> Outcome<&Watcher> {
        self.watcher.as_ref().ok_or_else(|| "nobody listens to the messages yet".into())
    }

    /// Returns the services with their names: the order service's two instances, and those that run once.
    pub(crate) fn services(&self) -> [(&'static str, &Service); 4] {
        let Shop { orders, customers, history, .. } = &self.shop;
        [
            ("order-service", orders),
            ("order-service-2", &self.coordinator),
            ("customer-service", customers),
            ("order-history", history),
        ]
    }

    /// Returns the instance of the order service that begins sagas in this style.
    pub(crate) fn orders(&self, style: Style) -> &Service {
        match style {
            Style::Choreography => &self.shop.orders,
            Style::Orchestration => &self.coordinator,
        }
    }

    /// Creates a customer and returns its id.
    pub(crate) async fn customer(&self, name: &str, limit: &str) -> Outcome<i64> {
        let body = format!(r#"{{"name": "{name}", "creditLimit": {{"amount": {limit}}}}}"#);
        let (status, answer) = self.shop.customers.ask(Method::POST, "/customers", body).await;
        let id = answer["customerId"].as_i64().filter(|_| status == 201);
        id.ok_or_else(|| format!("POST /customers: {status} {answer}").into())
    }

    /// Returns the output of a command of outboxd.
    pub(crate) async fn outboxd(&self, arguments: &[&str]) -> Outcome<String> {
        daemon::answer(&self.shop.relay, arguments).await
    }
}

/// Starts nodes and services, and shows that no service can read another's tables.
pub(crate) async fn start_services(screen: Screen) -> Outcome<Stage> {
    screen.step(
        1,
        "Start PostgreSQL, RabbitMQ, three services and a gateway",
        "Two private nodes on free ports, with data of their own: no service of this machine is touched. The services share \
         nothing: each has its own database and a role that can read no other. The order service runs twice: the first instance \
         plays its sagas by choreography, the second by orchestration.",
    );
    let (postgres, rabbitmq) = nodes::start(screen, &PROGRAMS, "demo").await?;

    let relay_url = |server: &Postgres, database: &str| {
        format!("postgresql://{}@127.0.0.1:{}/{database}", relay_role(database), server.port())
    };
    let shop = Shop::prepare("choreography", "shop", [&postgres; 3], &rabbitmq, relay_url).await;
    let mut coordinator =
        Service::prepare("order-service", &shop.databases[0], &shop.amqp_url).with("SAGA", "orchestration");
    coordinator.start_again();
    let mut gateway = gateway(&shop, &coordinator);
    gateway.start_again();
    coordinator.wait_ready(LIMIT).await;
    gateway.wait_ready(LIMIT).await;
    let stage = Stage { gateway, coordinator, shop, watcher: None, postgres, rabbitmq };
    for (name, service) in stage.services().into_iter().chain([("api-gateway", &stage.gateway)]) {
        keep(&service.log_file(), &format!("{name}.log"))?;
        let log = short(&kept(&format!("{name}.log")));
        screen.fact(name, &format!("http://127.0.0.1:{}   log {log}", service.port()));
    }
    daemon::keep_files(&stage.shop.relay)?;
    println!();
    walls::between_services(screen, &stage).await?;
    Ok(stage)
}

/// Sets the gateway up in front of the services.
fn gateway(shop: &Shop, orders: &Service) -> Service {
    let url = |service: &Service| format!("http://127.0.0.1:{}", service.port());
    let gateway = Service::with_arguments("api-gateway", &[])
        .with("ORDER_SERVICE_URL", &url(orders))
        .with("CUSTOMER_SERVICE_URL", &url(&shop.customers))
        .with("ORDER_HISTORY_URL", &url(&shop.history))
        .with("AMQP_URL", &shop.amqp_url);
    GATEWAY_LIMITS.into_iter().fold(gateway, |gateway, (variable, limit)| gateway.with(variable, limit))
}

/// Creates what `outboxd setup --print-sql` prints and no more, and starts outboxd.
pub(crate) async fn start_relay(screen: Screen, stage: &mut Stage) -> Outcome<()> {
    screen.step(
        2,
        "Start outboxd between them",
        "One process follows the outbox tables of both writing services, with a role for each that may read that table and nothing \
         else. `outboxd setup --print-sql` prints what a DBA runs for it:",
    );
    let printed = stage.outboxd(&["setup", "--print-sql"]).await?;
    for source in SOURCES {
        let heading = format!("-- ==== source {source}:");
        let script = printed.split_once(&heading).map(|(_, script)| script);
        let script = script.ok_or_else(|| format!("setup prints nothing for source {source}: {printed}"))?;
        // The rest of the heading, then statements up to the next heading.
        let script = script.split_once('\n').map_or("", |(_, script)| script);
        let script = script.split("-- ====").next().unwrap_or(script);
        let database = database_of(&stage.shop.databases, source)?;
        stage.postgres.client(database).await.batch_execute(script).await?;
        if source == SOURCES[0] {
            let statements = script.lines().filter(|line| !line.is_empty() && !line.starts_with("--"));
            statements.for_each(|statement| screen.quote(statement));
            println!();
        }
    }
    walls::around_the_relay(screen, stage).await?;
    println!();
    daemon::start(screen, &mut stage.shop.relay).await?;
    stage.watcher = Some(Watcher::start(&stage.shop.amqp_url).await?);
    Ok(())
}

/// Returns outboxd's role in a database.
pub(crate) fn relay_role(database: &str) -> String {
    format!("outboxd_{database}")
}

/// Returns the database of `source`.
pub(crate) fn database_of<'a>(urls: &'a [String; 3], source: &str) -> Outcome<&'a str> {
    let names = urls.iter().filter_map(|url| Some(url.rsplit_once('/')?.1));
    let database = names.into_iter().find(|name| name.ends_with(&format!("_{source}")));
    database.ok_or_else(|| format!("no database of {source} in {urls:?}").into())
}
