//! View in documents: one for each customer, with its orders by id, on a server of MongoDB's protocol.
//!
//! ```text
//! { _id: 7, name: "Ada", creditLimit: 100000, orders: { "4711": { state: "APPROVED", rank: 1, total: 123400 } } }
//! ```
//!
//! Each event is one conditional update of one document, which needs no transaction: its condition is that the order is
//! not there, or has a lower rank. So a repeated or late event changes nothing. Amounts are ten-thousandths.
//!
//! A document holds 16 MiB, so about 100,000 orders of one customer. An order's id in two customers' documents is not
//! noticed, because no update sees both.

use std::time::Duration;

use mongodb::{
    Client, Collection, Database,
    bson::{Bson, Document, doc},
    error::{Error, ErrorKind, WriteFailure},
    options::{ClientOptions, ReadConcern, WriteConcern},
};
use tokio::time::timeout;

use super::{Order, OrderHistory};
use chassis::{http::Page, inbox::HandlingError};
use contract::{
    events::{CustomerCreated, OrderEvent, RejectionReason},
    money::Money,
    repeated_id,
};
use process::failure::Failure;
use projection::{Change, Place, State, Store};
use secret::Secret;

/// Limit for finding a server, and for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Limit for one operation.
const LIMIT: Duration = Duration::from_secs(10);
/// Most attempts of a change beside another writer's.
const ATTEMPTS_MAX: u32 = 10;
/// Prefix of the collections, one for each generation.
const PREFIX: &str = "customers_";

/// Code of an insert whose id exists.
const DUPLICATE_KEY: i32 = 11000;
/// Codes of a document that would be too large.
const TOO_LARGE: [i32; 3] = [10334, 17419, 17420];

/// Collection of customers in a database.
#[derive(Clone, Debug)]
pub struct Documents {
    database: Database,
    /// Hosts, for errors.
    hosts: String,
}

impl Documents {
    /// Reads the URL. Connects only when needed.
    ///
    /// # Errors
    ///
    /// [`Failure::Configuration`] when the URL is not valid or names no database. The text has no part of it.
    pub async fn open(url: &Secret, program: &str) -> Result<Self, Failure> {
        let url = url.read().map_err(|error| Failure::configuration(&error))?;
        let invalid = |what: &str| {
            Failure::Configuration(format!(
                "view_url: {what}; set it to for instance mongodb://user:password@host:27017/history, with the special characters of \
                 user and password as %XX; options such as ?tls=true come last"
            ))
        };
        let parsed = ClientOptions::parse(url).await;
        let mut options = parsed.map_err(|_| invalid("is no valid URL of a MongoDB server"))?;
        let name = options.default_database.clone().ok_or_else(|| invalid("names no database"))?;
        options.app_name = Some(program.to_owned());
        options.server_selection_timeout.get_or_insert(CONNECT_TIMEOUT);
        options.connect_timeout.get_or_insert(CONNECT_TIMEOUT);
        // The consumer tries again.
        options.retry_writes = Some(false);
        // An acknowledged event is not sent again, so a change has to survive a failover, and so does what was read.
        options.write_concern = Some(WriteConcern::majority());
        options.read_concern = Some(ReadConcern::majority());
        let hosts: Vec<String> = options.hosts.iter().map(ToString::to_string).collect();
        let client = Client::with_options(options).map_err(|_| invalid("cannot be used"))?;
        Ok(Self { database: client.database(&name), hosts: hosts.join(", ") })
    }

    /// Returns a customer with a page of its orders; `None` when its CustomerCreated has not come yet.
    ///
    /// # Errors
    ///
    /// [`HandlingError`] while the server is away.
    pub async fn history(
        &self,
        generation: i64,
        customer_id: i64,
        state: Option<State>,
        page: Page,
    ) -> Result<Option<OrderHistory>, HandlingError> {
        let found = self.run(self.customers(generation).find_one(doc! { "_id": customer_id })).await?;
        let Some(document) = found else { return Ok(None) };
        let Some((name, credit_limit)) = customer(&document)? else { return Ok(None) };
        let mut orders: Vec<Order> =
            orders(&document).map(|(id, order)| self::order(id, order)).collect::<Result<_, _>>()?;
        orders.retain(|order| {
            order.order_id > page.after && state.is_none_or(|state| state.name() == order.state)
        });
        orders.sort_unstable_by_key(|order| order.order_id);
        orders.truncate(usize::try_from(page.limit).unwrap_or(usize::MAX));
        Ok(Some(OrderHistory { customer_id, name: name.to_owned(), credit_limit, orders }))
    }

    async fn apply_customer(
        &self,
        customers: &Collection<Document>,
        event: &CustomerCreated,
    ) -> Result<(), HandlingError> {
        let CustomerCreated { customer_id, name, credit_limit } = event;
        let limit = credit_limit.ten_thousandths();
        for _ in 0..ATTEMPTS_MAX {
            let unnamed = doc! { "_id": customer_id, "name": { "$exists": false } };
            let named = doc! { "$set": { "name": name, "creditLimit": limit } };
            if self.run(customers.update_one(unnamed, named)).await?.matched_count > 0 {
                return Ok(());
            }
            let Some(document) = self.run(customers.find_one(doc! { "_id": customer_id })).await? else {
                let new = doc! { "_id": customer_id, "name": name, "creditLimit": limit, "orders": {} };
                if self.inserted(customers, new).await? {
                    return Ok(());
                }
                continue;
            };
            match customer(&document)? {
                Some(known) if known == (name, *credit_limit) => return Ok(()),
                Some(_) => return Err(repeated_id::of_customer(*customer_id)),
                // An order's event has made the document meanwhile.
                None => {}
            }
        }
        Err(self.busy(*customer_id))
    }

    async fn apply_order(
        &self,
        customers: &Collection<Document>,
        event: &OrderEvent,
        state: State,
    ) -> Result<(), HandlingError> {
        let OrderEvent { order_id, order_details, rejection_reason } = event;
        let (customer_id, total) = (order_details.customer_id, order_details.order_total.ten_thousandths());
        let rank = i32::from(state.rank());
        let mut order = doc! { "state": state.name(), "rank": rank, "total": total };
        if let Some(reason) = rejection_reason.map(RejectionReason::name) {
            order.insert("rejectionReason", reason);
        }
        let path = format!("orders.{order_id}");
        for _ in 0..ATTEMPTS_MAX {
            let behind = doc! { "_id": customer_id, "$or": [
                { &path: { "$exists": false } },
                { format!("{path}.rank"): { "$lt": rank }, format!("{path}.total"): total },
            ] };
            let reached = doc! { "$set": { &path: &order } };
            if self.run(customers.update_one(behind, reached)).await?.matched_count > 0 {
                return Ok(());
            }
            let this_order = customers.find_one(doc! { "_id": customer_id }).projection(doc! { &path: 1 });
            let Some(document) = self.run(this_order).await? else {
                let new = doc! { "_id": customer_id, "orders": { order_id.to_string(): &order } };
                if self.inserted(customers, new).await? {
                    return Ok(());
                }
                continue;
            };
            let known = orders(&document).find(|(id, _)| **id == order_id.to_string());
            match known.map(|(_, known)| (known.get_i64("total"), known.get_i32("rank"))) {
                Some((Ok(other), _)) if other != total => return Err(repeated_id::of_order(*order_id)),
                Some((_, Ok(further))) if further >= rank => return Ok(()),
                // Another event has changed the document meanwhile.
                _ => {}
            }
        }
        Err(self.busy(customer_id))
    }

    /// Inserts a document; `false` when its id exists.
    async fn inserted(
        &self,
        customers: &Collection<Document>,
        document: Document,
    ) -> Result<bool, HandlingError> {
        let inserting = async {
            match customers.insert_one(document).await {
                Ok(_) => Ok(true),
                Err(error) if code(&error) == Some(DUPLICATE_KEY) => Ok(false),
                Err(error) => Err(error),
            }
        };
        self.run(inserting).await
    }

    fn customers(&self, generation: i64) -> Collection<Document> {
        self.database.collection(&format!("{PREFIX}{generation}"))
    }

    /// Runs an operation for a limited time.
    async fn run<T>(
        &self,
        operation: impl IntoFuture<Output = mongodb::error::Result<T>>,
    ) -> Result<T, HandlingError> {
        match timeout(LIMIT, operation.into_future()).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) if code(&error).is_some_and(|code| TOO_LARGE.contains(&code)) => {
                Err(HandlingError::Permanent(format!(
                    "the customer's document would be larger than the server at {} allows ({error}): a customer with that many orders \
                     needs the view in PostgreSQL",
                    self.hosts
                )))
            }
            Ok(Err(error)) => Err(self.unavailable(&error.to_string())),
            Err(_) => Err(self.unavailable(&format!("no answer within {} s", LIMIT.as_secs()))),
        }
    }

    fn unavailable(&self, why: &str) -> HandlingError {
        HandlingError::Transient(format!(
            "the view at {} (view_url) cannot be used: {why}; see that the server runs, and that the service's user may read and write \
             there",
            self.hosts
        ))
    }

    fn busy(&self, customer_id: i64) -> HandlingError {
        let why = format!("the document of customer {customer_id} changed {ATTEMPTS_MAX} times meanwhile");
        self.unavailable(&why)
    }
}

impl Store for Documents {
    async fn apply(&self, place: Place<'_>, change: &Change) -> Result<(), HandlingError> {
        let customers = self.customers(place.generation);
        match change {
            Change::Customer(event) => self.apply_customer(&customers, event).await,
            Change::Order(event, state) => self.apply_order(&customers, event, *state).await,
        }
    }

    async fn clear(&self, place: Place<'_>) -> Result<(), HandlingError> {
        self.run(self.customers(place.generation).drop()).await
    }

    async fn size(&self, place: Place<'_>) -> Result<i64, HandlingError> {
        let mut documents = self.run(self.customers(place.generation).find(doc! {})).await?;
        let mut size = 0;
        while self.run(documents.advance()).await? {
            let document =
                documents.deserialize_current().map_err(|error| self.unavailable(&error.to_string()))?;
            size += orders(&document).count() + usize::from(document.contains_key("name"));
        }
        Ok(i64::try_from(size).unwrap_or(i64::MAX))
    }

    async fn keep_only(&self, generation: i64) -> Result<(), HandlingError> {
        for name in self.run(self.database.list_collection_names()).await? {
            let of = name.strip_prefix(PREFIX).and_then(|number| number.parse::<i64>().ok());
            if of.is_some_and(|of| of != generation) {
                self.run(self.database.collection::<Document>(&name).drop()).await?;
            }
        }
        Ok(())
    }
}

/// Returns the customer's name and limit; `None` before its own event.
fn customer(document: &Document) -> Result<Option<(&str, Money)>, HandlingError> {
    let Ok(name) = document.get_str("name") else { return Ok(None) };
    Ok(Some((name, money(document, "creditLimit")?)))
}

/// Returns the orders in a customer's document, by id.
fn orders(document: &Document) -> impl Iterator<Item = (&String, &Document)> {
    let orders = document.get_document("orders").into_iter().flatten();
    orders.filter_map(|(id, order)| Some((id, order.as_document()?)))
}

fn order(id: &str, order: &Document) -> Result<Order, HandlingError> {
    let reason = order.get("rejectionReason").and_then(Bson::as_str);
    Ok(Order {
        order_id: id.parse().map_err(|_| foreign(id))?,
        state: order.get_str("state").map_err(|_| foreign("state"))?.to_owned(),
        order_total: money(order, "total")?,
        rejection_reason: reason.map(str::to_owned),
    })
}

fn money(document: &Document, field: &str) -> Result<Money, HandlingError> {
    let amount = document.get_i64(field).ok().and_then(|amount| Money::of_ten_thousandths(amount).ok());
    amount.ok_or_else(|| foreign(field))
}

fn foreign(field: &str) -> HandlingError {
    HandlingError::Permanent(format!(
        "a document of the view has no valid {field}: order-history did not write it; order-history rebuild replaces the view"
    ))
}

fn code(error: &Error) -> Option<i32> {
    match &*error.kind {
        ErrorKind::Write(WriteFailure::WriteError(error)) => Some(error.code),
        ErrorKind::Command(error) => Some(error.code),
        _ => None,
    }
}
