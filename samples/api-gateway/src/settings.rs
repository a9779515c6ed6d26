//! Keys of the gateway, beside those of every program.

use std::time::Duration;

use axum::http::Uri;
use chassis::settings::{BASE_KEYS, BaseSettings, Program, Readable};
use configuration::Section;

/// The gateway's own keys. In capital letters they are the environment's variables.
const KEYS: [&str; 10] = [
    "circuit_failures",
    "circuit_open_ms",
    "command_timeout_ms",
    "customer_service_url",
    "events_buffer",
    "in_flight_max",
    "order_history_url",
    "order_search_url",
    "order_service_url",
    "query_timeout_ms",
];

/// Settings of the gateway.
#[derive(Clone, Debug)]
pub struct GatewaySettings {
    /// Settings of every program.
    pub base: BaseSettings,
    /// `order_service_url`: address of the order service.
    pub order_service: ServiceUrl,
    /// `customer_service_url`: address of the customer service.
    pub customer_service: ServiceUrl,
    /// `order_history_url`: address of the order history.
    pub order_history: ServiceUrl,
    /// `order_search_url`: address of the order search, if there is one.
    pub order_search: Option<ServiceUrl>,
    /// What a service may cost.
    pub limits: Limits,
    /// `events_buffer`: most events that a browser may be behind.
    pub events_buffer: usize,
}

/// Limits of the calls to one service.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// `query_timeout_ms`: limit for the whole answer to a GET.
    pub query_timeout: Duration,
    /// `command_timeout_ms`: limit for the whole answer to a POST.
    pub command_timeout: Duration,
    /// `in_flight_max`: most calls under way.
    pub in_flight_max: usize,
    /// `circuit_failures`: failures in a row that open the circuit.
    pub circuit_failures: usize,
    /// `circuit_open_ms`: time for which an open circuit refuses every call.
    pub circuit_open: Duration,
}

/// Address of a service: `http://host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceUrl(String);

impl ServiceUrl {
    fn parse(text: &str) -> Result<Self, (String, String)> {
        let cure = || "write http://host:port".to_owned();
        let uri: Uri = text.parse().map_err(|error| (format!("is not a URL: {error}"), cure()))?;
        let Some(authority) = uri.authority().filter(|_| uri.scheme_str() == Some("http")) else {
            return Err(("is not an http:// URL".to_owned(), cure()));
        };
        if authority.as_str().contains('@') {
            return Err(("has a user or a password, which no service asks for".to_owned(), cure()));
        }
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(("has a path or a query".to_owned(), cure()));
        }
        Ok(Self(format!("http://{authority}")))
    }

    /// Returns the URL of a path with its query.
    pub fn with(&self, path: &str) -> String {
        format!("{}{path}", self.0)
    }
}

impl GatewaySettings {
    /// Returns the most files that calls to services need.
    pub fn files_max(&self) -> usize {
        // As many connections may be idle as are in use.
        2 * self.limits.in_flight_max * (3 + usize::from(self.order_search.is_some()))
    }
}

impl Readable for GatewaySettings {
    fn keys(_: Program) -> Vec<&'static str> {
        BASE_KEYS.iter().chain(&KEYS).copied().collect()
    }

    fn from_root(mut root: Section<'_>, program: Program) -> Option<Self> {
        let base = BaseSettings::read(&mut root, program);
        let mut url = |key, default| root.parsed(key, default, ServiceUrl::parse);
        let order_service = url("order_service_url", Some("http://127.0.0.1:8081"));
        let customer_service = url("customer_service_url", Some("http://127.0.0.1:8082"));
        let order_history = url("order_history_url", Some("http://127.0.0.1:8083"));
        let order_search = url("order_search_url", None);
        let limits = limits(&mut root);
        let events_buffer = root.count("events_buffer", 1..=65_536, 256);
        root.finish();
        Some(Self {
            base: base?,
            order_service: order_service?,
            customer_service: customer_service?,
            order_history: order_history?,
            order_search,
            limits,
            events_buffer,
        })
    }
}

fn limits(root: &mut Section<'_>) -> Limits {
    let limits = Limits {
        query_timeout: root.milliseconds("query_timeout_ms", 1..=60_000, 2000),
        command_timeout: root.milliseconds("command_timeout_ms", 1..=60_000, 5000),
        in_flight_max: root.count("in_flight_max", 1..=1000, 64),
        circuit_failures: root.count("circuit_failures", 1..=1000, 5),
        circuit_open: root.milliseconds("circuit_open_ms", 1..=3_600_000, 5000),
    };
    // A call that began before the circuit opened has ended when the circuit lets one try. Its result is not mistaken for that one's.
    let longest = limits.query_timeout.max(limits.command_timeout);
    if limits.circuit_open < longest {
        let what = "is shorter than query_timeout_ms or command_timeout_ms";
        root.problem("circuit_open_ms", what, format!("set {} or more", longest.as_millis()));
    }
    limits
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::PROGRAM;
    use configuration::{Origins, documentation};
    use std::collections::BTreeMap;

    #[test]
    fn the_file_documents_every_key_with_its_default() {
        let file = include_str!("../../../config/api-gateway.toml");
        let documentation = documentation::read(file, |root| GatewaySettings::from_root(root, PROGRAM));
        assert_eq!(documentation.keys().count(), GatewaySettings::keys(PROGRAM).len());
    }

    fn read(variables: &[(&str, &str)]) -> Result<GatewaySettings, String> {
        let environment: BTreeMap<String, String> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let origins = Origins { file: None, prefix: "", environment: &environment };
        configuration::read(&origins, |root| GatewaySettings::from_root(root, PROGRAM))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_broker_will_do_and_problems_name_the_variable() {
        let broker = ("AMQP_URL", "amqp://mq");
        let settings = read(&[broker, ("ORDER_SERVICE_URL", "http://orders:80/")]).unwrap();
        assert_eq!(settings.order_service.with("/orders?limit=1"), "http://orders:80/orders?limit=1");
        assert_eq!(settings.order_search, None);
        assert!(read(&[]).unwrap_err().contains("AMQP_URL"));
        for wrong in
            ["orders:8081", "https://orders", "http://u:p@orders", "http://orders/v1", "http://orders?x", ""]
        {
            let text = read(&[broker, ("ORDER_SERVICE_URL", wrong)]).unwrap_err();
            assert!(
                text.contains("ORDER_SERVICE_URL") && text.contains("http://host:port"),
                "{wrong}: {text}"
            );
        }
        let text = read(&[broker, ("CIRCUIT_OPEN_MS", "4999")]).unwrap_err();
        assert!(text.contains("CIRCUIT_OPEN_MS") && text.contains("set 5000 or more"), "{text}");
    }
}
