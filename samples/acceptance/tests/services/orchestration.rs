//! Orchestrated sagas from outside: their endpoints, wrong commands and replies, and `kill -9` at each step.

use lapin::{BasicProperties, types::FieldTable};
use serde_json::{Value, json};
use tokio_postgres::{Client, NoTls};

use crate::{
    broker::{header, publish_as, take, text_header},
    eventually,
    faults::balanced,
    history_shows, settled, shop, shop_of,
};
use testkit::{Shop, unique};

const STYLE: &str = "orchestration";
const COMMANDS: &str = "customer-service.commands";
const REPLIES: &str = "order-service.replies";

async fn client(database: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(database, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn saga_of(shop: &Shop, order: i64) -> Value {
    let (status, saga) = shop.orders.get(&format!("/orders/{order}/saga")).await;
    assert_eq!(status, 200, "{saga}");
    saga
}

/// Waits until the order's saga is in this state; gives it.
async fn saga_is(shop: &Shop, order: i64, state: &str) -> Value {
    eventually(&format!("the saga is {state}"), async || {
        Some(saga_of(shop, order).await).filter(|saga| saga["state"] == state)
    })
    .await
}

/// Of each step: its number, whether it is a compensation, local work, command, reply, outcome.
fn steps(saga: &Value) -> Vec<Value> {
    let steps = saga["steps"].as_array().unwrap();
    let names = ["step", "compensation", "local", "command", "reply", "outcome"];
    steps.iter().map(|step| names.iter().map(|&name| step[name].clone()).collect()).collect()
}

#[tokio::test]
async fn a_saga_tells_its_steps_with_commands_replies_and_times() {
    let shop = shop_of(STYLE, "saga_view").await;
    let customer = shop.customer("10").await;
    let order = shop.order(customer, "10").await;
    assert_eq!(settled(&shop, order).await.0, "APPROVED");
    let saga = saga_of(&shop, order).await;
    assert_eq!(
        (&saga["type"], &saga["state"], &saga["compensating"]),
        (&json!("CreateOrder"), &json!("COMPLETED"), &json!(false))
    );
    let reserved = json!([2, false, null, "ReserveCredit", "CreditReserved", "SUCCESS"]);
    assert_eq!(steps(&saga), [reserved, json!([3, false, "approve", null, null, "SUCCESS"])]);
    let times = saga["steps"][0].as_object().unwrap();
    let (began, ended) = (times["beganAt"].as_str().unwrap(), times["endedAt"].as_str().unwrap());
    assert!(began < ended && ended.ends_with('Z') && began.len() == 27, "{saga}");
    let by_id = shop.orders.get(&format!("/sagas/{}", saga["sagaId"])).await;
    assert_eq!(by_id, (200, saga));

    let rejected = shop.order(customer, "1").await;
    assert_eq!(settled(&shop, rejected).await.0, "REJECTED");
    let saga = saga_of(&shop, rejected).await;
    assert_eq!((&saga["state"], &saga["compensating"]), (&json!("COMPENSATED"), &json!(true)));
    let exceeded = json!([2, false, null, "ReserveCredit", "CreditLimitExceeded", "FAILURE"]);
    assert_eq!(steps(&saga), [exceeded, json!([1, true, "reject", null, null, "SUCCESS"])]);

    let cancelled = shop.orders.post(&format!("/orders/{order}/cancel"), &Value::Null).await;
    assert_eq!((cancelled.0, &cancelled.1["orderState"]), (200, &json!("CANCELLED")));
    let saga = saga_is(&shop, order, "COMPLETED").await;
    assert_eq!(saga["type"], "CancelOrder");
    assert_eq!(steps(&saga), [json!([1, false, null, "ReleaseCredit", "CreditReleased", "SUCCESS"])]);
    let all = shop.order(customer, "10").await;
    assert_eq!(settled(&shop, all).await.0, "APPROVED", "the credit was released when the saga completed");

    for path in [format!("/orders/{}/saga", i64::MAX), format!("/sagas/{}", i64::MAX)] {
        assert_eq!(shop.orders.get(&path).await.0, 404, "{path}");
    }
}

fn reply(reply_type: &str, saga: i64, in_reply_to: &str, outcome: &str) -> BasicProperties {
    let mut headers = FieldTable::default();
    for (name, value) in [
        ("reply-type", reply_type),
        ("saga-id", saga.to_string().as_str()),
        ("in-reply-to", in_reply_to),
        ("outcome", outcome),
    ] {
        headers.insert(name.into(), text_header(name, value).inner()[name].clone());
    }
    BasicProperties::default()
        .with_message_id(unique("reply").as_str().into())
        .with_type(reply_type.into())
        .with_headers(headers)
}

/// Waits for the next dead letter of a queue; gives its reason.
async fn reason(shop: &Shop, queue: &str) -> String {
    let dead = format!("{queue}.dead");
    let buried = eventually(&dead, async || take(&shop.amqp_url, &dead).await).await;
    header(&buried, "dead-letter-reason").unwrap_or_default()
}

#[tokio::test]
async fn late_and_repeated_replies_change_nothing_and_foreign_ones_are_put_aside() {
    let mut shop = shop_of(STYLE, "replies").await;
    let orders = client(&shop.databases[0]).await;
    let command_of = async |saga: i64| -> String {
        let select = "SELECT message_id FROM saga_step WHERE saga_id = $1 AND message_id IS NOT NULL";
        orders.query_one(select, &[&saga]).await.unwrap().get(0)
    };
    let customer = shop.customer("10").await;
    let order = shop.order(customer, "6").await;
    assert_eq!(settled(&shop, order).await.0, "APPROVED");
    let before = saga_of(&shop, order).await;
    let saga = before["sagaId"].as_i64().unwrap();
    let command = command_of(saga).await;
    for (reply_type, outcome) in [("CreditReserved", "SUCCESS"), ("CreditLimitExceeded", "FAILURE")] {
        publish_as(&shop.amqp_url, REPLIES, reply(reply_type, saga, &command, outcome), b"{}").await;
    }

    // A saga that waits: nobody answers.
    assert!(shop.customers.sigterm(crate::PATIENCE).await.success());
    let waiting = shop.order(customer, "4").await;
    let waiting_saga = saga_of(&shop, waiting).await["sagaId"].as_i64().unwrap();
    let awaited = command_of(waiting_saga).await;
    for (properties, why) in [
        (reply("CreditReserved", i64::MAX, &command, "SUCCESS"), "there is no saga"),
        (reply("CreditReserved", waiting_saga, "nobody's", "SUCCESS"), "has sent no command nobody's"),
        (reply("CreditReserved", waiting_saga, &command, "SUCCESS"), "has sent no command"),
        (reply("CreditReleased", waiting_saga, &awaited, "SUCCESS"), "is no reply to what saga"),
        (reply("CreditReserved", waiting_saga, &awaited, "FAILURE"), "means SUCCESS"),
        (reply("CreditReserved", waiting_saga, &awaited, &"x".repeat(300)), "outcome is missing"),
        (reply("CreditReserved", 0, "", "SUCCESS").with_headers(FieldTable::default()), "saga-id is missing"),
        (
            reply("CreditReserved", 0, "", "SUCCESS").with_headers(text_header("saga-id", "seven")),
            "cannot be 'seven'",
        ),
    ] {
        publish_as(&shop.amqp_url, REPLIES, properties, b"{}").await;
        let said = reason(&shop, REPLIES).await;
        assert!(said.contains(why), "{why}: {said}");
    }
    assert_eq!(shop.state_of(waiting).await.0, "PENDING");
    assert_eq!(saga_of(&shop, order).await, before, "the late replies changed nothing");
    shop.customers.start_again();
    assert_eq!(settled(&shop, waiting).await.0, "APPROVED");
    history_shows(&shop, customer, &[(order, "APPROVED"), (waiting, "APPROVED")]).await;
    balanced(&shop).await;
}

#[tokio::test]
async fn a_command_that_is_not_as_it_should_be_is_put_aside_and_answers_nobody() {
    let shop = shop_of(STYLE, "commands").await;
    let customer = shop.customer("10").await;
    let command = |command_type: &str, overrides: &[(&str, &str)]| {
        let mut headers = FieldTable::default();
        let defaults = [
            ("command-type", command_type),
            ("saga-type", "CreateOrder"),
            ("saga-id", "7"),
            ("reply-to", REPLIES),
        ];
        for (name, value) in defaults.iter().chain(overrides) {
            headers.insert((*name).into(), text_header(name, value).inner()[*name].clone());
        }
        BasicProperties::default()
            .with_message_id(unique("command").as_str().into())
            .with_type(command_type.into())
            .with_headers(headers)
    };
    let body = json!({ "customerId": customer, "orderId": 77, "orderTotal": { "amount": 1 } }).to_string();
    let negative = body.replace("\"amount\":1", "\"amount\":-1");
    let elsewhere = "this service does not reply to the channel";
    for (properties, body, why) in [
        (command("ReserveCredit", &[("reply-to", "amq.direct")]), body.as_str(), elsewhere),
        (command("ReserveCredit", &[("reply-to", "Order.events")]), &body, elsewhere),
        (command("ReserveCredit", &[("saga-id", "")]), &body, "the header saga-id cannot be ''"),
        (
            command("ReserveCredit", &[("command-type", "ReleaseCredit")]),
            &body,
            "command-type is not the type",
        ),
        (command("ReserveCredit", &[("saga-type", "a\0b")]), &body, "invalid byte sequence"),
        (command("ReserveCredit", &[]).with_headers(FieldTable::default()), &body, "command-type is missing"),
        (command("ReserveCredit", &[]), &negative, "amount must be more than zero"),
        (command("ReserveCredit", &[]), "[]", "an array, not an object"),
        (command("EatCredit", &[]), &body, "unknown event type 'EatCredit'"),
    ] {
        publish_as(&shop.amqp_url, COMMANDS, properties, body.as_bytes()).await;
        let said = reason(&shop, COMMANDS).await;
        assert!(said.contains(why), "{why}: {said}");
    }
    // A command of nobody's saga is carried out, and its reply put aside.
    publish_as(&shop.amqp_url, COMMANDS, command("ReserveCredit", &[]), body.as_bytes()).await;
    assert!(reason(&shop, REPLIES).await.contains("there is no saga 7"));
    publish_as(&shop.amqp_url, COMMANDS, command("ReleaseCredit", &[]), body.as_bytes()).await;
    assert!(reason(&shop, REPLIES).await.contains("there is no saga 7"));
    let order = shop.order(customer, "10").await;
    assert_eq!(settled(&shop, order).await.0, "APPROVED");
}

#[tokio::test]
async fn a_saga_without_a_reply_is_counted_and_never_dropped() {
    let mut shop = shop_of(STYLE, "silence").await;
    let customer = shop.customer("10").await;
    assert!(shop.orders.sigterm(crate::PATIENCE).await.success());
    shop.orders.set("SAGA_SILENCE_S", "1");
    shop.orders.start_again();
    shop.orders.wait_ready(crate::PATIENCE).await;
    assert!(shop.customers.sigterm(crate::PATIENCE).await.success());
    let order = shop.order(customer, "10").await;
    let (silent, running) = ("saga_silent{type=\"CreateOrder\"}", "saga_running{type=\"CreateOrder\"}");
    let counts = async |shop: &Shop, expected: (f64, f64)| {
        eventually("the metrics show it", async || {
            let counted = (shop.orders.metric(silent).await, shop.orders.metric(running).await);
            (counted == (Some(expected.0), Some(expected.1))).then_some(())
        })
        .await;
    };
    counts(&shop, (1.0, 1.0)).await;
    let saga = saga_of(&shop, order).await;
    assert_eq!((&saga["state"], &saga["steps"][0]["reply"]), (&json!("RUNNING"), &Value::Null));
    assert!(shop.orders.log().contains("sagas have had no reply for 1 s"), "{}", shop.orders.log());
    shop.customers.start_again();
    assert_eq!(settled(&shop, order).await.0, "APPROVED");
    counts(&shop, (0.0, 0.0)).await;
}

#[tokio::test]
async fn an_order_that_somebody_else_settles_meanwhile_gives_its_credit_back() {
    let mut shop = shop_of(STYLE, "settled_by_others").await;
    let customer = shop.customer("10").await;
    assert!(shop.customers.sigterm(crate::PATIENCE).await.success());
    let order = shop.order(customer, "10").await;
    let failed = BasicProperties::default()
        .with_message_id(unique("event").as_str().into())
        .with_type("CustomerCreditReservationFailed".into());
    let body = json!({ "customerId": customer, "orderId": order }).to_string();
    publish_as(&shop.amqp_url, "order-service.customers", failed, body.as_bytes()).await;
    assert_eq!(settled(&shop, order).await.0, "REJECTED");
    shop.customers.start_again();
    let saga = saga_is(&shop, order, "COMPENSATED").await;
    let expected = [
        json!([2, false, null, "ReserveCredit", "CreditReserved", "SUCCESS"]),
        json!([3, false, "approve", null, null, "FAILURE"]),
        json!([2, true, null, "ReleaseCredit", "CreditReleased", "SUCCESS"]),
        json!([1, true, "reject", null, null, "SUCCESS"]),
    ];
    assert_eq!(steps(&saga), expected);
    balanced(&shop).await;
}

/// A locked row holds up a step, so that each process can be killed in it.
#[tokio::test]
async fn whoever_is_killed_at_whichever_step_the_saga_ends_and_the_books_balance() {
    let mut shop = shop_of(STYLE, "each_step").await;
    let customer = shop.customer("1000").await;
    let blocked =
        "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    // Whose database, and the row that the step needs: reserving, the reply's saga, approving, and of a cancelled order releasing.
    for (database, row, cancels) in [
        (1, "customers", false),
        (0, "saga", false),
        (0, "orders", false),
        (1, "customers", true),
        (0, "saga", true),
    ] {
        for victim in ["order-service", "customer-service", "outboxd"] {
            let mut held = client(&shop.databases[database]).await;
            let hold = held.transaction().await.unwrap();
            let order = if cancels {
                let order = shop.order(customer, "1").await;
                assert_eq!(settled(&shop, order).await.0, "APPROVED");
                order
            } else {
                // The customer's row is there before, and those of the order are held as soon as they are.
                if row == "customers" {
                    hold.execute("SELECT FROM customers FOR UPDATE", &[]).await.unwrap();
                } else {
                    shop.customers.kill9().await;
                }
                shop.order(customer, "1").await
            };
            if cancels && row == "customers" {
                hold.execute("SELECT FROM customers FOR UPDATE", &[]).await.unwrap();
            } else if cancels {
                shop.customers.kill9().await;
            }
            if cancels {
                let path = format!("/orders/{order}/cancel");
                assert_eq!(shop.orders.post(&path, &Value::Null).await.0, 200);
            }
            if row != "customers" {
                hold.execute(&format!("SELECT FROM {row} FOR UPDATE"), &[]).await.unwrap();
                shop.customers.start_again();
                shop.customers.wait_ready(crate::PATIENCE).await;
            }
            let look = client(&shop.databases[database]).await;
            eventually("the step has begun", async || look.query_opt(blocked, &[]).await.unwrap()).await;
            match victim {
                "order-service" => shop.orders.kill9().await,
                "customer-service" => shop.customers.kill9().await,
                _ => shop.relay.kill9().await,
            }
            hold.rollback().await.unwrap();
            match victim {
                "order-service" => shop.orders.start_again(),
                "customer-service" => shop.customers.start_again(),
                _ => shop.relay.start_again(),
            }
            shop.orders.wait_ready(crate::PATIENCE).await;
            saga_is(&shop, order, "COMPLETED").await;
            let expected = if cancels { "CANCELLED" } else { "APPROVED" };
            assert_eq!(shop.state_of(order).await.0, expected, "{row} {victim}");
        }
    }
    shop.customers.wait_ready(crate::PATIENCE).await;
    balanced(&shop).await;
}

#[tokio::test]
async fn orders_of_both_styles_end_in_whichever_style_they_began() {
    let mut shop = shop("styles").await;
    let customer = shop.customer("10").await;
    let mut orders = Vec::new();
    for style in [STYLE, "choreography", STYLE] {
        assert!(shop.customers.sigterm(crate::PATIENCE).await.success());
        orders.push(shop.order(customer, "2").await);
        assert!(shop.orders.sigterm(crate::PATIENCE).await.success());
        shop.orders.set("SAGA", style);
        shop.orders.start_again();
        shop.orders.wait_ready(crate::PATIENCE).await;
        orders.push(shop.order(customer, "1").await);
        shop.customers.start_again();
        shop.customers.wait_ready(crate::PATIENCE).await;
        for order in &orders {
            assert_eq!(settled(&shop, *order).await.0, "APPROVED");
        }
    }
    let (status, answer) = shop.orders.get(&format!("/orders/{}/saga", orders[0])).await;
    assert_eq!(status, 404, "{answer}");
    assert!(answer["error"].as_str().unwrap().contains("by choreography"), "{answer}");
    for order in &orders[..2] {
        assert_eq!(shop.orders.post(&format!("/orders/{order}/cancel"), &Value::Null).await.0, 200);
    }
    balanced(&shop).await;
}
