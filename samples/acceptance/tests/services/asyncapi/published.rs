//! The published documents, `samples/contract/published/SERVICE.json`: what a service's messages were when others were built for them.
//!
//! `make contract` renews them. It refuses a change that breaks another service, unless BREAKING=yes.

use std::{env, fs, path::PathBuf};

use serde_json::{Value, json};

use super::{
    SERVICES,
    breaks::{Rule, breaks},
    document, operations, programs,
    schema::problems,
};

fn path(service: &str) -> PathBuf {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../contract/published");
    PathBuf::from(folder).join(format!("{service}.json"))
}

fn published(service: &str) -> Value {
    let path = path(service);
    let text = fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; `make contract` writes it", path.display()));
    serde_json::from_str(&text).unwrap()
}

/// The version of the release is no part of the contract.
fn without_version(mut document: Value) -> Value {
    document["info"]["version"] = Value::Null;
    document
}

#[tokio::test]
async fn every_document_is_the_published_one_and_no_change_breaks_another_service() {
    let renew = env::var("OUTBOXD_CONTRACT").is_ok_and(|wish| wish == "write");
    let breaking = env::var("BREAKING").is_ok_and(|wish| wish == "yes");
    for service in programs() {
        let now = document(service).await;
        let before = if renew && !path(service).exists() { now.clone() } else { published(service) };
        let breaks: Vec<String> = breaks(&before, &now).iter().map(ToString::to_string).collect();
        assert!(
            breaks.is_empty() || renew && breaking,
            "{service}: services that were built for samples/contract/published break:\n{}\nKeep the old message beside a new one, or, \
             when no such service is left: make contract BREAKING=yes",
            breaks.join("\n")
        );
        if renew {
            fs::write(path(service), format!("{:#}\n", now)).unwrap();
        }
        assert_eq!(
            without_version(now),
            without_version(published(service)),
            "{service}: its messages changed, and no other service breaks. Publish the change: make contract"
        );
    }
}

#[test]
fn every_message_is_described_alike_by_those_who_send_and_receive_it_with_examples_that_fit() {
    let documents: Vec<Value> = programs().map(published).collect();
    let messages = |document: &Value| -> Vec<(String, Value)> {
        let of = |(channel, object): (&String, &Value)| -> Vec<(String, Value)> {
            let messages = object["messages"].as_object().unwrap().iter();
            messages.map(|(name, message)| (format!("{channel} {name}"), message.clone())).collect()
        };
        document["channels"].as_object().unwrap().iter().flat_map(of).collect()
    };
    for document in &documents {
        for (name, message) in messages(document) {
            for other in &documents {
                let same = messages(other).into_iter().find(|(known, _)| *known == name);
                assert!(same.is_none_or(|(_, same)| same == message), "{name}: {message}");
            }
            let example = &message["examples"][0];
            for part in ["headers", "payload"] {
                let problems = problems(document, &message[part], &example[part]);
                assert!(problems.is_empty(), "{name}: {problems:?}");
            }
        }
    }
    // Every event that is received is sent, and both sides of a command know the same replies.
    for receiver in documents.iter().flat_map(operations).filter(|operation| !operation.sends()) {
        let is_same = |sender: &super::Operation<'_>| {
            let replies = |of: &super::Operation<'_>| -> Vec<Value> {
                of.replies.iter().map(|reply| reply["name"].clone()).collect()
            };
            match sender.sends() {
                true => sender.message == receiver.message && replies(sender) == replies(&receiver),
                false => sender.replies.contains(&receiver.message),
            }
        };
        assert!(documents.iter().flat_map(operations).any(|sender| is_same(&sender)), "{}", receiver.id);
    }
}

/// Change of a document, by the pointer of a value and what is done to it.
fn changed(document: &Value, pointer: &str, change: impl FnOnce(&mut Value)) -> Value {
    let mut document = document.clone();
    change(document.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer} is not there")));
    document
}

fn remove(name: &'static str) -> impl FnOnce(&mut Value) {
    move |value| {
        let removed = match value {
            Value::Object(members) => members.remove(name).is_some(),
            Value::Array(elements) => {
                let before = elements.len();
                elements.retain(|element| element != name);
                elements.len() < before
            }
            _ => false,
        };
        assert!(removed, "no {name} in {value}");
    }
}

fn add(name: &'static str, member: Value) -> impl FnOnce(&mut Value) {
    move |value| match value {
        Value::Array(elements) => elements.push(member),
        _ => value[name] = member,
    }
}

const ORDER_CREATED: &str = "/channels/Order.events/messages/OrderCreated";
const ORDER_REJECTED: &str = "/channels/Order.events/messages/OrderRejected";
const RESERVE: &str = "/channels/customer-service.commands/messages/ReserveCredit";
const RESERVED: &str = "/channels/order-service.replies/messages/CreditReserved";
const TOTAL: &str = "/components/schemas/OrderTotal/properties/amount";
const LIMIT: &str = "/components/schemas/CreditLimit/properties/amount";

#[test]
fn each_rule_refuses_a_change_that_breaks_it() {
    let [orders, customers, history] = SERVICES.map(published);
    let at = |message: &str, rest: &str| format!("{message}{rest}");
    let cases: Vec<(&Value, Value, Rule)> = vec![
        (&orders, changed(&orders, "/operations", remove("sendOrderCancelled")), Rule::NotSent),
        (
            &orders,
            changed(&orders, "/channels/Order.events/bindings/amqp/exchange", add("type", json!("fanout"))),
            Rule::Moved,
        ),
        (
            &customers,
            changed(
                &customers,
                "/channels/Customer.events/bindings/amqp/exchange",
                add("name", json!("Clients")),
            ),
            Rule::Moved,
        ),
        (
            &orders,
            changed(&orders, &at(ORDER_CREATED, "/payload/properties"), remove("orderDetails")),
            Rule::FieldRemoved,
        ),
        (
            &orders,
            changed(&orders, &at(ORDER_CREATED, "/headers/properties"), remove("saga-type")),
            Rule::FieldRemoved,
        ),
        (
            &orders,
            changed(&orders, &at(ORDER_CREATED, "/payload/properties/orderId"), add("type", json!("string"))),
            Rule::FieldRetyped,
        ),
        (
            &orders,
            changed(
                &orders,
                &at(ORDER_CREATED, "/payload/properties/orderId"),
                add("type", json!(["integer", "null"])),
            ),
            Rule::FieldRetyped,
        ),
        (
            &orders,
            changed(&orders, &at(ORDER_REJECTED, "/payload/required"), remove("rejectionReason")),
            Rule::FieldNotAlways,
        ),
        (
            &customers,
            changed(&customers, &at(RESERVED, "/headers/required"), remove("in-reply-to")),
            Rule::FieldNotAlways,
        ),
        (
            &orders,
            changed(&orders, "/components/schemas/RejectionReason/enum", add("", json!("BAD_WEATHER"))),
            Rule::ValueAdded,
        ),
        (
            &customers,
            changed(&customers, &at(RESERVED, "/headers/properties/outcome"), remove("const")),
            Rule::ValueAdded,
        ),
        (&orders, changed(&orders, TOTAL, add("exclusiveMinimum", json!(-1))), Rule::RangeWidened),
        (&customers, changed(&customers, LIMIT, remove("maximum")), Rule::RangeWidened),
        (
            &customers,
            changed(
                &customers,
                "/channels/Customer.events/messages/CustomerCreated/payload/properties/name",
                add("maxLength", json!(500)),
            ),
            Rule::RangeWidened,
        ),
        (
            &customers,
            changed(
                &customers,
                "/channels/Customer.events/messages/CustomerCreated/payload/properties/name",
                remove("pattern"),
            ),
            Rule::RangeWidened,
        ),
        (
            &customers,
            changed(
                &customers,
                "/operations/receiveReserveCredit/reply/messages",
                add("", json!({ "$ref": "#/channels/order-service.replies/messages/CreditReleased" })),
            ),
            Rule::ReplyAdded,
        ),
        (&customers, changed(&customers, "/operations", remove("receiveReleaseCredit")), Rule::NotAccepted),
        (&orders, changed(&orders, "/operations", remove("receiveCreditLimitExceeded")), Rule::NotAccepted),
        (
            &customers,
            changed(&customers, &at(RESERVE, "/payload/required"), add("", json!("currency"))),
            Rule::FieldDemanded,
        ),
        (
            &history,
            changed(&history, &at(ORDER_CREATED, "/payload/required"), add("", json!("placedAt"))),
            Rule::FieldDemanded,
        ),
        (
            &customers,
            changed(&customers, &at(RESERVE, "/headers/required"), add("", json!("tenant"))),
            Rule::FieldDemanded,
        ),
        (&customers, changed(&customers, TOTAL, add("maximum", json!(100))), Rule::AcceptanceNarrowed),
        (&customers, changed(&customers, TOTAL, add("type", json!("integer"))), Rule::AcceptanceNarrowed),
        (
            &customers,
            changed(
                &customers,
                &at(RESERVE, "/headers/properties/reply-to"),
                add("enum", json!(["elsewhere"])),
            ),
            Rule::AcceptanceNarrowed,
        ),
        (
            &history,
            changed(&history, "/components/schemas/RejectionReason/enum", remove("UNKNOWN_CUSTOMER")),
            Rule::AcceptanceNarrowed,
        ),
        (
            &orders,
            changed(&orders, &at(ORDER_CREATED, "/payload"), add("not", json!({ "required": ["orderId"] }))),
            Rule::CannotTell,
        ),
    ];
    let mut shown = std::collections::BTreeSet::new();
    for (before, after, rule) in &cases {
        let found: Vec<Rule> = breaks(before, after).iter().map(|found| found.rule).collect();
        assert!(found.contains(rule), "{rule:?}: {found:?}");
        // A message stands in each document of its readers, so one change may break several of its places.
        assert!(found.iter().all(|found| found == rule), "{rule:?}: {found:?}");
        shown.insert(*rule);
    }
    assert_eq!(shown.len(), 12, "a rule without an example: {shown:?}");
}

#[test]
fn what_breaks_nobody_is_allowed() {
    let [orders, customers, history] = SERVICES.map(published);
    let at = |message: &str, rest: &str| format!("{message}{rest}");
    let optional = json!({ "type": "string" });
    let mut another = orders["operations"]["sendOrderCreated"].clone();
    another["messages"][0]["$ref"] = json!("#/channels/Order.events/messages/OrderCreated");
    for (what, before, after) in [
        (
            "an optional field of an event",
            &orders,
            changed(&orders, &at(ORDER_CREATED, "/payload/properties"), add("note", optional.clone())),
        ),
        (
            "an optional field of a command",
            &customers,
            changed(&customers, &at(RESERVE, "/payload/properties"), add("note", optional)),
        ),
        (
            "an optional field that is always there now",
            &orders,
            changed(&orders, &at(ORDER_CREATED, "/headers/required"), add("", json!("aggregate-id"))),
        ),
        ("another event", &orders, changed(&orders, "/operations", add("sendOrderShipped", another))),
        (
            "a reason that does not come any more",
            &orders,
            changed(&orders, "/components/schemas/RejectionReason/enum", remove("UNKNOWN_CUSTOMER")),
        ),
        (
            "a further reason that is understood",
            &history,
            changed(&history, "/components/schemas/RejectionReason/enum", add("", json!("BAD_WEATHER"))),
        ),
        ("larger orders accepted", &customers, changed(&customers, TOTAL, remove("maximum"))),
        (
            "an event that is not read any more",
            &history,
            changed(&history, "/operations", remove("receiveOrderCancelled")),
        ),
        (
            "a reply that does not come any more",
            &customers,
            changed(&customers, "/operations/receiveReserveCredit/reply/messages", |replies| {
                replies.as_array_mut().unwrap().pop();
            }),
        ),
        (
            "another text",
            &orders,
            changed(
                &orders,
                &at(ORDER_CREATED, "/payload/properties/orderId"),
                add("description", json!("Its id")),
            ),
        ),
    ] {
        let found: Vec<String> = breaks(before, &after).iter().map(ToString::to_string).collect();
        assert!(found.is_empty(), "{what}: {found:?}");
    }
}
