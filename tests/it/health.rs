//! `outboxd health`: the process is asked, not the servers and not the file that it was started with.

use std::fs;

use crate::stage::{PATIENCE, say, until_alive, until_state};
use testkit::{Daemon, ports::Port};

/// A source and a broker at ports where nobody listens.
fn without_servers() -> String {
    let [postgres, broker] = [Port::reserve(), Port::reserve()];
    format!(
        "[rabbitmq]\nurl = \"amqp://127.0.0.1:{}\"\n[sources.orders]\n\
         postgres.url = \"postgresql://outboxd@127.0.0.1:{}/orders\"\n",
        broker.number(),
        postgres.number()
    )
}

#[tokio::test]
async fn a_daemon_without_servers_is_alive_and_one_that_hangs_or_ended_is_not() {
    let mut daemon = Daemon::prepare(&without_servers());
    let said = say(&daemon, &["health"]).await;
    assert_eq!((said.status, said.stdout.as_str()), (1, ""));
    assert!(said.stderr.contains("no daemon answers"), "{}", said.stderr);

    daemon.start_again();
    until_alive(&daemon).await;
    until_state(&daemon, "orders", "connecting").await;
    assert_eq!(daemon.readyz().await.0, 503);
    let said = say(&daemon, &["health"]).await;
    assert_eq!((said.status, said.stderr.as_str()), (0, ""));
    assert_eq!(said.stdout, format!("the daemon at 127.0.0.1:{} is alive\n", daemon.port()));

    daemon.suspend();
    let said = say(&daemon, &["health"]).await;
    assert_eq!(said.status, 1);
    assert!(said.stderr.contains("did not answer within 5s"), "{}", said.stderr);
    daemon.resume();
    assert_eq!(say(&daemon, &["health"]).await.status, 0);

    daemon.sigterm(PATIENCE).await;
    assert_eq!(say(&daemon, &["health"]).await.status, 1);
}

#[tokio::test]
async fn a_file_edited_for_the_next_start_does_not_make_the_daemon_unhealthy() {
    let mut daemon = Daemon::start(&without_servers());
    until_alive(&daemon).await;
    let listen = format!("127.0.0.1:{}", daemon.port());
    let admin = format!("[admin]\nlisten = \"{listen}\"\n");
    for (file, status) in [
        // Problems of every other key.
        (format!("{admin}[rabbitmq]\nurl_file = \"/no/such/file\"\n"), 0),
        (format!("unknown = 1\n{admin}"), 0),
        // Without the address the daemon cannot be found.
        (format!("{admin}[rabbitmq\n"), 78),
        ("[admin]\nenabled = false\n".to_owned(), 78),
        ("[admin]\nlisten = \"here\"\n".to_owned(), 78),
    ] {
        fs::write(daemon.config_file(), &file).unwrap();
        let said = say(&daemon, &["health"]).await;
        assert_eq!(said.status, status, "{file}: {}", said.stderr);
    }
    // With the address in the environment no file is needed.
    fs::remove_file(daemon.config_file()).unwrap();
    assert_eq!(say(&daemon, &["health"]).await.status, 78);
    daemon.environment = vec![("OUTBOXD__ADMIN__LISTEN".to_owned(), listen)];
    assert_eq!(say(&daemon, &["health"]).await.status, 0);
}
