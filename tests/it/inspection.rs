//! The inspection of the broker, on which `check` and `setup` rely.

use amqp_publisher::{BrokerError, Reason};
use lapin::{ExchangeKind, types::AMQPValue};
use outboxd::{
    preflight::Finding,
    rabbitmq::{
        inspection::inspect,
        publishing::{Pattern, Publishing},
    },
};

use crate::broker::{Broker, changed, connect_error, exchange, queue, subscription, unique};

#[tokio::test]
async fn inspection_finds_every_difference_in_one_go_and_creates_nothing() {
    let broker = Broker::shared().await;
    let (_connection, channel) = broker.channel().await;
    let prefix = unique("different");
    let (events, queue_name) = (format!("{prefix}.events"), format!("{prefix}.queue"));
    exchange(&channel, &events, ExchangeKind::Direct).await;
    queue(&channel, &queue_name, &[("x-max-length", AMQPValue::LongLongInt(5))]).await;
    let subscriptions = vec![subscription(&queue_name, &events)];
    let options = broker.options_with(|options| options.topology.subscriptions = subscriptions);
    let checks = inspect(&options, "outboxd check", &[], &[]).await;
    let problems: Vec<_> = checks.iter().filter_map(|check| check.failure().or(check.as_warning())).collect();
    assert_eq!(problems.len(), 2, "{checks:#?}");
    assert!(problems[0].what.contains(&events) && problems[1].what.contains(&queue_name), "{problems:#?}");
    let verify_only = changed(&options, |options| options.topology.declare = false);
    let checks = inspect(&verify_only, "outboxd check", &[], &[]).await;
    let dead = checks.iter().find(|check| check.name.contains(".dead")).unwrap();
    assert!(dead.failure().is_some(), "it was not created by the first inspection");

    let error = connect_error(&options).await;
    assert!(
        matches!(&error, BrokerError::Declare { error, .. } if error.reason == Reason::Different),
        "{error}"
    );
}

#[tokio::test]
async fn check_finds_that_the_broker_takes_smaller_messages_than_the_configuration() {
    let (broker, _alone) = Broker::alone().await;
    let publishing = Publishing {
        exchange: Pattern::new([None]),
        routing_key: Pattern::new([None]),
        message_bytes_max: 2 << 20,
    };
    let looked = async |limit: u32| {
        // RabbitMQ 4 reads the setting only at its start.
        let setting = format!(
            "application:set_env(rabbit, max_message_size, {limit}), persistent_term:put(max_message_size, {limit})."
        );
        broker.node.ctl(&["eval", &setting]).await;
        let checks =
            inspect(&broker.options(), "outboxd check", std::slice::from_ref(&publishing), &[]).await;
        checks.into_iter().find(|check| check.name == "message size").expect("it is looked at")
    };
    let (small, large) = (looked(1 << 20).await, looked(128 << 20).await);
    let problem = small.failure().expect("a failure");
    assert!(
        problem.what.contains("message_bytes_max is 2097152") && problem.what.contains("1048576"),
        "{problem:?}"
    );
    assert!(
        problem.cure.contains("delivery.message_bytes_max") && problem.cure.contains("max_message_size"),
        "{problem:?}"
    );
    assert!(matches!(&large.finding, Finding::Passed(found) if found.contains("2097152")), "{large:?}");
}
