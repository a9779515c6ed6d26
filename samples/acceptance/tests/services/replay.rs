//! Copies are distinguished by source, and replays by position.

use chassis::{
    inbox::{Handler, HandlingError, Message, Outcome, apply_once},
    schema::Schema,
    trace::TraceContext,
};
use serde_json::json;
use tokio_postgres::{NoTls, Transaction};

use crate::{eventually, history_shows, settled, shop};
use testkit::{shared_postgres, unique};

/// Handler whose effect adds up, so that it must handle each message once.
struct Adds;
/// Handler whose effect sets a state, so that it may repeat.
struct Sets;

async fn count(transaction: &mut Transaction<'_>) -> Result<(), HandlingError> {
    transaction.execute("UPDATE handled SET times = times + 1", &[]).await?;
    Ok(())
}

impl Handler for Adds {
    async fn handle(&self, transaction: &mut Transaction<'_>, _: &Message) -> Result<(), HandlingError> {
        count(transaction).await
    }
}

impl Handler for Sets {
    const TAKES_REPLAYS: bool = true;

    async fn handle(&self, transaction: &mut Transaction<'_>, _: &Message) -> Result<(), HandlingError> {
        count(transaction).await
    }
}

fn message(source: Option<&str>, position: &str, replayed: bool) -> Message {
    Message {
        id: "6837".to_owned(),
        event_type: "OrderCreated".to_owned(),
        body: Vec::new(),
        headers: Default::default(),
        source: source.map(str::to_owned),
        position: Some(position.to_owned()),
        committed_at: None,
        replayed,
        trace: TraceContext::begin(),
    }
}

#[tokio::test]
async fn equal_ids_of_two_sources_are_two_messages_and_each_replay_is_taken_once_by_who_takes_replays() {
    let postgres = shared_postgres().await;
    let name = unique("inbox_key");
    postgres.create_database(&name).await;
    let mut client = postgres.client(&name).await;
    let schema = Schema { migrations: &["CREATE TABLE handled AS SELECT 0 AS times"], derived: &[] };
    schema.migrate(&mut client).await.unwrap();
    let [first, second, third] =
        ["0000000000000001-00000000", "0000000000000002-00000000", "0000000000000003-00000000"];
    // Message, and whether a handler that adds and one that sets handle it.
    let deliveries = [
        (message(Some("orders"), first, false), true, true),
        (message(Some("orders"), first, false), false, false),
        (message(Some("customers"), first, false), true, true),
        (message(None, first, false), true, true),
        (message(None, second, false), false, false),
        (message(Some("orders"), second, true), false, true),
        (message(Some("orders"), second, true), false, false),
        (message(Some("orders"), third, true), false, true),
        (message(Some("orders"), first, false), false, false),
        (message(Some("invoices"), third, true), true, true),
    ];
    for (number, (message, new_to_adds, new_to_sets)) in deliveries.iter().enumerate() {
        let adds = apply_once(&mut client, "adds", message, &Adds).await.unwrap();
        let sets = apply_once(&mut client, "sets", message, &Sets).await.unwrap();
        assert_eq!(adds == Outcome::Handled, *new_to_adds, "adds, {number}");
        assert_eq!(sets == Outcome::Handled, *new_to_sets, "sets, {number}");
    }
    let times: i32 = client.query_one("SELECT times FROM handled", &[]).await.unwrap().get(0);
    assert_eq!(times, 4 + 6);
}

#[tokio::test]
async fn a_replay_brings_back_an_effect_that_was_lost_although_its_message_was_handled() {
    let shop = shop("replayed").await;
    let customer = shop.customer("10").await;
    let order = shop.order(customer, "6").await;
    history_shows(&shop, customer, &[(order, "APPROVED")]).await;
    let (client, connection) = tokio_postgres::connect(&shop.databases[1], NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute("DELETE FROM credit; UPDATE customers SET reserved = 0").await.unwrap();
    for _ in 0..2 {
        let output = shop.relay.command(&["replay", "--source", "orders"]).await;
        assert!(output.status.success(), "{output:?}");
    }
    eventually("its credit is reserved again, once", async || {
        let reserved =
            client.query_one("SELECT trim_scale(reserved)::text FROM customers", &[]).await.unwrap();
        (reserved.get::<_, &str>(0) == "6").then_some(())
    })
    .await;
    let more = shop.order(customer, "5").await;
    assert_eq!(settled(&shop, more).await, ("REJECTED".to_owned(), json!("INSUFFICIENT_CREDIT")));
    assert_eq!(shop.state_of(order).await.0, "APPROVED");
}
