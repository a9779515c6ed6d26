//! Exchanges and queues of all kinds: types, arguments, messages that no queue needs, AMQP properties.

use lapin::message::Delivery;

use crate::{
    inbox::{Inbox, header, text},
    stage::{PATIENCE, Stage, alive, say, source, until, until_state},
};

/// Templates by which a row names its exchange and its properties, and their table.
const ROUTED: &str = "message.exchange = \"{aggregate_type}\"\nmessage.routing_key = \"{event_type}\"\n";

async fn insert(stage: &Stage, exchange: &str, key: &str, payload: &str) {
    let values = format!("VALUES ('{exchange}', 'a', '{key}', '{payload}')");
    stage.sql(&format!("INSERT INTO outbox (aggregatetype, aggregateid, type, payload) {values}")).await;
}

#[tokio::test]
async fn exchanges_of_any_type_are_declared_as_described_and_their_queues_get_what_is_meant_for_them() {
    let mut stage = Stage::shared("exchanges").await;
    stage.source = format!(
        "{ROUTED}
        [[exchanges]]
        name = 'x.direct'
        type = 'direct'
        arguments = {{ 'alternate-exchange' = 'x.lost' }}
        [[exchanges]]
        name = 'x.lost'
        type = 'fanout'
        durable = false
        [[exchanges]]
        name = 'x.headers'
        type = 'headers'
        [[exchanges]]
        name = 'x.hash'
        type = 'x-consistent-hash'
        [[subscriptions]]
        queue = 'q.direct'
        exchange = 'x.direct'
        binding_keys = ['A', 'B']
        arguments = {{ 'x-message-ttl' = 3600000, 'x-delivery-limit' = 7, 'x-dead-letter-exchange' = 'x.lost' }}
        [[subscriptions]]
        queue = 'q.lost'
        exchange = 'x.lost'
        queue_type = 'classic'
        arguments = {{ 'x-max-priority' = 5 }}
        [[subscriptions]]
        queue = 'q.headers'
        exchange = 'x.headers'
        [[subscriptions]]
        queue = 'q.hash'
        exchange = 'x.hash'
        binding_keys = ['1']
        "
    );
    let mut daemon = stage.relay_as_printed_role().await;
    for (exchange, key) in [
        ("x.direct", "A"),
        ("x.direct", "elsewhere"),
        ("x.headers", "any"),
        ("x.hash", "any"),
        ("plain", "E"),
    ] {
        if exchange == "plain" {
            // Not in [[exchanges]]: a durable topic.
            Inbox::bind(&stage.amqp_url, "q.plain", &["plain"]).await;
        }
        insert(&stage, exchange, key, "{}").await;
    }
    let shown = until(&daemon, "orders", |shown| shown["confirmed"] == 5).await;
    assert_eq!((&shown["returned"], &shown["published"]), (&0.into(), &5.into()), "the alternate took one");
    for queue in ["q.direct", "q.lost", "q.headers", "q.hash"] {
        assert_eq!(stage.messages_in(queue).await, 1, "{queue}");
    }
    let checked = say(&daemon, &["check"]).await;
    assert_eq!(checked.status, 0);
    assert!(checked.stdout.contains("exchange 'x.lost' (fanout)"), "{}", checked.stdout);
    assert!(daemon.sigterm(PATIENCE).await.success());

    // Another value of one argument: `check` names the argument with both values.
    stage.source = stage.source.replace("'x-delivery-limit' = 7", "'x-delivery-limit' = 8");
    let daemon = alive(&stage.config()).await;
    let checked = say(&daemon, &["check"]).await;
    assert_eq!(checked.status, 1);
    for named in ["queue 'q.direct'", "x-delivery-limit", "'8'", "'7'"] {
        assert!(checked.stdout.contains(named), "{named}: {}", checked.stdout);
    }
    let reason = until_state(&daemon, "orders", "halted").await;
    assert!(reason.contains("x-delivery-limit"), "{reason}");
}

/// Like a delayed exchange, whose plugin returns messages that it delivers later.
#[tokio::test]
async fn a_message_to_an_exchange_without_mandatory_is_sent_once_whoever_wants_it() {
    let mut stage = Stage::shared("optional").await;
    stage.source = format!(
        "{ROUTED}delivery.backoff_min_ms = 10\n[[exchanges]]\nname = 'optional'\ntype = 'direct'\nmandatory = false\n"
    );
    let daemon = stage.relay_as_printed_role().await;
    for _ in 0..20 {
        insert(&stage, "optional", "nobody", "{}").await;
    }
    let shown = until(&daemon, "orders", |shown| shown["confirmed"] == 20).await;
    assert_eq!((&shown["published"], &shown["returned"]), (&20.into(), &0.into()));
    assert_eq!(source(&daemon, "orders").await["state"], "streaming");
    let checked = say(&daemon, &["check"]).await;
    assert!(
        checked.stdout.contains("messages to exchange 'optional'")
            && checked.stdout.contains("a message that no queue is bound for is lost"),
        "{}",
        checked.stdout
    );
    // Other exchanges still use `mandatory`.
    insert(&stage, "careful", "nobody", "{}").await;
    let reason = until_state(&daemon, "orders", "halted").await;
    assert!(reason.contains("'careful'"), "{reason}");
}

fn assert_properties(delivery: &Delivery) {
    let properties = &delivery.properties;
    let text_of = |text: &Option<lapin::types::ShortString>| text.as_ref().map(|text| text.to_string());
    assert_eq!(*properties.priority(), Some(3));
    assert_eq!(text_of(properties.expiration()).as_deref(), Some("86400000"));
    assert_eq!(text_of(properties.correlation_id()).as_deref(), Some("of-header"));
    assert_eq!(text_of(properties.reply_to()).as_deref(), Some("answers"));
    assert_eq!(text_of(properties.content_encoding()), None, "NULL leaves it out");
    assert_eq!(text_of(properties.kind()).as_deref(), Some("Order.E"));
    assert_eq!(text_of(properties.app_id()).as_deref(), Some("order-service"));
    assert_eq!(text_of(properties.message_id()).as_deref(), Some("orders-7"));
    assert_eq!((*properties.delivery_mode(), properties.user_id()), (Some(2), &None));
    assert_eq!(header(delivery, "correlation_id"), None, "it is no header");
    assert!(header(delivery, "h").is_some());
}

#[tokio::test]
async fn properties_of_the_row_are_the_same_from_stream_replay_and_requeue() {
    let mut stage = Stage::shared("properties").await;
    stage.sql("ALTER TABLE outbox ADD number bigint, ADD priority int, ADD lifetime_ms bigint, ADD encoding text").await;
    stage.source = "message.id = '{source}-{column:number}'\n\
        message.priority = '{column:priority}'\n\
        message.expiration_ms = '{column:lifetime_ms}'\n\
        message.content_encoding = '{column:encoding}'\n\
        message.reply_to = 'answers'\n\
        message.type = '{aggregate_type}.{event_type}'\n\
        message.app_id = 'order-service'\n\
        message.properties_from_headers = true\n\
        delivery.on_invalid = 'park'\n\
        delivery.on_unroutable = 'park'\n"
        .to_owned();
    let daemon = stage.relay_as_printed_role().await;
    let row = "INSERT INTO outbox (aggregatetype, aggregateid, type, payload, headers, number, priority, lifetime_ms) \
               VALUES ('Order', '1', 'E', '{}', '{\"correlation_id\": \"of-header\", \"h\": 1}', 7, 3, 86400000)";
    // No queue is bound: the row is parked, and `requeue` delivers it.
    stage.sql(row).await;
    until(&daemon, "orders", |shown| shown["parked"] == 1).await;
    let mut inbox = stage.inbox(&["Order.events"]).await;
    assert_eq!(say(&daemon, &["parked", "requeue", "--source", "orders", "--all"]).await.status, 0);
    assert_properties(&inbox.next().await);
    stage.sql(&format!("DELETE FROM outbox; {row}")).await;
    assert_properties(&inbox.next().await);
    assert_eq!(say(&daemon, &["replay", "--source", "orders"]).await.status, 0);
    assert_properties(&inbox.next().await);

    // An invalid priority: the row is invalid, and its reason names the property.
    stage.sql(&row.replace("7, 3, 86400000", "8, 256, 5")).await;
    until(&daemon, "orders", |shown| shown["parked"] == 2).await;
    let listed = say(&daemon, &["parked", "list", "--source", "orders"]).await;
    assert!(
        listed.stdout.contains("the property priority must be a whole number from 0 to 255"),
        "{}",
        listed.stdout
    );
    stage.sql(&row.replace("7, 3, 86400000", "9, NULL, NULL")).await;
    let last = inbox.next().await;
    assert_eq!((text(&last).as_str(), last.properties.priority()), ("{}", &None));
}

#[tokio::test]
async fn sources_whose_ids_are_numbers_are_warned_of() {
    let mut stage = Stage::shared("numbers").await;
    stage
        .sql("CREATE TABLE numbered (LIKE outbox INCLUDING ALL); ALTER TABLE numbered DROP id, ADD id bigint")
        .await;
    stage.sql("CREATE TABLE also_numbered (LIKE numbered)").await;
    let other = |name: &str| {
        format!(
            "[sources.{name}]\npostgres.url = \"{}\"\npostgres.slot = \"{}_{name}\"\noutbox.table = \"{name}\"\n",
            stage.postgres_url,
            stage.slot()
        )
    };
    let (one, two) = (other("numbered"), other("also_numbered"));
    let warned = |text: &str| text.lines().filter(|line| line.contains("warning  message ids")).count();
    stage.source = one.clone();
    let daemon = alive(&stage.config()).await;
    let checked = say(&daemon, &["check"]).await;
    assert_eq!(warned(&checked.stdout), 0, "the other source has no numbers: {}", checked.stdout);
    drop(daemon);
    stage.source = one.clone() + &two;
    let daemon = alive(&stage.config()).await;
    let checked = say(&daemon, &["check"]).await;
    assert_eq!(warned(&checked.stdout), 2, "{}", checked.stdout);
    assert!(
        checked.stdout.contains("like those of numbered: both sources send the same ids"),
        "{}",
        checked.stdout
    );
    drop(daemon);
    stage.source = format!("{one}{two}message.id = \"{{source}}-{{id}}\"\n");
    let daemon = alive(&stage.config()).await;
    assert_eq!(warned(&say(&daemon, &["check"]).await.stdout), 0);
}
