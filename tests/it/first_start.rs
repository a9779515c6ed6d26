//! The log of a first start: one line each for what was created, declared, published and left out.

use crate::stage::{PATIENCE, Stage, eventually, until};

/// The line of the log that has `text`.
fn line<'a>(log: &'a str, text: &str) -> &'a str {
    log.lines().find(|line| line.contains(text)).unwrap_or_else(|| panic!("no line says {text}: {log}"))
}

#[tokio::test]
async fn the_first_log_names_what_was_created_declared_published_and_left_out() {
    let mut stage = Stage::shared("first_start").await;
    stage.sql("ALTER TABLE outbox ADD published_at timestamptz").await;
    let insert = "INSERT INTO outbox (aggregatetype, aggregateid, type, payload, published_at)
                  VALUES ('First', '1', 'E', '{}', ";
    stage.sql(&format!("{insert} now()); {insert} NULL)")).await;
    stage.source = "delivery.on_unroutable = 'drop'
        outbox.unpublished = 'published_at IS NULL'
        [[subscriptions]]
        queue = 'q.orders'
        exchange = 'Order.events'
        binding_keys = ['OrderCreated']\n"
        .to_owned();
    let mut daemon = stage.relay().await;
    until(&daemon, "orders", |shown| shown["published"] == 1).await;
    eventually("the watch over the queues tells of them", async || daemon.log().contains("are in place"))
        .await;

    let log = daemon.log();
    let file = daemon.config_file();
    let file = file.to_str().expect("the path is text");
    let version = env!("CARGO_PKG_VERSION");
    for (text, fields) in [
        (
            "outboxd starts",
            &[version, file, "sources=\"orders\"", &format!("127.0.0.1:{}", daemon.port())][..],
        ),
        ("created the publication", &["publication="]),
        ("created the table outboxd_state", &["schema="]),
        ("the queues of the subscriptions are in place", &["q.orders", "exchanges=\"Order.events\""]),
        ("declared the exchange of a row", &["source=\"orders\"", "exchange=\"First.events\""]),
        ("rows of the table are settled", &["confirmed=0", "dropped=1"]),
        ("created the slot; the rows before it are published", &["only=\"published_at IS NULL\""]),
    ] {
        let line = line(&log, text);
        for field in fields {
            assert!(line.contains(field), "{field} is missing: {line}");
        }
    }

    // A second start creates nothing, and says so by silence.
    assert!(daemon.sigterm(PATIENCE).await.success());
    let before = daemon.log().len();
    daemon.start_again();
    daemon.wait_ready(PATIENCE).await;
    let log = daemon.log();
    assert!(!log[before..].contains("created"), "{}", &log[before..]);
}
