//! Services connect to brokers as outboxd does: over TLS with a private CA and a client certificate, and by several
//! URLs.

use crate::eventually;
use testkit::{Authority, RabbitMq, RabbitMqOptions, Service, shared_postgres, unique};

#[tokio::test]
async fn a_service_consumes_over_tls_with_its_own_certificate_from_the_broker_that_is_there() {
    let authority = Authority::new("a private CA");
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = authority.issue("customer-service", &[]);
    let write = |name: &str, text: &str| -> String {
        let file = folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let ca = write("ca.pem", authority.certificate());
    let (certificate, key) = (write("client.pem", &certificate), write("client.key", &key));
    let rabbitmq = RabbitMq::start(RabbitMqOptions {
        certificate: Some(authority.issue("broker", &["127.0.0.1"])),
        // Requires a client certificate of that CA.
        settings: vec![
            "ssl_options.verify = verify_peer".to_owned(),
            "ssl_options.fail_if_no_peer_cert = true".to_owned(),
            format!("ssl_options.cacertfile = {ca}"),
        ],
        ..Default::default()
    })
    .await;
    let name = unique("tls");
    let database = shared_postgres().await.create_database(&name).await;
    let there = format!("amqps://127.0.0.1:{}/%2f", rabbitmq.tls_port());
    let start = |certificate: Option<(&str, &str)>| {
        let mut service = Service::with_arguments("customer-service", &[])
            .with("DATABASE_URL", &database)
            .with("AMQP_URLS", &format!("amqps://127.0.0.1:1/%2f,{there}"))
            .with("AMQP_USERNAME", "guest")
            .with("AMQP_PASSWORD", "guest")
            .with("AMQP_TLS_CA_FILE", &ca);
        if let Some((certificate, key)) = certificate {
            service = service.with("AMQP_TLS_CERT_FILE", certificate).with("AMQP_TLS_KEY_FILE", key);
        }
        service.start_again();
        service
    };
    let mut stranger = start(None);
    eventually("it is not let in", async || stranger.log().contains("is not consumed").then_some(())).await;
    assert!(stranger.sigterm(crate::PATIENCE).await.success());

    let mut service = start(Some((&certificate, &key)));
    let series = "inbox_connected{queue=\"customer-service.orders\"}";
    eventually("it consumes", async || {
        service.metric_if_up(series).await.filter(|consuming| *consuming == 1.0)
    })
    .await;
    assert!(!service.log().contains("\"guest"), "{}", service.log());
    assert!(service.sigterm(crate::PATIENCE).await.success());
}
