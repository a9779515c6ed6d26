//! Texts of rows and servers are shown escaped everywhere: none controls a terminal, begins a line or hides.

use diagnostics::legible::is_hidden;

use crate::{
    parked::PARK,
    stage::{Stage, say, until, until_alive, until_state},
};
use testkit::{Daemon, http};

/// A line like one of the log, control sequences of terminals, and characters that reorder or hide text.
const HOSTILE: &str = "x\nforged ERROR\r\u{1b}[2J\u{9b}31m\u{202e}\u{2066}\u{200b}\u{e0041}\u{7f}";

#[track_caller]
fn assert_legible(whose: &str, text: &str) {
    assert!(!text.contains(|c| is_hidden(c) && c != '\n'), "{whose}: {text:?}");
    assert!(!text.lines().any(|line| line.starts_with("forged")), "{whose}: {text}");
}

/// Checks every output of the daemon for people.
async fn assert_all_legible(daemon: &Daemon) {
    for path in ["/readyz", "/status", "/metrics"] {
        let (_, text) = http::get(daemon.port(), path).await.unwrap();
        assert_legible(path, &text);
    }
    for arguments in [
        &["status"][..],
        &["status", "--json"],
        &["check"],
        &["parked", "list", "--source", "orders"],
        &["parked", "list", "--source", "orders", "--json"],
        &["parked", "requeue", "--source", "orders", "--all"],
    ] {
        let said = daemon.command(arguments).await;
        for text in [said.stdout, said.stderr] {
            assert_legible(&arguments.join(" "), &String::from_utf8(text).unwrap());
        }
    }
    assert_legible("the log", &daemon.log());
}

#[tokio::test]
async fn what_a_row_or_a_server_says_acts_on_no_terminal_and_forges_no_line() {
    let mut stage = Stage::shared("legible").await;
    stage.sql("ALTER TABLE outbox ALTER id DROP DEFAULT, ALTER id TYPE text").await;
    stage.consume_only("OrderChanged").await;
    let client = stage.client().await;
    let insert = "INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload) VALUES ($1, 'Order', $2, $2, '1')";
    client.execute(insert, &[&format!("1{HOSTILE}"), &HOSTILE]).await.unwrap();
    let mut daemon = Daemon::start(&stage.config());
    until_alive(&daemon).await;
    let reason = until_state(&daemon, "orders", "halted").await;
    assert!(reason.contains(HOSTILE), "/status must have the unescaped text: {reason:?}");
    let ready = daemon.readyz().await.1;
    assert!(
        ready.contains(r"x\nforged ERROR\r\u{1b}[2J\u{9b}31m\u{202e}\u{2066}\u{200b}\u{e0041}\u{7f}"),
        "{ready}"
    );
    assert_eq!(ready.lines().count(), 1, "{ready}");
    assert_all_legible(&daemon).await;
    daemon.kill9().await;
    drop(daemon);

    stage.source = PARK.to_owned();
    let daemon = Daemon::start(&stage.config());
    until_alive(&daemon).await;
    until(&daemon, "orders", |shown| shown["parked_rows"] == 1).await;
    let reason: String = client.query_one("SELECT reason FROM outboxd_parked", &[]).await.unwrap().get(0);
    assert_legible("the table", &reason);
    let said = say(&daemon, &["parked", "list", "--source", "orders"]).await;
    assert_eq!(said.stdout.lines().count(), 2, "{}", said.stdout);
    assert_all_legible(&daemon).await;

    // The owner of the database controls the texts of its errors.
    let refuses = format!(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION USING MESSAGE = '{HOSTILE}'; END $$;
         CREATE TRIGGER refuse BEFORE INSERT ON outboxd_parked EXECUTE FUNCTION refuse()"
    );
    client.batch_execute(&refuses).await.unwrap();
    client.execute(insert, &[&format!("2{HOSTILE}"), &HOSTILE]).await.unwrap();
    let reason = until_state(&daemon, "orders", "halted").await;
    assert!(reason.contains("\u{1b}[2J"), "{reason:?}");
    assert_all_legible(&daemon).await;
}
