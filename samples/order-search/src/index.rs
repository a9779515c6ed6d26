//! View: two indices for each generation, `PREFIX-orders-N` and `PREFIX-customers-N`.
//!
//! Each write has an external version, which only grows, and the server refuses one that is not greater. So repeated, late
//! and crossing writes change nothing.
//!
//! ```text
//! version = 2 × rank of the state + (1 if the customer's name is known) + 1
//! ```
//!
//! The name comes in another stream. An order's event writes the order and then reads the customer; a customer's event
//! writes the customer and then reads its orders. So whichever comes last brings the two together.

use hyper::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::opensearch::{Answer, OpenSearch};
use chassis::{inbox::HandlingError, settings::Settings};
use contract::{
    events::{CustomerCreated, OrderEvent, RejectionReason},
    repeated_id,
};
use process::failure::Failure;
use projection::{Change, Place, State, Store};

/// Most attempts of a change beside another writer's.
const ATTEMPTS_MAX: u32 = 20;
/// Most orders that one request reads to give them their customer's name.
const BATCH_ORDERS: usize = 1000;
/// What the indices hold.
const KINDS: [&str; 2] = ["orders", "customers"];

/// Text index of orders.
#[derive(Clone, Debug)]
pub struct Index {
    pub(crate) server: OpenSearch,
}

/// Order in the index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Order {
    pub(crate) order_id: i64,
    pub(crate) customer_id: i64,
    /// Name of the customer; `None` until its CustomerCreated has come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) customer_name: Option<String>,
    pub(crate) state: State,
    /// Total in ten-thousandths: a `double` would not hold the largest ones.
    pub(crate) total: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rejection_reason: Option<RejectionReason>,
}

/// Customer in the index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Customer {
    name: String,
    credit_limit: i64,
}

impl Order {
    fn of(event: &OrderEvent, state: State) -> Self {
        Self {
            order_id: event.order_id,
            customer_id: event.order_details.customer_id,
            customer_name: None,
            state,
            total: event.order_details.order_total.ten_thousandths(),
            rejection_reason: event.rejection_reason,
        }
    }

    fn version(&self) -> i64 {
        2 * i64::from(self.state.rank()) + i64::from(self.customer_name.is_some()) + 1
    }

    /// Returns the order as the index should have it; `None` when it is there already.
    fn merged(self, known: Option<&Self>, name: Option<String>) -> Result<Option<Self>, HandlingError> {
        let mut next = match known {
            Some(known) if (known.customer_id, known.total) != (self.customer_id, self.total) => {
                return Err(repeated_id::of_order(self.order_id));
            }
            Some(known) if known.state.rank() >= self.state.rank() => known.clone(),
            _ => self,
        };
        next.customer_name = name.or_else(|| known.and_then(|known| known.customer_name.clone()));
        Ok(Some(next).filter(|next| Some(next) != known))
    }
}

impl Index {
    /// Reads `view_url`. Connects only when needed.
    ///
    /// # Errors
    ///
    /// [`Failure::Configuration`] when the URL is not valid.
    pub fn of(settings: &Settings) -> Result<Self, Failure> {
        let missing = || Failure::Configuration("view_url: is missing".to_owned());
        let url = settings.view.as_ref().ok_or_else(missing)?.read();
        Self::at(&url.map_err(|error| Failure::configuration(&error))?)
    }

    /// As [`of`](Self::of), from a URL.
    ///
    /// # Errors
    ///
    /// [`Failure::Configuration`] when the URL is not valid.
    pub fn at(url: &str) -> Result<Self, Failure> {
        let example = super::PROGRAM.view.map_or("", |places| places.example);
        let server = OpenSearch::parse(url, super::PROGRAM.name).map_err(|what| {
            Failure::Configuration(format!("view_url: {what}; set it to for instance {example}"))
        })?;
        Ok(Self { server })
    }

    /// Returns the name under which an index is written and read. It is an alias, because only a write to an alias
    /// (`require_alias`) does not create a missing index, with fields as the server guesses them.
    pub(crate) fn name(&self, kind: &str, generation: i64) -> String {
        format!("{}-{kind}-{generation}", self.server.prefix)
    }

    /// Creates the indices again after one was found missing.
    pub(crate) async fn create_missing(&self, generation: i64) -> Result<(), HandlingError> {
        tracing::warn!(
            index = self.name("orders", generation),
            "an index of the view does not exist and is created, empty; if it was lost, order-search rebuild fills it from the \
             retained events"
        );
        self.create(generation).await
    }

    /// Creates the indices that do not exist.
    async fn create(&self, generation: i64) -> Result<(), HandlingError> {
        for (kind, fields) in KINDS.into_iter().zip([order_fields(), customer_fields()]) {
            let alias = self.name(kind, generation);
            let index = json!({
                "aliases": { &alias: {} },
                "mappings": { "dynamic": "strict", "properties": fields },
            });
            let answer = self.server.ask(Method::PUT, &format!("{alias}-index"), Some(&index)).await?;
            let is_there = answer.error_type() == Some("resource_already_exists_exception");
            if !answer.status.is_success() && !is_there {
                return Err(self.server.refused(&answer));
            }
        }
        Ok(())
    }

    async fn apply_order(
        &self,
        generation: i64,
        event: &OrderEvent,
        state: State,
    ) -> Result<(), HandlingError> {
        for _ in 0..ATTEMPTS_MAX {
            let (known, name) =
                self.look(generation, event.order_id, event.order_details.customer_id).await?;
            let Some(next) = Order::of(event, state).merged(known.as_ref(), name)? else { return Ok(()) };
            // A nameless order is looked at once more: its customer may have come meanwhile.
            if self.put(generation, &next).await? && next.customer_name.is_some() {
                return Ok(());
            }
        }
        Err(self.busy(&format!("order {}", event.order_id)))
    }

    async fn apply_customer(&self, generation: i64, event: &CustomerCreated) -> Result<(), HandlingError> {
        let CustomerCreated { customer_id, name, credit_limit } = event;
        let customer = Customer { name: name.clone(), credit_limit: credit_limit.ten_thousandths() };
        let index = self.name("customers", generation);
        let path = format!("{index}/_create/{customer_id}?require_alias=true");
        let answer = self.write(generation, &path, &json!(customer)).await?;
        if answer.status == StatusCode::CONFLICT {
            let path = format!("{index}/_doc/{customer_id}?preference=_primary");
            let found = self.server.ask(Method::GET, &path, None).await?;
            if parsed::<Customer>(&found.body["_source"]) != Some(customer) {
                return Err(repeated_id::of_customer(*customer_id));
            }
        } else if !answer.status.is_success() {
            return Err(self.server.refused(&answer));
        }
        self.name_orders(generation, *customer_id, name).await
    }

    /// Gives the customer's orders that came first its name.
    async fn name_orders(&self, generation: i64, customer_id: i64, name: &str) -> Result<(), HandlingError> {
        let index = self.name("orders", generation);
        for _ in 0..ATTEMPTS_MAX {
            self.refresh(&index).await?;
            let mut after = i64::MIN;
            let mut is_whole = true;
            loop {
                let nameless = json!({
                    "size": BATCH_ORDERS,
                    "sort": ["orderId"],
                    "search_after": [after],
                    "query": { "bool": {
                        "filter": { "term": { "customerId": customer_id } },
                        "must_not": { "exists": { "field": "customerName" } },
                    } },
                });
                let answer =
                    self.server.ask(Method::POST, &format!("{index}/_search"), Some(&nameless)).await?;
                if !answer.status.is_success() {
                    return Err(self.server.refused(&answer));
                }
                let orders = found(&answer.body);
                for order in &orders {
                    let named = Order { customer_name: Some(name.to_owned()), ..order.clone() };
                    is_whole &= self.put(generation, &named).await?;
                }
                match orders.last() {
                    Some(last) if orders.len() == BATCH_ORDERS => after = last.order_id,
                    _ => break,
                }
            }
            // An order that was refused has changed meanwhile, and may still be nameless.
            if is_whole {
                return Ok(());
            }
        }
        Err(self.busy(&format!("an order of customer {customer_id}")))
    }

    /// Returns the order, and its customer's name. Sees every acknowledged write.
    async fn look(
        &self,
        generation: i64,
        order_id: i64,
        customer_id: i64,
    ) -> Result<(Option<Order>, Option<String>), HandlingError> {
        let both = json!({ "docs": [
            { "_index": self.name("orders", generation), "_id": order_id.to_string() },
            { "_index": self.name("customers", generation), "_id": customer_id.to_string() },
        ] });
        let answer = self.server.ask(Method::POST, "_mget?preference=_primary", Some(&both)).await?;
        if !answer.status.is_success() {
            return Err(self.server.refused(&answer));
        }
        let [order, customer] = [&answer.body["docs"][0], &answer.body["docs"][1]];
        for part in [order, customer] {
            let error = &part["error"]["type"];
            if !error.is_null() && error != "index_not_found_exception" {
                let body = part.clone();
                return Err(self.server.refused(&Answer { status: answer.status, body }));
            }
        }
        let name = parsed::<Customer>(&customer["_source"]).map(|customer| customer.name);
        Ok((parsed(&order["_source"]), name))
    }

    /// Writes an order; `false` when the index has it in the same or a later version.
    async fn put(&self, generation: i64, order: &Order) -> Result<bool, HandlingError> {
        let Order { order_id, .. } = order;
        let path = format!(
            "{}/_doc/{order_id}?version={}&version_type=external&require_alias=true",
            self.name("orders", generation),
            order.version()
        );
        let mut document = json!(order);
        document["orderIdText"] = json!(order_id.to_string());
        let answer = self.write(generation, &path, &document).await?;
        match answer.status {
            status if status.is_success() => Ok(true),
            StatusCode::CONFLICT => Ok(false),
            _ => Err(self.server.refused(&answer)),
        }
    }

    /// Writes a document, into an index that is created if it does not exist.
    async fn write(&self, generation: i64, path: &str, document: &Value) -> Result<Answer, HandlingError> {
        let answer = self.server.ask(Method::PUT, path, Some(document)).await?;
        if !answer.is_index_missing() {
            return Ok(answer);
        }
        self.create_missing(generation).await?;
        self.server.ask(Method::PUT, path, Some(document)).await
    }

    /// Makes every acknowledged write visible to searches.
    async fn refresh(&self, index: &str) -> Result<(), HandlingError> {
        let answer = self.server.ask(Method::POST, &format!("{index}/_refresh"), None).await?;
        if answer.status.is_success() { Ok(()) } else { Err(self.server.refused(&answer)) }
    }

    async fn count(&self, index: &str) -> Result<i64, HandlingError> {
        let answer = self.server.ask(Method::GET, &format!("{index}/_count"), None).await?;
        if answer.is_index_missing() {
            return Ok(0);
        }
        answer.body["count"].as_i64().ok_or_else(|| self.server.refused(&answer))
    }

    /// Deletes the indices whose name `is_unwanted`.
    async fn delete(&self, is_unwanted: impl Fn(&str) -> bool) -> Result<(), HandlingError> {
        for kind in KINDS {
            let pattern = format!("_alias/{}-{kind}-*", self.server.prefix);
            let there = self.server.ask(Method::GET, &pattern, None).await?;
            if there.status == StatusCode::NOT_FOUND {
                continue;
            }
            let Some(indices) = there.body.as_object().filter(|_| there.status.is_success()) else {
                return Err(self.server.refused(&there));
            };
            for index in indices.keys().filter(|index| is_unwanted(index)) {
                let answer = self.server.ask(Method::DELETE, index, None).await?;
                if !answer.status.is_success() && !answer.is_index_missing() {
                    return Err(self.server.refused(&answer));
                }
            }
        }
        Ok(())
    }

    /// Returns whether an index is of this generation; `None` for one that is not the view's.
    fn is_of(&self, index: &str, generation: i64) -> Option<bool> {
        let number = KINDS.into_iter().find_map(|kind| {
            let rest = index.strip_prefix(&format!("{}-{kind}-", self.server.prefix))?;
            rest.strip_suffix("-index")?.parse::<i64>().ok()
        });
        number.map(|number| number == generation)
    }

    fn busy(&self, what: &str) -> HandlingError {
        HandlingError::Transient(format!("{what} changed {ATTEMPTS_MAX} times meanwhile in the index"))
    }
}

impl Store for Index {
    async fn apply(&self, place: Place<'_>, change: &Change) -> Result<(), HandlingError> {
        match change {
            Change::Customer(event) => self.apply_customer(place.generation, event).await,
            Change::Order(event, state) => self.apply_order(place.generation, event, *state).await,
        }
    }

    async fn clear(&self, place: Place<'_>) -> Result<(), HandlingError> {
        self.delete(|index| self.is_of(index, place.generation) == Some(true)).await?;
        self.create(place.generation).await
    }

    async fn size(&self, place: Place<'_>) -> Result<i64, HandlingError> {
        let mut size = 0;
        for kind in KINDS {
            let index = self.name(kind, place.generation);
            let refreshed = self.server.ask(Method::POST, &format!("{index}/_refresh"), None).await?;
            if !refreshed.status.is_success() && !refreshed.is_index_missing() {
                return Err(self.server.refused(&refreshed));
            }
            size += self.count(&index).await?;
        }
        Ok(size)
    }

    async fn keep_only(&self, generation: i64) -> Result<(), HandlingError> {
        self.delete(|index| self.is_of(index, generation) == Some(false)).await
    }
}

/// Returns the orders that a search found.
pub(crate) fn found(body: &Value) -> Vec<Order> {
    let hits = body["hits"]["hits"].as_array().into_iter().flatten();
    hits.filter_map(|hit| parsed(&hit["_source"])).collect()
}

fn parsed<T: serde::de::DeserializeOwned>(source: &Value) -> Option<T> {
    T::deserialize(source).ok()
}

/// One field has all words that a search looks for. Its analyser splits texts into words in lower case.
fn order_fields() -> Value {
    json!({
        "orderId": { "type": "long" },
        "orderIdText": { "type": "text", "copy_to": "words" },
        "customerId": { "type": "long" },
        "customerName": { "type": "text", "copy_to": "words" },
        "state": { "type": "keyword", "copy_to": "words" },
        "total": { "type": "long" },
        "rejectionReason": { "type": "keyword" },
        "words": { "type": "text", "analyzer": "standard" },
    })
}

fn customer_fields() -> Value {
    json!({
        "name": { "type": "keyword", "index": false, "doc_values": false },
        "creditLimit": { "type": "long", "index": false },
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn order(state: State, name: Option<&str>) -> Order {
        Order {
            order_id: 1,
            customer_id: 2,
            customer_name: name.map(str::to_owned),
            state,
            total: 10_000_000_000_000_000,
            rejection_reason: None,
        }
    }

    #[test]
    fn an_order_only_gains_and_each_gain_has_a_greater_version() {
        let pending = order(State::Pending, None);
        let approved = order(State::Approved, None);
        let named = order(State::Approved, Some("Ada"));
        let ada = || Some("Ada".to_owned());
        let merged = |event: &Order, known, name| event.clone().merged(known, name).unwrap();
        assert_eq!(merged(&pending, None, None), Some(pending.clone()));
        assert_eq!(merged(&approved, Some(&pending), None), Some(approved.clone()));
        assert_eq!(merged(&approved, Some(&pending), ada()), Some(named.clone()));
        assert_eq!(
            merged(&pending, Some(&approved), ada()),
            Some(named.clone()),
            "late, and the name is new"
        );
        assert_eq!(merged(&pending, Some(&named), ada()), None);
        assert_eq!(merged(&order(State::Rejected, None), Some(&named), ada()), None, "the first one stays");
        let cancelled = merged(&order(State::Cancelled, None), Some(&named), None).unwrap();
        assert_eq!(cancelled, order(State::Cancelled, Some("Ada")), "a name is kept");
        let versions = [&pending, &approved, &named, &cancelled].map(Order::version);
        assert!(versions.is_sorted_by(|a, b| a < b), "{versions:?}");
        let other = Order { total: 1, ..pending };
        assert!(other.merged(Some(&named), None).is_err());
        let json = serde_json::to_value(&named).unwrap();
        assert_eq!((parsed(&json), json["total"].to_string()), (Some(named), "10000000000000000".to_owned()));
    }
}
