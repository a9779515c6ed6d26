//! API gateway: one address for browsers in front of the services.
//!
//! ```text
//! GET /api/customers/{id}/orders  -> composition -> customer-service and order-service, side by side
//! other requests                  -> forwarding  -> one service
//! GET /api/events                 <- events      <- RabbitMQ, by a queue that ends with this instance
//!                                    upstream    :  one service each: time limit, calls in flight, circuit
//! ```
//!
//! The gateway has no database. It keeps nothing, and authenticates nobody.

mod circuits;
mod composition;
mod context;
mod events;
mod forwarding;
mod metrics;
mod page;
pub mod settings;
mod timing;
mod upstream;

use chassis::settings::Program;
use process::failure::Failure;
use settings::GatewaySettings;
use utoipa_axum::router::OpenApiRouter;

use events::Events;
use metrics::Metrics;
use upstream::Upstreams;

/// Program of the gateway.
pub const PROGRAM: Program =
    Program { name: "api-gateway", listen: "127.0.0.1:8080", orchestrates: false, view: None };

/// End of the gateway's `--help`.
pub const HELP: &str = "\
Environment (each variable overrides the same key of the file; instead of KEY, KEY_FILE may name a file with the value):
  LISTEN                    host:port of the HTTP endpoints
  ORDER_SERVICE_URL         http://host:port of order-service
  CUSTOMER_SERVICE_URL      http://host:port of customer-service
  ORDER_HISTORY_URL         http://host:port of order-history
  ORDER_SEARCH_URL          http://host:port of order-search, if there is one
  AMQP_URL                  amqp://user:password@host:5672/%2f
  AMQP_URLS                 instead of AMQP_URL: several brokers, separated by commas, tried in turn
  AMQP_USERNAME, AMQP_PASSWORD, AMQP_TLS_CA_FILE, AMQP_TLS_CERT_FILE, AMQP_TLS_KEY_FILE
  AMQP_DECLARE              false: verify exchanges instead of declaring them
  QUERY_TIMEOUT_MS          how long a service may take to answer a GET
  COMMAND_TIMEOUT_MS        how long a service may take to answer a POST
  IN_FLIGHT_MAX             calls of one service under way at most
  CIRCUIT_FAILURES          failures in a row that open a service's circuit
  CIRCUIT_OPEN_MS           how long an open circuit refuses calls before it lets one try
  EVENTS_BUFFER             events that a slow browser may be behind
  DRAIN_TIMEOUT_S           how long requests under way may take after SIGTERM
  OUTBOXD_LOG               log levels, for instance warn,api_gateway=debug

Signals: SIGTERM, SIGINT and SIGQUIT drain and end; a second one ends at once; any other is logged and ignored

HTTP, beside /api and the page: /healthz, /readyz, /metrics (Prometheus), /openapi.json, /asyncapi.json

Exit status: 0 ended in good order; 1 failed at run time; 2 bad command line; 78 bad configuration";

/// State of the endpoints.
#[derive(Clone)]
struct Api {
    upstreams: Upstreams,
    events: Events,
}

/// Runs the gateway until SIGTERM, SIGINT or SIGQUIT.
///
/// # Errors
///
/// As [`chassis::run_without_database`].
pub async fn run(settings: GatewaySettings) -> Result<(), Failure> {
    let files_max = settings.files_max();
    chassis::run_without_database(settings.base.clone(), files_max, |base| {
        base.describe(contract::messages());
        let metrics = Metrics::register(base)?;
        let upstreams = Upstreams::new(&settings, &metrics)?;
        for upstream in upstreams.all() {
            base.spawn(upstream.clone().recover(base.shutdown()));
        }
        let events = Events::new(settings.events_buffer, metrics, base.shutdown());
        base.listen(events::subscription(), events.clone().hear());
        let api = OpenApiRouter::new()
            .merge(composition::routes())
            .merge(forwarding::routes())
            .merge(circuits::routes())
            .merge(events::routes())
            .with_state(Api { upstreams, events });
        Ok(api.merge(page::routes()))
    })
    .await
}
