//! Encryption and authentication on both sides: valid set-ups work, others are refused with the reason, and no secret is shown.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, TcpListener, ToSocketAddrs},
};

use crate::{
    broker::Broker,
    inbox::text_header,
    stage::{PATIENCE, Stage, alive, until, until_state},
};
use testkit::{Authority, Daemon, Postgres, PostgresOptions, shared_postgres, shared_rabbitmq};

/// Part of every password. No log may hold it.
const SECRET: &str = "s3cret";

/// A port without a listener.
fn dead_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// One source for each kind of connection, all in one daemon.
#[tokio::test]
async fn postgres_connections_of_every_kind() {
    let (authority, other) = (Authority::new("authority of the server"), Authority::new("another authority"));
    let (certificate, key) = authority.issue("localhost", &["localhost"]);
    let hba = |kind: &str, user: &str, method: &str| format!("{kind} all {user} 127.0.0.1/32 {method}");
    let postgres = Postgres::start(PostgresOptions {
        // The server's certificate file also verifies clients: it ends with the authority.
        certificate: Some((certificate + authority.certificate(), key)),
        settings: vec![("ssl_ca_file".into(), "server.crt".into())],
        hba: vec![
            hba("host", "scram", "scram-sha-256"),
            hba("host", "md5", "md5"),
            hba("host", "plain", "password"),
            hba("hostssl", "bearer", "cert"),
            hba("hostssl", "encrypted", "trust"),
            hba("hostnossl", "encrypted", "reject"),
        ],
        ..Default::default()
    })
    .await;
    let mut stage = Stage::on("tls", &postgres, shared_rabbitmq().await).await;
    stage
        .sql(&format!(
            "CREATE ROLE scram LOGIN SUPERUSER PASSWORD '{SECRET}-1'; CREATE ROLE plain LOGIN SUPERUSER PASSWORD '{SECRET}-2';
             SET password_encryption = md5; CREATE ROLE md5 LOGIN SUPERUSER PASSWORD '{SECRET}-3';
             CREATE ROLE bearer LOGIN SUPERUSER; CREATE ROLE encrypted LOGIN SUPERUSER"
        ))
        .await;
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (ca, other_ca) = (file("ca", authority.certificate()), file("other_ca", other.certificate()));
    let bearing = |name: &str, (certificate, key): (String, String)| {
        let [certificate, key] =
            [("crt", certificate), ("key", key)].map(|(kind, pem)| file(&format!("{name}.{kind}"), &pem));
        format!("sslmode=require&sslcert={certificate}&sslkey={key}")
    };
    let good_bearer = bearing("good", authority.issue("bearer", &[]));
    let alien_bearer = bearing("alien", other.issue("bearer", &[]));
    let misnamed_bearer = bearing("misnamed", authority.issue("somebody", &[]));

    let (port, dead, name) = (postgres.port(), dead_port(), stage.name.clone());
    let at =
        |user: &str, host: &str, options: &str| format!("postgresql://{user}@{host}:{port}/{name}?{options}");
    let ip = "127.0.0.1";
    let scram = format!("scram:{SECRET}-1");
    let (plain, md5) = (format!("plain:{SECRET}-2"), format!("md5:{SECRET}-3"));
    let good: Vec<(&str, String)> = vec![
        ("disable", at("postgres", ip, "sslmode=disable")),
        ("prefer", at("postgres", ip, "sslmode=prefer")),
        ("require", at("encrypted", ip, "sslmode=require")),
        ("prefers-tls", at("encrypted", ip, "")),
        ("verify-ca", at("postgres", ip, &format!("sslmode=verify-ca&sslrootcert={ca}"))),
        ("verify-full", at("encrypted", "localhost", &format!("sslmode=verify-full&sslrootcert={ca}"))),
        ("scram-clear", at(&scram, ip, "sslmode=disable")),
        ("scram-tls", at(&scram, ip, "sslmode=require")),
        (
            "scram-plus",
            at(&scram, "localhost", &format!("channel_binding=require&sslmode=verify-full&sslrootcert={ca}")),
        ),
        ("md5-named", at(&md5, ip, "sslmode=disable&require_auth=md5")),
        ("md5-tls", at(&md5, ip, &format!("sslmode=verify-ca&sslrootcert={ca}"))),
        ("plain-named", at(&plain, ip, "sslmode=require&require_auth=password")),
        ("plain-tls", at(&plain, "localhost", &format!("sslmode=verify-full&sslrootcert={ca}"))),
        ("bearer", at("bearer", ip, &good_bearer)),
        (
            "unix",
            format!(
                "postgresql:///{name}?user=postgres&port={port}&host={}",
                postgres.socket_dir().display()
            ),
        ),
        (
            "two-hosts",
            format!("postgresql://postgres@{ip}:{dead},{ip}:{port}/{name}?target_session_attrs=read-write"),
        ),
    ];
    let elsewhere = shared_postgres().await.url("postgres");
    let bad: Vec<(&str, String, &str)> = vec![
        (
            "other-ca",
            at("postgres", ip, &format!("sslmode=verify-ca&sslrootcert={other_ca}")),
            "UnknownIssuer",
        ),
        (
            "other-ca-full",
            at("postgres", "localhost", &format!("sslmode=verify-full&sslrootcert={other_ca}")),
            "UnknownIssuer",
        ),
        (
            "other-name",
            at("postgres", ip, &format!("sslmode=verify-full&sslrootcert={ca}")),
            "not valid for name",
        ),
        ("no-ca-file", at("postgres", ip, "sslmode=verify-full&sslrootcert=/no/such/ca"), "/no/such/ca"),
        ("no-tls-there", format!("{elsewhere}?sslmode=require"), "does not offer TLS"),
        ("tls-only", at("encrypted", ip, "sslmode=disable"), "pg_hba.conf rejects connection"),
        (
            "wrong-scram",
            at(&format!("scram:{SECRET}-0"), ip, "sslmode=disable"),
            "password authentication failed",
        ),
        (
            "wrong-md5",
            at(&format!("md5:{SECRET}-0"), ip, &format!("sslmode=verify-ca&sslrootcert={ca}")),
            "password authentication failed",
        ),
        ("no-password", at("scram", ip, "sslmode=require"), "none is configured"),
        (
            "plain-clear",
            at(&plain, ip, "sslmode=disable&require_auth=password"),
            "clear text over an unencrypted",
        ),
        ("plain-unverified", at(&plain, ip, "sslmode=require"), "whose certificate is not verified"),
        ("md5-clear", at(&md5, ip, "sslmode=disable"), "sslmode=verify-full"),
        ("md5-unverified", at(&md5, ip, "sslmode=prefer"), "sslmode=verify-full"),
        (
            "plus-clear",
            at(&scram, ip, "sslmode=disable&channel_binding=require"),
            "channel_binding=require, but",
        ),
        (
            "plus-md5",
            at(&md5, ip, "sslmode=require&channel_binding=require&require_auth=md5"),
            "channel_binding=require, but",
        ),
        ("no-bearer", at("bearer", ip, "sslmode=require"), "valid client certificate"),
        ("alien-bearer", at("bearer", ip, &alien_bearer), "TLS failed"),
        ("misnamed-bearer", at("bearer", ip, &misnamed_bearer), "certificate authentication failed"),
        ("all-dead", format!("postgresql://postgres@{ip}:{dead},{ip}:{dead}/{name}"), "refused"),
    ];
    let urls = good.iter().map(|(name, url)| (name, url)).chain(bad.iter().map(|(name, url, _)| (name, url)));
    for (name, url) in urls {
        stage.source += &format!(
            "[sources.{name}]\npostgres.url = \"{url}\"\npostgres.slot = \"{}\"\n",
            name.replace('-', "_")
        );
    }
    let mut inbox = stage.inbox(&["Order.events"]).await;
    let mut daemon = alive(&stage.config()).await;
    for (name, _) in &good {
        until_state(&daemon, name, "streaming").await;
    }
    // `localhost` may have an IPv6 address, too, without a listener.
    let more_addresses =
        ("localhost", 0).to_socket_addrs().unwrap().filter(|at| at.ip() != Ipv4Addr::LOCALHOST).count();
    for (name, url, expected) in &bad {
        let shown = until(&daemon, name, |shown| shown["last_error"].is_string()).await;
        let reason = shown["reason"].as_str().unwrap();
        println!("{name}: {reason}");
        // Errors of every address that was tried.
        let refused = match *name {
            "all-dead" => 2,
            _ if url.contains("@localhost") => more_addresses,
            _ => 0,
        };
        assert_eq!(reason.matches("Connection refused").count(), refused, "{name}: {reason}");
        let state = if *name == "all-dead" { "connecting" } else { "halted" };
        assert!(reason.contains(expected) && shown["state"] == state, "{name}: {shown:#}");
    }
    stage
        .sql("INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES ('Order', 'a', 'E', '1')")
        .await;
    let mut arrived = BTreeSet::new();
    for _ in 0..=good.len() {
        arrived.insert(text_header(&inbox.next().await, "outbox-source"));
    }
    let expected = good.iter().map(|(name, _)| (*name).to_owned()).chain(["orders".to_owned()]).collect();
    assert_eq!(arrived, expected);
    inbox.stays_empty().await;
    for shown in [daemon.log(), daemon.status().await.to_string(), daemon.metrics().await] {
        assert!(!shown.contains(SECRET), "{shown}");
    }
    assert!(daemon.sigterm(PATIENCE).await.success());
}

#[tokio::test]
async fn rabbitmq_connections_of_every_kind() {
    let (broker, _alone) = Broker::alone().await;
    let node = broker.node;
    let stage = Stage::on("amqps", shared_postgres().await, node).await;
    let folder = tempfile::tempdir().unwrap();
    let authority = broker.authority().await;
    let (certificate, key) = authority.issue("outboxd", &[]);
    let other = Authority::new("another authority");
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let ca = format!("tls_ca_file = \"{}\"\n", file("ca", authority.certificate()));
    let other_ca = format!("tls_ca_file = \"{}\"\n", file("other", other.certificate()));
    let identity = format!(
        "tls_cert_file = \"{}\"\ntls_key_file = \"{}\"\n",
        file("crt", &certificate),
        file("key", &key)
    );
    let at = |password: &str, host: &str| {
        let vhost = stage.amqp_url.rsplit_once('/').unwrap().1;
        format!("amqps://guest:{password}@{host}:{}/{vhost}", node.tls_port())
    };
    let dead = format!("amqp://guest:{SECRET}@127.0.0.1:{}", dead_port());
    let config = |urls: &[&str], more: &str| {
        let mine = format!("url = \"{}\"\n", stage.amqp_url);
        stage.config().replace(&mine, &format!("urls = {urls:?}\n{more}"))
    };
    let good = at("guest", "localhost");

    let mut inbox = stage.inbox(&["Order.events"]).await;
    for (round, config) in [
        config(&[&good], &format!("{ca}{identity}")),
        config(&[&dead, &good], &format!("{ca}{identity}")),
        config(&[&dead, &stage.amqp_url], ""),
    ]
    .iter()
    .enumerate()
    {
        let mut daemon = Daemon::start(config);
        daemon.wait_ready(PATIENCE).await;
        stage.sql(&format!("INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES ('Order', 'a', 'E', '{round}')")).await;
        assert_eq!(inbox.bodies(1).await, [round.to_string()]);
        assert!(daemon.sigterm(PATIENCE).await.success());
    }
    for (name, config, expected) in [
        ("another CA", config(&[&good], &format!("{other_ca}{identity}")), "UnknownIssuer"),
        (
            "another name",
            config(&[&at("guest", "127.0.0.1")], &format!("{ca}{identity}")),
            "not valid for name",
        ),
        ("no client certificate", config(&[&good], &ca), "requires a client certificate"),
        (
            "a wrong password",
            config(&[&at(SECRET, "localhost")], &format!("{ca}{identity}")),
            "refuses the login",
        ),
        ("nobody there", config(&[&dead, &dead], ""), "cannot be reached"),
    ] {
        let daemon = alive(&config).await;
        let shown = until(&daemon, "orders", |shown| shown["last_error"].is_string()).await;
        let reason = shown["reason"].as_str().unwrap();
        println!("{name}: {reason}");
        assert!(reason.contains(expected), "{name}: {shown:#}");
        let urls_tried = if name == "nobody there" { 2 } else { 1 };
        assert_eq!(reason.matches(expected).count(), urls_tried, "{name} says its cause again: {reason}");
        assert!(!daemon.log().contains(SECRET) && !shown.to_string().contains(SECRET), "{name}: {shown:#}");
    }
    inbox.stays_empty().await;
}
