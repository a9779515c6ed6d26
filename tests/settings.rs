//! `settings::load`: a file and an environment give options, or every problem at once.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{collections::BTreeMap, path::Path, time::Duration};

use amqp_publisher::{
    Endpoint,
    topology::{Argument, QueueType},
};
use outboxd::{
    message::OptionalColumn,
    postgres::Cleanup,
    relay::{BacklogPolicy, OnUnroutable, Ordering},
    settings::{Settings, SettingsError, load, load_with},
};

const MINIMAL: &str = r#"
    [rabbitmq]
    url = "amqp://guest:guest@localhost"
    [sources.orders]
    postgres.url = "postgresql://outboxd@localhost/orders"
"#;

fn read(text: &str, environment: &[(&str, &str)]) -> Result<Settings, SettingsError> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("outboxd.toml");
    std::fs::write(&file, text).unwrap();
    let environment = environment.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    load_with(Some(&file), &environment)
}

/// The problems as lines, without the directory of the file.
fn problems(text: &str, environment: &[(&str, &str)]) -> Vec<String> {
    let error = read(text, environment).expect_err("there must be a problem");
    assert_eq!(error.to_string().lines().count(), error.problems.len());
    let line = |line: &str| line.find("outboxd.toml: ").map_or(line, |start| &line[start..]).to_owned();
    error.to_string().lines().map(line).collect()
}

/// `MINIMAL` with further lines for its source.
fn with(lines: &str) -> String {
    format!("{MINIMAL}{lines}")
}

#[test]
fn the_documented_file_works_as_it_stands() {
    let settings = load(Some(&Path::new(env!("CARGO_MANIFEST_DIR")).join("config/outboxd.toml"))).unwrap();
    assert_eq!(settings.admin_listen, Some("127.0.0.1:9464".parse().unwrap()));
    assert_eq!(settings.drain_timeout, Duration::from_secs(30));
    assert_eq!(settings.sources.keys().collect::<Vec<_>>(), ["orders"]);
    let orders = &settings.sources["orders"];
    assert_eq!((&*orders.database.slot, &*orders.database.publication), ("outboxd_orders", "outboxd_orders"));
    assert_eq!((&*orders.database.table.schema, &*orders.database.table.table), ("public", "outbox"));
    assert!(
        orders.database.create
            && settings.broker.topology.declare
            && settings.broker.topology.subscriptions.is_empty()
    );
    assert_eq!(orders.relay.ordering, Ordering::PerAggregate);
    assert_eq!(orders.relay.on_unroutable, OnUnroutable::Halt);
    assert_eq!(orders.relay.backlog, BacklogPolicy::Publish);
    assert_eq!((orders.relay.in_flight_max, orders.mapping.message_bytes_max), (4096, 16_777_216));
    assert_eq!(orders.exchanges_max, 256);
    assert_eq!(orders.relay.confirm_timeout, Duration::from_secs(30));
    assert_eq!(orders.mapping.columns.headers, OptionalColumn::IfPresent("headers".into()));
}

#[test]
fn every_kind_of_value_arrives() {
    let settings = read(
        &with(
            r#"
            backlog = "skip"
            outbox.table = "sales.\"Outbox\""
            outbox.columns = { payload = "body", headers = "meta", sequence = "" }
            message.exchange = "{source}"
            message.headers = { "X-Tenant" = "{column:tenant_id}", app = "orders" }
            delivery.ordering = "pipelined"
            delivery.on_unroutable = "drop"
            [admin]
            enabled = false
            [[subscriptions]]
            queue = "log"
            exchange = "Order.events"
            queue_type = "stream"
            [[subscriptions]]
            queue = "work"
            exchange = "Order.events"
            binding_keys = ["a", "b"]
            partitions = 4
            "#,
        ),
        &[],
    )
    .unwrap();
    assert_eq!(settings.admin_listen, None);
    let source = &settings.sources["orders"];
    assert_eq!(source.relay.backlog, BacklogPolicy::Skip);
    assert_eq!(
        (source.relay.ordering, source.relay.on_unroutable),
        (Ordering::Pipelined, OnUnroutable::Drop)
    );
    assert_eq!((&*source.database.table.schema, &*source.database.table.table), ("sales", "Outbox"));
    let columns = &source.mapping.columns;
    assert_eq!((&*columns.payload, &*columns.id), ("body", "id"));
    assert_eq!(columns.headers, OptionalColumn::Required("meta".into()));
    assert_eq!(columns.sequence, OptionalColumn::Off);
    let names: Vec<_> = source.mapping.headers.iter().map(|(name, _)| &**name).collect();
    assert_eq!(names, ["X-Tenant", "app"]);
    let [log, work] = &settings.broker.topology.subscriptions[..] else { panic!("two subscriptions") };
    assert_eq!(
        (log.queue_type, log.single_active_consumer, log.dead_letter),
        (QueueType::Stream, false, false)
    );
    assert_eq!(log.binding_keys, ["#"]);
    assert_eq!((work.queue_type, work.partitions, work.dead_letter), (QueueType::Quorum, 4, true));
    assert_eq!(work.binding_keys, ["a", "b"]);
}

#[test]
fn confirmed_rows_stay_unless_they_are_to_go() {
    let cleanup = |more| read(&with(more), &[]).unwrap().sources["orders"].database.cleanup;
    let retention = |seconds| Some(Cleanup { retention: Duration::from_secs(seconds) });
    assert_eq!(cleanup(""), None);
    assert_eq!(cleanup("cleanup.mode = \"none\""), None);
    assert_eq!(cleanup("cleanup.mode = \"delete\""), retention(0));
    assert_eq!(cleanup("cleanup = { mode = \"delete\", retention_s = 86400 }"), retention(86_400));
}

#[test]
fn the_environment_overrides_the_file_and_is_parsed_as_the_key_wants() {
    let settings = read(
        MINIMAL,
        &[
            ("OUTBOXD__SOURCES__ORDERS__DELIVERY__IN_FLIGHT_MAX", "7"),
            ("OUTBOXD__SOURCES__ORDERS__POSTGRES__CREATE", "false"),
            ("OUTBOXD__SOURCES__ORDERS__MESSAGE__ROUTING_KEY", "1"),
            ("OUTBOXD__RABBITMQ__URL", "amqp://broker"),
            ("OUTBOXD_CONFIG", "/nowhere"),
            ("OUTBOXD_LOG", "debug"),
            ("UNRELATED", "x"),
        ],
    )
    .unwrap();
    assert_eq!(settings.sources["orders"].relay.in_flight_max, 7);
    assert!(!settings.sources["orders"].database.create);
    assert!(settings.broker.connection.urls[0].contains("@broker:5672"));
}

#[test]
fn everything_may_come_from_the_environment() {
    let settings = read(
        "",
        &[
            ("OUTBOXD__RABBITMQ__URLS", "amqp://a, amqps://b"),
            ("OUTBOXD__SOURCES__BILLING__POSTGRES__URL", "postgresql://outboxd@localhost/billing"),
        ],
    )
    .unwrap();
    assert_eq!(settings.broker.connection.urls.len(), 2);
    assert_eq!(settings.sources["billing"].database.slot, "outboxd_billing");
}

#[test]
fn without_a_file_the_environment_alone_will_do_and_gives_subscriptions_too() {
    let read = |variables: &[(&str, &str)]| {
        let variables = variables.iter().map(|(name, value)| (format!("OUTBOXD__{name}"), value.to_string()));
        load_with(None, &variables.collect())
    };
    let sources = [
        ("RABBITMQ__URL", "amqp://mq"),
        ("SOURCES__ORDERS__POSTGRES__URL", "postgresql://outboxd@db/orders"),
    ];
    let subscriptions = [
        ("SUBSCRIPTIONS__10__QUEUE", "late"),
        ("SUBSCRIPTIONS__10__EXCHANGE", "Order.events"),
        ("SUBSCRIPTIONS__2__QUEUE", "early"),
        ("SUBSCRIPTIONS__2__EXCHANGE", "Order.events"),
        ("SUBSCRIPTIONS__2__BINDING_KEYS", "a, b"),
        ("SUBSCRIPTIONS__2__PARTITIONS", "4"),
    ];
    let settings = read(&[&sources[..], &subscriptions].concat()).unwrap();
    let [early, late] = &settings.broker.topology.subscriptions[..] else { panic!("two subscriptions") };
    assert_eq!((&*early.queue, early.partitions, &*late.queue), ("early", 4, "late"));
    assert_eq!(early.binding_keys, ["a", "b"]);
    let error =
        read(&[&sources[..], &subscriptions[..1], &[("SUBSCRIPTIONS__2__QUEUE", "")]].concat()).unwrap_err();
    let text = error.to_string();
    for expected in [
        "OUTBOXD__SUBSCRIPTIONS__10__EXCHANGE: subscriptions[10].exchange: is missing",
        "OUTBOXD__SUBSCRIPTIONS__2__QUEUE: subscriptions[2].queue: is empty",
    ] {
        assert!(text.contains(expected), "{expected} is not in {text}");
    }
    let text = read(&[]).unwrap_err().to_string();
    assert!(text.contains("OUTBOXD__RABBITMQ__URL: rabbitmq.url: is missing"), "{text}");
    assert!(text.contains("OUTBOXD__SOURCES: sources: there is no source"), "{text}");
}

#[test]
fn the_environment_overrides_and_adds_to_the_subscriptions_of_the_file() {
    let text = with(
        "[[subscriptions]]\nqueue = \"a\"\nexchange = \"e\"\n[[subscriptions]]\nqueue = \"b\"\nexchange = \"e\"",
    );
    let settings = read(
        &text,
        &[
            ("OUTBOXD__SUBSCRIPTIONS__1__QUEUE", "c"),
            ("OUTBOXD__SUBSCRIPTIONS__2__QUEUE", "d"),
            ("OUTBOXD__SUBSCRIPTIONS__2__EXCHANGE", "f"),
        ],
    )
    .unwrap();
    let shown: Vec<_> =
        settings.broker.topology.subscriptions.iter().map(|s| (&*s.queue, &*s.exchange)).collect();
    assert_eq!(shown, [("a", "e"), ("c", "e"), ("d", "f")]);
}

#[test]
fn an_invalid_source_name_hides_no_other_problem_of_its_section() {
    let found = problems(
        &with(
            "[sources.Bad]\npostgres.slt = \"x\"\ndelivery.in_flight_max = 0\nbacklog = \"all\"\nmessage.exchange = \"{typ}\"",
        ),
        &[],
    );
    for expected in [
        "sources.Bad: is no valid source name",
        "sources.Bad.postgres.slt: unknown key",
        "sources.Bad.postgres.url: is missing",
        "sources.Bad.delivery.in_flight_max: must be between",
        "sources.Bad.backlog: \"all\" is unknown",
        "sources.Bad.message.exchange: unknown placeholder",
    ] {
        assert!(found.iter().any(|line| line.contains(expected)), "{expected} is not in {found:#?}");
    }
    assert_eq!(found.len(), 6, "{found:#?}");
}

#[test]
fn every_problem_is_found_in_one_go() {
    let found = problems(
        r#"
        drain_timeout_s = 0
        [rabbitmq]
        urls = []
        heartbeat_s = "10"
        [sources.orders]
        postgres.slt = "x"
        delivery.in_flight_max = 0
        delivery.on_unroutable = "perk"
        "#,
        &[("OUTBOXD__SOURCES__ORDERS__DELIVERY__BACKOFF_MIN_MS", "soon")],
    );
    for expected in [
        "outboxd.toml: drain_timeout_s: must be between 1 and 3600, is 0; set for instance 30, the default",
        "outboxd.toml: rabbitmq.urls: is empty; list at least one URL",
        "outboxd.toml: rabbitmq.heartbeat_s: must be a whole number, is text; write a whole number",
        "outboxd.toml: sources.orders.postgres.slt: unknown key; did you mean slot?",
        "outboxd.toml: sources.orders.delivery.in_flight_max: must be between 1 and 1000000, is 0; set for instance 4096, the default",
        "outboxd.toml: sources.orders.delivery.on_unroutable: \"perk\" is unknown; set \"halt\" or \"park\" or \"drop\"",
        "OUTBOXD__SOURCES__ORDERS__DELIVERY__BACKOFF_MIN_MS: sources.orders.delivery.backoff_min_ms: is not a whole number; set for instance 100, the default",
    ] {
        assert!(found.iter().any(|line| line == expected), "{expected}\nis not in\n{}", found.join("\n"));
    }
    assert!(found.iter().any(|line| line.contains("sources.orders.postgres.url: is missing")), "{found:?}");
    assert_eq!(found.len(), 8, "{found:#?}");
}

#[test]
fn a_wrong_url_hides_no_other_problem() {
    let found = problems(
        r#"
        [rabbitmq]
        url = "amqp://localhost"
        [sources.orders]
        postgres.url = "nonsense"
        delivery.in_flight_maks = 1
        cleanup.mood = "delete"
        message.exchanje = "x"
        "#,
        &[],
    );
    for expected in [
        "sources.orders.postgres.url: ",
        "sources.orders.delivery.in_flight_maks: unknown key; did you mean in_flight_max?",
        "sources.orders.cleanup.mood: unknown key; valid here are mode, retention_s",
        "sources.orders.message.exchanje: unknown key; did you mean exchange?",
    ] {
        assert!(
            found.iter().any(|line| line.contains(expected)),
            "{expected}\nis not in\n{}",
            found.join("\n")
        );
    }
    assert_eq!(found.len(), 4, "{found:#?}");
}

#[test]
fn each_mistake_has_its_message() {
    for (lines, expected) in [
        ("backlog = \"all\"", "sources.orders.backlog: \"all\" is unknown; set \"publish\" or \"skip\""),
        (
            "nonsense_of_mine = 1",
            "sources.orders.nonsense_of_mine: unknown key; valid here are backlog, cleanup, deliv",
        ),
        ("postgres.slot = \"A-b\"", "postgres.slot: \"A-b\" is no valid slot name"),
        ("postgres.publication = \"\"", "postgres.publication: \"\" is no valid name"),
        ("postgres.url_file = \"x\"", "postgres.url_file: contradicts url; give one of the two"),
        (
            "postgres.password_file = \"/no/such/file\"",
            "password_file: /no/such/file cannot be read: No such file",
        ),
        (
            "postgres.password_file = \"/dev/zero\"",
            "password_file: /dev/zero cannot be read: it is larger than 1 MiB",
        ),
        ("postgres.create = \"yes\"", "postgres.create: must be true or false, is text"),
        ("outbox.table = \"a.b.c\"", "outbox.table: 'a.b.c' is no table name"),
        ("outbox.unpublished = \"\"", "outbox.unpublished: is empty"),
        (
            "outbox.created_at_zone = \"my zone\"",
            "outbox.created_at_zone: \"my zone\" is no name of a time zone",
        ),
        ("outbox.preset = \"debezium\"", "\"debezium\" is not available in this version; set \"standard\""),
        ("outbox.columns = { id = \"\" }", "outbox.columns.id: \"\" is no valid name"),
        ("outbox.columns = { ids = \"x\" }", "outbox.columns.ids: unknown key; did you mean id?"),
        ("message.exchange = \"{typ}\"", "message.exchange: unknown placeholder {typ} at character 1"),
        ("message.routing_key = \"a}\"", "message.routing_key: '}' at character 2 closes nothing"),
        (
            "message.headers = { event-type = \"x\" }",
            "message.headers.event-type: is a header that outboxd sets",
        ),
        ("message.headers = { CC = \"x\" }", "message.headers.CC: has a special meaning in RabbitMQ"),
        ("message.headers = { a = 1 }", "message.headers.a: must be text, is a whole number"),
        ("message.content_type = \"\"", "message.content_type: must have 1 to 255 bytes, has 0"),
        (
            "message.exchange = \"{header:x}\"\noutbox.columns.headers = \"\"",
            "message.exchange: uses {header:NAME} though outbox.columns.headers is \"\"",
        ),
        (
            "delivery.on_invalid = \"drop\"",
            "delivery.on_invalid: \"drop\" is unknown; set \"halt\" or \"park\"",
        ),
        ("message.exchange = \"{aggregate_type}\\n.e\"", "message.exchange: has a line break (LF or CR)"),
        ("delivery.exchanges_max = 65536", "delivery.exchanges_max: must be between 0 and 65535, is 65536"),
        ("[[exchanges]]\nname = \"e\\r\"", "exchanges[0].name: has a line break"),
        (
            "[[subscriptions]]\nqueue = \"q\\n\"\nexchange = \"e\"",
            "subscriptions[0].queue: has a line break (LF or CR), which RabbitMQ removes",
        ),
        (
            "[[subscriptions]]\nqueue = \"q\"\nexchange = \"e\\n\"",
            "subscriptions[0].exchange: has a line break (LF or CR)",
        ),
        ("delivery.in_flight_max = -1", "must be between 1 and 1000000, is -1"),
        ("delivery.in_flight_max = 1.5", "must be a whole number, is a fraction"),
        ("delivery.backoff_max_ms = 99", "delivery.backoff_max_ms: is less than backoff_min_ms"),
        ("delivery.status_interval_ms = 6000", "is more than half of postgres.wal_sender_timeout_ms (10000)"),
        (
            "cleanup.mode = \"delete\"\nbacklog = \"skip\"",
            "cleanup.mode: \"delete\" would remove the rows that backlog = \"skip\" leaves unpublished",
        ),
        (
            "cleanup = { mode = \"delete\", retention_s = 1 }\noutbox.columns.created_at = \"\"",
            "cleanup.retention_s: needs the time of each row, but outbox.columns.created_at is \"\"",
        ),
        ("cleanup.retention_s = 5", "cleanup.retention_s: has no effect"),
        ("[sources.Bad]", "sources.Bad: is no valid source name"),
        ("[admin]\nlisten = \"localhost\"", "admin.listen: must be an IP address and a port"),
        ("[amin]", "amin: unknown key; did you mean admin?"),
        ("[subscriptions]", "subscriptions: must be an array of tables, is a table"),
        ("[[subscriptions]]\nqueue = \"q\"", "subscriptions[0].exchange: is missing"),
        (
            "[[subscriptions]]\nqueue = \"amq.q\"\nexchange = \"e\"",
            "subscriptions[0].queue: begins with amq.",
        ),
        (
            "[[subscriptions]]\nqueue = \"q\"\nexchange = \"e\"\nbinding_keys = [1]",
            "binding_keys[0]: must be text",
        ),
        ("[[subscriptions]]\nqueue = \"q\"\nexchange = \"e\"\nbinding_keys = []", "binding_keys: is empty"),
        (
            "[[subscriptions]]\nqueue = \"q\"\nexchange = \"e\"\nqueue_type = \"stream\"\npartitions = 2",
            "subscriptions[0].partitions: does not go with queue_type \"stream\"",
        ),
        (
            "[[subscriptions]]\nqueue = \"q\"\nexchange = \"e\"\n[[subscriptions]]\nqueue = \"q.dead\"\nexchange = \"e\"",
            "subscriptions[1].queue: two subscriptions use the queue \"q.dead\"",
        ),
        (
            "[sources.copy]\npostgres.url = \"postgresql://outboxd@localhost/other\"\npostgres.slot = \"outboxd_orders\"",
            "sources.orders.postgres.slot: another source on this server already uses the slot \"outboxd_orders\"",
        ),
    ] {
        let found = problems(&with(lines), &[]);
        assert!(found.iter().any(|line| line.contains(expected)), "{lines}\ngives {found:#?}");
    }
}

#[test]
fn arguments_keep_their_types() {
    let settings = read(
        &with(
            r#"
            [[exchanges]]
            name = "Order.events"
            type = "x-delayed-message"
            arguments = { "x-delayed-type" = "topic", "alternate-exchange" = "lost" }
            [[exchanges]]
            name = "volatile"
            type = "fanout"
            durable = false
            mandatory = false
            [[exchanges]]
            name = "amq.topic"
            mandatory = false
            [[subscriptions]]
            queue = "q"
            exchange = "Order.events"
            queue_type = "classic"
            arguments = { "x-message-ttl" = 60000, "x-text" = "60000", "x-flag" = true, "x-double" = 1.5, "x-list" = [1, "a"], "x-table" = { b = 2, a = { c = "1" } } }
            [[subscriptions]]
            queue = "own-target"
            exchange = "volatile"
            arguments = { "x-dead-letter-exchange" = "dlx", "x-queue-type" = "quorum", "x-single-active-consumer" = true }
            [[subscriptions]]
            queue = "both"
            exchange = "volatile"
            single_active_consumer = false
            arguments = { "x-delivery-limit" = -1, "x-single-active-consumer" = false }
            "#,
        ),
        &[],
    )
    .unwrap();
    let text = |text: &str| Argument::Text(text.into());
    let named = |name: &str, value| (name.to_owned(), value);
    let [delayed, volatile, own] = &settings.broker.topology.exchanges[..] else { panic!("three exchanges") };
    assert_eq!((&*delayed.kind, delayed.durable, delayed.mandatory), ("x-delayed-message", true, false));
    assert_eq!(
        delayed.arguments,
        [named("alternate-exchange", text("lost")), named("x-delayed-type", text("topic"))]
    );
    assert_eq!((&*volatile.kind, volatile.durable, volatile.mandatory), ("fanout", false, false));
    assert!(!own.mandatory);
    let [q, own_target, both] = &settings.broker.topology.subscriptions[..] else {
        panic!("three subscriptions")
    };
    let inner = Argument::Table(vec![named("c", text("1"))]);
    assert_eq!(
        q.arguments,
        [
            named("x-double", Argument::Double(1.5)),
            named("x-flag", Argument::Boolean(true)),
            named("x-list", Argument::List(vec![Argument::Integer(1), text("a")])),
            named("x-message-ttl", Argument::Integer(60000)),
            named("x-table", Argument::Table(vec![named("a", inner), named("b", Argument::Integer(2))])),
            named("x-text", text("60000")),
        ]
    );
    assert!(q.dead_letter && !own_target.dead_letter && both.dead_letter);
    assert_eq!(
        own_target.arguments,
        [named("x-dead-letter-exchange", text("dlx"))],
        "the others repeat keys"
    );
    assert_eq!(both.arguments.len(), 2, "false is not the same to RabbitMQ as left out");
}

#[test]
fn an_argument_that_contradicts_a_key_is_named_with_the_key() {
    for (lines, expected) in [
        ("arguments = 5", "subscriptions[0].arguments: must be a table, is a whole number"),
        (
            "arguments = { a = inf }",
            "subscriptions[0].arguments.a: must be text, true or false, a number of 64 bits",
        ),
        (
            "arguments = { \"x-queue-type\" = \"classic\" }",
            "subscriptions[0].arguments.x-queue-type: contradicts queue_type, which is \"quorum\"",
        ),
        (
            "arguments = { \"x-single-active-consumer\" = false }",
            "arguments.x-single-active-consumer: contradicts single_active_consumer, which is true",
        ),
        (
            "dead_letter = true\narguments = { \"x-dead-letter-exchange\" = \"dlx\" }",
            "arguments.x-dead-letter-exchange: contradicts dead_letter = true",
        ),
        (
            "arguments = { \"x-dead-letter-routing-key\" = \"k\" }",
            "arguments.x-dead-letter-routing-key: contradicts dead_letter = true",
        ),
        (
            "dead_letter = false\narguments = { \"x-dead-letter-routing-key\" = \"k\" }",
            "arguments.x-dead-letter-routing-key: is refused by RabbitMQ without x-dead-letter-exchange",
        ),
        (
            "arguments = { \"x-max-age\" = \"1D\" }",
            "arguments.x-max-age: is refused by RabbitMQ for queue_type \"quorum\"; leave it out, or set queue_type to \"stream\"",
        ),
        (
            "queue_type = \"stream\"\narguments = { \"x-message-ttl\" = 10 }",
            "arguments.x-message-ttl: is refused by RabbitMQ for queue_type \"stream\"",
        ),
    ] {
        let subscription = format!("[[subscriptions]]\nqueue = \"q\"\nexchange = \"e\"\n{lines}");
        let found = problems(&with(&subscription), &[]);
        assert!(found.iter().any(|line| line.contains(expected)), "{lines}\ngives {found:#?}");
    }
}

#[test]
fn exchanges_are_checked_with_those_who_use_them() {
    for (lines, expected) in [
        ("[[exchanges]]\ntype = \"topic\"", "exchanges[0].name: is missing"),
        ("[[exchanges]]\nname = \"amq.own\"", "exchanges[0].name: begins with amq."),
        (
            "[[exchanges]]\nname = \"amq.topic\"\ntype = \"topic\"",
            "exchanges[0].type: has no effect: RabbitMQ itself declares",
        ),
        ("[[exchanges]]\nname = \"e\"\ntype = \"\"", "exchanges[0].type: must have 1 to 255 bytes, has 0"),
        ("[[exchanges]]\nname = \"e\"\ninternal = true", "exchanges[0].internal: unknown key"),
        (
            "[[exchanges]]\nname = \"e\"\n[[exchanges]]\nname = \"e\"",
            "exchanges[1].name: two entries describe the exchange \"e\"",
        ),
        (
            "[[exchanges]]\nname = \"e\"\ntype = \"x-delayed-message\"",
            "exchanges[0].arguments: lacks x-delayed-type",
        ),
        (
            "[[exchanges]]\nname = \"e\"\ntype = \"x-delayed-message\"\nmandatory = true\narguments = { x-delayed-type = \"topic\" }",
            "exchanges[0].mandatory: cannot be true for type \"x-delayed-message\"",
        ),
        (
            "[[exchanges]]\nname = \"e\"\ntype = \"headers\"\n[[subscriptions]]\nqueue = \"q\"\nexchange = \"e\"\nbinding_keys = [\"a\"]",
            "subscriptions[0].binding_keys: has no effect: exchange \"e\" of type \"headers\" compares headers",
        ),
        (
            "[[exchanges]]\nname = \"e\"\ntype = \"fanout\"\n[[subscriptions]]\nqueue = \"q\"\nexchange = \"e\"\nbinding_keys = [\"a\"]",
            "subscriptions[0].binding_keys: has no effect",
        ),
        (
            "[[exchanges]]\nname = \"e\"\ntype = \"direct\"\n[[subscriptions]]\nqueue = \"q\"\nexchange = \"e\"",
            "subscriptions[0].binding_keys: is missing",
        ),
        (
            "[[exchanges]]\nname = \"e\"\ntype = \"x-consistent-hash\"\n[[subscriptions]]\nqueue = \"q\"\nexchange = \"e\"",
            "subscriptions[0].binding_keys: must be numbers",
        ),
        (
            "[[exchanges]]\nname = \"q\"\n[[subscriptions]]\nqueue = \"q\"\nexchange = \"e\"\npartitions = 2",
            "subscriptions[0].queue: the exchange \"q\" before the partitions is also in",
        ),
    ] {
        let found = problems(&with(lines), &[]);
        assert!(found.iter().any(|line| line.contains(expected)), "{lines}\ngives {found:#?}");
    }
    // A variable is text. A text that reads as a number is a number, as RabbitMQ needs it for x-message-ttl.
    let subscription = "[[subscriptions]]\nqueue = \"q\"\nexchange = \"e\"\nqueue_type = \"classic\"";
    let variable = ("OUTBOXD__SUBSCRIPTIONS__0__ARGUMENTS__X", "5");
    let text = ("OUTBOXD__SUBSCRIPTIONS__0__ARGUMENTS__Y", "5D");
    let settings = read(&with(subscription), &[variable, text]).unwrap();
    let arguments = &settings.broker.topology.subscriptions[0].arguments;
    assert_eq!(*arguments, [("x".into(), Argument::Integer(5)), ("y".into(), Argument::Text("5D".into()))]);
    let exchange =
        [("OUTBOXD__EXCHANGES__0__NAME", "Order.events"), ("OUTBOXD__EXCHANGES__0__TYPE", "direct")];
    let settings = read(MINIMAL, &exchange).unwrap();
    assert_eq!(settings.broker.topology.exchanges[0].name, "Order.events");
}

#[test]
fn properties_are_templates_and_literals_are_tried_out() {
    let settings = read(&with("message = { id = \"{source}-{id}\", priority = \"7\", type = \"\", properties_from_headers = true }"), &[]).unwrap();
    let mapping = &settings.sources["orders"].mapping;
    assert_eq!((mapping.properties.len(), mapping.properties_from_headers), (2, true));
    for (lines, expected) in [
        (
            "message.priority = \"high\"",
            "message.priority: the property priority must be a whole number from 0 to 255; correct",
        ),
        ("message.priority = 7", "message.priority: must be text, is a whole number"),
        (
            "message.expiration_ms = \"60s\"",
            "message.expiration_ms: the property expiration_ms must be a whole number of milliseconds",
        ),
        (
            "message.reply_to = \"amq.rabbitmq.reply-to\"",
            "message.reply_to: the property reply_to must be another",
        ),
        ("message.expiration = \"5\"", "message.expiration: unknown key; did you mean expiration_ms?"),
        ("message.id = \"{uuid}\"", "message.id: unknown placeholder"),
        (
            "message.properties_from_headers = true\noutbox.columns.headers = \"\"",
            "message.properties_from_headers: has no effect: outbox.columns.headers is \"\"",
        ),
    ] {
        let found = problems(&with(lines), &[]);
        assert!(found.iter().any(|line| line.contains(expected)), "{lines}\ngives {found:#?}");
    }
}

#[test]
fn broker_urls_are_checked_without_being_shown() {
    for (rabbitmq, expected) in [
        ("", "rabbitmq.url: is missing"),
        ("url = \"amqp://h\"\nurls = [\"amqp://h\"]", "rabbitmq.urls: contradicts url"),
        ("url = \"http://u:hunter2@h\"", "rabbitmq.url: does not begin with amqp:// or amqps://"),
        ("url = \"amqp:u:hunter2@h\"", "rabbitmq.url: does not begin with"),
        ("url = \"amqp://u:hunter2@h:port\"", "rabbitmq.url: is not a valid URL"),
        ("url = \"amqp://u:hunter2@\"", "rabbitmq.url: names no host"),
        (
            "url = \"amqp://u:hunter2@[::1\"",
            "rabbitmq.url: has brackets around something else than an IPv6 address",
        ),
        (
            "url = \"amqp://u:p@h1/%2f,amqp://u:hunter2@h2/%2f\"",
            "rabbitmq.url: holds more than one URL; give each",
        ),
        ("url = \"amqp://u:p@h1/%2f,u:hunter2@h2/%2f\"", "rabbitmq.url: holds an @ or # behind the host"),
        ("url = \"amqp://u:hunter2@h1,h2/%2f\"", "rabbitmq.url: names more than one host"),
        ("url = \"amqp://u:hunter2@h/%2f?channel_max=1\"", "rabbitmq.url: allows fewer channels"),
        ("url = \"amqp://u:hunter2@h/\"", "names a virtual host without a name"),
        ("url = 17", "rabbitmq.url: must be text, is a whole number"),
        ("urls = [\"amqp://a\", \"b:hunter2\"]", "rabbitmq.urls: does not begin with"),
        (
            "url = \"amqps://h\"\ntls_cert_file = \"/dev/null\"",
            "tls_cert_file: is of no use without tls_key_file",
        ),
        ("url = \"amqp://h\"\ntls_ca_file = \"/dev/null\"", "tls_ca_file: has no effect"),
        ("url = \"amqps://h\"\ntls_ca_file = \"/no/such\"", "tls_ca_file: /no/such cannot be read"),
    ] {
        let text = MINIMAL.replace("url = \"amqp://guest:guest@localhost\"", rabbitmq);
        let found = problems(&text, &[]);
        assert!(found.iter().any(|line| line.contains(expected)), "{rabbitmq}\ngives {found:#?}");
        assert!(!found.concat().contains("hunter2"), "{found:#?}");
    }
}

#[test]
fn the_broker_may_have_an_ipv6_address() {
    let text = MINIMAL.replace("amqp://guest:guest@localhost", "amqp://guest:guest@[::1]:5672/%2f");
    for (environment, user) in [(vec![], "guest"), (vec![("OUTBOXD__RABBITMQ__USERNAME", "a:b@c")], "a:b@c")]
    {
        let settings = read(&text, &environment).unwrap();
        let [url] = &settings.broker.connection.urls[..] else {
            panic!("{:?}", settings.broker.connection.urls)
        };
        let endpoint = Endpoint::parse(url, Duration::from_secs(10)).unwrap();
        assert_eq!(endpoint.to_string(), "[::1]:5672//");
        assert!(
            url.contains(&format!("//{}:guest@[::1]", user.replace(':', "%3A").replace('@', "%40"))),
            "{url}"
        );
    }
}

#[test]
fn secrets_come_from_files_and_are_put_into_urls() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    };
    let password = file("password", "p@ss/word\n");
    let urls = file("urls", "amqp://a\namqp://u:old@b:1/v%2f?heartbeat=3\n\n");
    let empty = file("empty", "\n");
    let text = format!(
        "[rabbitmq]\nurls_file = '{urls}'\nusername = 'me'\npassword_file = '{password}'\n\
         [sources.a]\npostgres.url = 'postgresql://u@h/d'\npostgres.password_file = '{password}'"
    );
    let settings = read(&text, &[]).unwrap();
    let parsed: Vec<lapin::uri::AMQPUri> =
        settings.broker.connection.urls.iter().map(|url| url.parse().unwrap()).collect();
    for uri in &parsed {
        assert_eq!(
            (&*uri.authority.userinfo.username, &*uri.authority.userinfo.password),
            ("me", "p@ss/word")
        );
    }
    assert_eq!((&*parsed[1].authority.host, parsed[1].authority.port, &*parsed[1].vhost), ("b", 1, "v/"));
    assert_eq!(parsed[1].query.heartbeat, Some(3));
    let shown = format!("{settings:?}");
    assert!(!shown.contains("p@ss") && !shown.contains("p%40ss"), "{shown}");

    let found = problems(&text.replace(&password, &empty), &[]);
    assert_eq!(found.len(), 2);
    assert!(found[0].contains("is empty; write the value into it"), "{found:?}");
}

#[test]
fn no_error_shows_a_secret() {
    let secrets = [
        "[rabbitmq]\nurl = \"amqp://u:hunter2@h\n",
        "[rabbitmq]\nurl = \"amqp://u:hunter2@h\" trailing\n",
        "[rabbitmq]\npassword = hunter2\n",
        "[rabbitmq]\npassword = \"hunter2\"\npassword = \"hunter2\"\n",
        "password = 'hunter2'",
        "[rabbitmq]\nurl = [\"hunter2\"]\nheartbeat_s = \"hunter2\"",
        "[sources.a]\npostgres.url = \"hunter2\"",
        "[sources.a]\npostgres.url = \"postgresql://u:hunter2@h:x/d\"",
    ];
    for text in secrets {
        let error = read(text, &[("OUTBOXD__SOURCES__A__POSTGRES__PASSWORD", "hunter3")]).unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("hunter"), "{shown}");
    }
    let settings =
        read(&MINIMAL.replace("guest:guest", "guest:hunter2").replace("outboxd@", "outboxd:hunter2@"), &[])
            .unwrap();
    assert!(!format!("{settings:?}").contains("hunter2"));
}

#[test]
fn a_file_that_cannot_be_used_is_a_problem_like_any_other() {
    let error = load_with(Some(Path::new("/no/such/outboxd.toml")), &BTreeMap::new()).unwrap_err();
    assert!(error.to_string().starts_with("/no/such/outboxd.toml: cannot be read: No such file"), "{error}");
    let found = problems("\n\n[rabbitmq\n", &[]);
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("outboxd.toml: TOML parse error at line 3, column 10: "), "{found:?}");
    assert!(found[0].ends_with("; correct the TOML there"), "{found:?}");
    assert!(problems("drain_timeout_s = 99999999999999999999", &[])[0].contains("too large"));
}
