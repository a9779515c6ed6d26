//! The support itself: private nodes start, stop in every way, come back with their data, and leave nothing behind.

use crate::support::{
    Postgres, PostgresOptions, RabbitMq, RabbitMqOptions, shared_postgres, shared_rabbitmq, unique,
};
use lapin::{
    BasicProperties, Connection, ConnectionProperties,
    options::{BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions},
    types::FieldTable,
};

#[tokio::test]
async fn postgres_keeps_its_data_through_every_kind_of_stop() {
    let server = Postgres::start(PostgresOptions::default()).await;
    server.create_database("kept").await;
    server.client("kept").await.batch_execute("CREATE TABLE seen (stop text)").await.unwrap();
    for stop in ["fast", "immediate", "kill"] {
        let insert = format!("INSERT INTO seen VALUES ('{stop}')");
        server.client("kept").await.batch_execute(&insert).await.unwrap();
        match stop {
            "fast" => server.stop_fast().await,
            "immediate" => server.stop_immediate().await,
            _ => server.kill9().await,
        }
        server.start_again().await;
    }
    let row = server.client("kept").await.query_one("SELECT count(*) FROM seen", &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 3);
}

#[tokio::test]
async fn rabbitmq_keeps_confirmed_messages_through_every_kind_of_stop() {
    let node = RabbitMq::start(RabbitMqOptions::default()).await;
    let url = node.create_vhost("kept/here").await;
    for stop in ["regular", "kill"] {
        let connection = Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        let durable = QueueDeclareOptions { durable: true, ..Default::default() };
        channel.queue_declare("kept".into(), durable, FieldTable::default()).await.unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        let persistent = BasicProperties::default().with_delivery_mode(2);
        let confirm = channel
            .basic_publish(
                "".into(),
                "kept".into(),
                BasicPublishOptions::default(),
                stop.as_bytes(),
                persistent,
            )
            .await
            .unwrap();
        assert!(confirm.await.unwrap().is_ack());
        match stop {
            "regular" => node.stop().await,
            _ => node.kill9().await,
        }
        node.start_again().await;
        let connection = Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        let got = channel.basic_get("kept".into(), BasicGetOptions { no_ack: true }).await.unwrap();
        assert_eq!(got.unwrap().delivery.data, stop.as_bytes());
    }
}

#[tokio::test]
async fn tests_share_nodes_and_take_a_database_and_a_virtual_host_each() {
    let (postgres, rabbitmq) = tokio::join!(shared_postgres(), shared_rabbitmq());
    let name = unique("shared");
    postgres.create_database(&name).await;
    let row = postgres.client(&name).await.query_one("SELECT current_database()", &[]).await.unwrap();
    assert_eq!(row.get::<_, String>(0), name);
    let url = rabbitmq.create_vhost(&name).await;
    let connection = Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
    assert!(connection.status().connected());
}
