//! Signals of operators and their tools: none ends outboxd at once without draining and without a line in the log.

use std::{process::Output, time::Duration};

use crate::stage::{PATIENCE, Stage, alive, eventually, until_alive, until_state};
use testkit::{Daemon, Proxy, process, shared_postgres, shared_rabbitmq};

/// Name of each signal in the log, and for `kill`.
const IGNORED: [(&str, &str); 12] = [
    ("SIGHUP is ignored: this version does not reload its configuration; restart", "HUP"),
    ("SIGUSR1 is ignored", "USR1"),
    ("SIGUSR2 is ignored", "USR2"),
    ("SIGALRM is ignored", "ALRM"),
    ("SIGVTALRM is ignored", "VTALRM"),
    ("SIGPROF is ignored", "PROF"),
    ("SIGXCPU is ignored", "XCPU"),
    ("SIGXFSZ is ignored", "XFSZ"),
    ("SIGIO is ignored", "29"),
    ("SIGPWR is ignored", "30"),
    ("SIGSTKFLT is ignored", "16"),
    ("a real-time signal is ignored", "40"),
];

/// Sends all of them. Each is logged, and the daemon keeps running.
async fn survives_all(daemon: &mut Daemon) {
    for (line, name) in IGNORED {
        process::signal(&[daemon.pid()], name);
        eventually(&format!("the log has: {line}"), async || daemon.log().contains(line)).await;
    }
    assert_eq!(daemon.ended(), None, "{}", daemon.log());
}

/// Ends the daemon by SIGQUIT.
async fn quits(mut daemon: Daemon) {
    process::signal(&[daemon.pid()], "QUIT");
    assert!(daemon.wait(PATIENCE).await.success(), "{}", daemon.log());
    let log = daemon.log();
    assert!(log.contains("draining") && log.contains("SIGQUIT") && log.contains("drained"), "{log}");
}

#[tokio::test]
async fn streaming_or_standing_by_it_ignores_what_has_no_meaning_and_drains_on_sigquit() {
    let mut stage = Stage::shared("signals").await;
    stage.workload.transactions = 50;
    stage.consume().await;
    let mut leader = stage.relay_as_printed_role().await;
    let mut standby = alive(&stage.config()).await;
    until_state(&standby, "orders", "standby").await;
    survives_all(&mut leader).await;
    survives_all(&mut standby).await;
    stage.write().await;
    quits(leader).await;
    // A clean end repeats nothing.
    stage.verdict().await.assert_delivered(0);
    until_state(&standby, "orders", "streaming").await;
    quits(standby).await;
}

#[tokio::test]
async fn halted_it_ignores_what_has_no_meaning_and_ends_on_sigquit() {
    let mut stage = Stage::shared("signals_halted").await;
    stage.bind("OrderCreated").await;
    stage.write_unseen("1", "Nobody").await;
    let mut daemon = Daemon::start(&stage.config());
    until_alive(&daemon).await;
    until_state(&daemon, "orders", "halted").await;
    survives_all(&mut daemon).await;
    stage.consume_only("Nobody").await;
    until_state(&daemon, "orders", "streaming").await;
    quits(daemon).await;
}

/// Starts a command, sends SIGHUP while it waits, which it survives, then the other signal.
async fn interrupted(
    daemon: &Daemon,
    arguments: &[&str],
    last: &str,
    waits: impl AsyncFn() -> bool,
) -> (i32, String) {
    let command = daemon.begin_command(arguments);
    let pid = command.id().expect("it runs");
    eventually(&format!("{arguments:?} waits"), async || waits().await).await;
    process::signal(&[pid], "HUP");
    process::signal(&[pid], "USR1");
    tokio::time::sleep(Duration::from_millis(200)).await;
    process::signal(&[pid], last);
    let ended = tokio::time::timeout(PATIENCE, command.wait_with_output()).await;
    let Output { status, stderr, .. } = ended.expect("it ends").unwrap();
    (status.code().unwrap_or(-1), String::from_utf8(stderr).unwrap())
}

#[tokio::test]
async fn commands_outlive_their_terminal_and_say_which_signal_ended_them() {
    let stage = Stage::shared("signals_commands").await;
    let (looks, blocker) = (stage.client().await, stage.client().await);
    let waits_for_lock = async || {
        let waits = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' LIMIT 1";
        looks.query_opt(waits, &[]).await.unwrap().is_some()
    };
    let mute = Proxy::start(shared_postgres().await.port());
    mute.stall();
    let cut_off = Daemon::prepare(&stage.config_through_ports(mute.port(), shared_rabbitmq().await.port()));
    let asks = async || mute.accepted() > 0;
    let mut ended = vec![("check", "TERM", interrupted(&cut_off, &["check"], "TERM", asks).await)];

    let daemon = Daemon::prepare(&stage.config());
    // A slot is created only after every transaction with an id has ended.
    blocker.batch_execute("BEGIN; SELECT txid_current()").await.unwrap();
    ended.push(("setup", "INT", interrupted(&daemon, &["setup"], "INT", waits_for_lock).await));
    blocker.batch_execute("ROLLBACK").await.unwrap();

    stage.write_unseen("1", "OrderCreated").await;
    blocker.batch_execute("BEGIN; LOCK TABLE outbox IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let replay = interrupted(&daemon, &["replay", "--source", "orders"], "QUIT", waits_for_lock).await;
    ended.push(("replay", "QUIT", replay));
    for (command, last, (status, stderr)) in ended {
        assert_eq!(status, 1, "{command}: {stderr}");
        for line in ["SIGHUP is ignored", "SIGUSR1 is ignored", &format!("SIG{last}")] {
            assert!(stderr.contains(line), "{command}: no {line} in {stderr}");
        }
    }
}
