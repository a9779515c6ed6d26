//! AsyncAPI documents of the services: the published ones, compared with those of this version and with what is really sent.
//!
//! A service answers `/asyncapi.json` before it has its database, so a document needs no node.

mod breaks;
mod published;
mod schema;
mod truth;

use std::time::Duration;

use serde_json::Value;
use testkit::{Service, http};

use crate::eventually;

/// Services with databases of their own.
const SERVICES: [&str; 3] = ["order-service", "customer-service", "order-history"];
/// The gateway, which has none.
const GATEWAY: &str = "api-gateway";
/// The service whose view lies elsewhere.
const SEARCH: &str = "order-search";

/// Returns every program with a document.
fn programs() -> impl Iterator<Item = &'static str> {
    SERVICES.into_iter().chain([GATEWAY, SEARCH])
}

/// Sets a program up with addresses at which nobody answers.
fn without_nodes(program: &'static str) -> Service {
    let broker = "amqp://nobody:none@127.0.0.1:1/nothing";
    if program != GATEWAY {
        let service = Service::prepare(program, "postgresql://nobody@127.0.0.1:1/nothing", broker);
        return match program {
            SEARCH => service.with("VIEW_URL", "http://127.0.0.1:1/nothing"),
            _ => service,
        };
    }
    let services = ["ORDER_SERVICE_URL", "CUSTOMER_SERVICE_URL", "ORDER_HISTORY_URL"];
    let gateway = Service::with_arguments(program, &[]).with("AMQP_URL", broker);
    services.into_iter().fold(gateway, |gateway, variable| gateway.with(variable, "http://127.0.0.1:1"))
}

/// Starts a program without database and broker, and returns its document.
async fn document(program: &'static str) -> Value {
    let mut service = without_nodes(program);
    service.start_again();
    let port = service.port();
    let text = eventually("the document", async || {
        http::get(port, "/asyncapi.json").await.ok().filter(|(status, _)| status.is_success())
    })
    .await
    .1;
    assert!(service.sigterm(Duration::from_secs(20)).await.success());
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{program}: {error} in {text}"))
}

/// Returns the part of a document to which `{"$ref": "#/..."}` leads.
fn target<'a>(document: &'a Value, reference: &Value) -> &'a Value {
    let pointer = reference["$ref"].as_str().and_then(|text| text.strip_prefix('#')).unwrap_or_default();
    document.pointer(pointer).unwrap_or_else(|| panic!("{reference} leads nowhere"))
}

/// Operation of a document, with what it refers to.
#[derive(Clone, Debug)]
struct Operation<'a> {
    id: &'a str,
    object: &'a Value,
    channel: &'a Value,
    message: &'a Value,
    /// Messages of the replies.
    replies: Vec<&'a Value>,
}

fn operations(document: &Value) -> Vec<Operation<'_>> {
    let operations = document["operations"].as_object().unwrap();
    let made = operations.iter().map(|(id, object)| Operation {
        id,
        object,
        channel: target(document, &object["channel"]),
        message: target(document, &object["messages"][0]),
        replies: object["reply"]["messages"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|reply| target(document, reply))
            .collect(),
    });
    made.collect()
}

impl Operation<'_> {
    fn name(&self) -> &str {
        self.message["name"].as_str().unwrap()
    }

    fn sends(&self) -> bool {
        self.object["action"] == "send"
    }

    /// Returns the exchange's name and type.
    fn exchange(&self) -> &Value {
        &self.channel["bindings"]["amqp"]["exchange"]
    }
}
