//! The projector with any interleaving, duplication and replay of a valid history gives the same view.

use chassis::{
    inbox::{Message, Outcome, apply_once},
    trace::TraceContext,
};
use order_history::{migrate, view::Postgres};
use projection::{Projector, Store};
use proptest::{prelude::*, test_runner::TestRunner};
use serde_json::json;
use tokio_postgres::Client;

use testkit::{shared_postgres, unique};

/// End of an order in the history.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Course {
    Pending,
    Approved,
    Rejected,
    Cancelled,
}

/// History and its delivery.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// Customer and course of each order. Customers beyond the second were never created.
    pub(crate) orders: Vec<(usize, Course)>,
    /// Next stream of each delivery, repeated.
    interleaving: Vec<bool>,
    /// Deliveries at which the stream goes back, and by how many.
    replays: Vec<(prop::sample::Index, usize)>,
}

fn cases() -> impl Strategy<Value = Case> {
    let course = prop_oneof![
        Just(Course::Pending),
        Just(Course::Approved),
        Just(Course::Rejected),
        Just(Course::Cancelled)
    ];
    let orders = prop::collection::vec((0..3_usize, course), 1..8);
    let interleaving = prop::collection::vec(any::<bool>(), 0..40);
    let replays = prop::collection::vec((any::<prop::sample::Index>(), 1..10_usize), 0..5);
    (orders, interleaving, replays).prop_map(|(orders, interleaving, replays)| Case {
        orders,
        interleaving,
        replays,
    })
}

impl Course {
    /// Returns the state and the reason of a rejection.
    pub(crate) fn end(self) -> (&'static str, &'static str) {
        match self {
            Self::Pending => ("PENDING", ""),
            Self::Approved => ("APPROVED", ""),
            Self::Rejected => ("REJECTED", "INSUFFICIENT_CREDIT"),
            Self::Cancelled => ("CANCELLED", ""),
        }
    }
}

impl Case {
    /// Returns the two streams, orders and customers, in their outbox order.
    fn streams(&self) -> [Vec<Message>; 2] {
        let mut orders = Vec::new();
        // Steps of different orders alternate, so every order is created before the first is settled.
        for step in 0..3 {
            for (number, (customer, course)) in self.orders.iter().enumerate() {
                let event_type = match (step, course) {
                    (0, _) => "OrderCreated",
                    (1, Course::Approved | Course::Cancelled) => "OrderApproved",
                    (1, Course::Rejected) => "OrderRejected",
                    (2, Course::Cancelled) => "OrderCancelled",
                    _ => continue,
                };
                let mut body = json!({ "orderId": number, "orderDetails": {
                    "customerId": customer, "orderTotal": { "amount": 1.5 }
                } });
                if event_type == "OrderRejected" {
                    body["rejectionReason"] = json!("INSUFFICIENT_CREDIT");
                }
                orders.push(message("orders", orders.len(), event_type, body));
            }
        }
        let customers = (0..2).map(|customer| {
            let body = json!({ "customerId": customer, "name": "Ada", "creditLimit": { "amount": 10 } });
            message("customers", customer, "CustomerCreated", body)
        });
        [orders, customers.collect()]
    }

    /// Returns the deliveries of both streams: each in order, but interleaved, repeated and set back.
    fn deliveries(&self) -> Vec<(usize, Message)> {
        let streams = self.streams();
        let mut next = [0, 0];
        let mut choices = self.interleaving.iter().map(|choice| usize::from(*choice));
        let mut deliveries = Vec::new();
        while next[0] < streams[0].len() || next[1] < streams[1].len() {
            let chosen = choices.next().unwrap_or(0);
            let stream = if next[chosen] < streams[chosen].len() { chosen } else { 1 - chosen };
            deliveries.push((stream, streams[stream][next[stream]].clone()));
            next[stream] += 1;
            for (at, back) in &self.replays {
                if at.index(streams[0].len() + streams[1].len()) == deliveries.len() {
                    // Everything from there on is delivered again, with other message ids, as by a replay.
                    let from = next[stream].saturating_sub(*back);
                    deliveries.extend(streams[stream][from..next[stream]].iter().map(|message| {
                        let id =
                            if back % 2 == 0 { message.id.clone() } else { format!("{}-again", message.id) };
                        (stream, Message { id, ..message.clone() })
                    }));
                }
            }
        }
        deliveries
    }

    /// Returns the expected view in the form of `view`.
    pub(crate) fn expected(&self) -> Vec<String> {
        let orders = self.orders.iter().enumerate().map(|(number, (customer, course))| {
            let (state, reason) = course.end();
            format!("order {number} of {customer}: 1.5000 {state} {reason}")
        });
        let customers = (0..2).map(|customer| format!("customer {customer}: Ada 10.0000"));
        customers.chain(orders).collect()
    }
}

fn message(source: &str, number: usize, event_type: &str, body: serde_json::Value) -> Message {
    Message {
        id: format!("{source}-{number}"),
        event_type: event_type.to_owned(),
        body: body.to_string().into_bytes(),
        headers: Default::default(),
        source: Some(source.to_owned()),
        position: Some(format!("{number:016X}-00000000")),
        committed_at: Some(0),
        replayed: false,
        trace: TraceContext::begin(),
    }
}

async fn view(client: &Client) -> Vec<String> {
    let select = "SELECT format('order %s of %s: %s %s %s', id, customer_id, total, state, rejection_reason) FROM orders \
                  UNION ALL SELECT format('customer %s: %s %s', id, name, credit_limit) FROM customers";
    let mut view: Vec<String> =
        client.query(select, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    view.sort_unstable();
    view
}

#[test]
fn any_interleaving_duplication_and_replay_gives_the_same_view() {
    let always = async |client: &Client| view(client).await;
    is_same_for_any_delivery(150, async || Postgres, Case::expected, always);
}

/// Delivers random histories in random ways to a projector with the store that `new` makes for each, and compares the view
/// that `read` returns with `expected`.
pub(crate) fn is_same_for_any_delivery<S: Store>(
    cases: u32,
    new: impl AsyncFn() -> S,
    expected: impl Fn(&Case) -> Vec<String>,
    read: impl AsyncFn(&Client) -> Vec<String>,
) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let mut client = runtime.block_on(async {
        let postgres = shared_postgres().await;
        let name = unique("projector");
        postgres.create_database(&name).await;
        let mut client = postgres.client(&name).await;
        migrate(&mut client).await.unwrap();
        client
    });
    let seed: u64 =
        std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("seed {seed}; SEED={seed} repeats it");
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let rng = proptest::test_runner::TestRng::from_seed(proptest::test_runner::RngAlgorithm::ChaCha, &bytes);
    let client = std::cell::RefCell::new(&mut client);
    let outcome = TestRunner::new_with_rng(config, rng).run(&self::cases(), |case| {
        let mut client = client.borrow_mut();
        let (shown, handled) = runtime.block_on(async {
            client.batch_execute("TRUNCATE orders, customers, events, streams, inbox").await.unwrap();
            let store = new().await;
            let mut handled = 0;
            for (stream, message) in case.deliveries() {
                let projector = Projector { stream: ["Order", "Customer"][stream], store: store.clone() };
                let outcome = apply_once(&mut client, projector.stream, &message, &projector).await.unwrap();
                handled += usize::from(outcome == Outcome::Handled);
            }
            (read(&client).await, handled)
        });
        prop_assert!(handled >= case.orders.len());
        prop_assert_eq!(shown, expected(&case));
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("seed {seed}: {error}");
    }
}
