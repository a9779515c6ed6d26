//! Upgrades and removals in states that last: an absent broker, a blocked one, a halted source, a wrong configuration, a stopped unit, several units, a
//! removal with rows that wait. dpkg never fails and never hangs, and no row is lost.

use std::{fs, time::Duration};

use testkit::Oracle;

use crate::machine::{Machine, Said};

const WAIT: Duration = Duration::from_secs(60);

/// `drain_timeout_s`, which is 30 by default, and time for dpkg on a busy machine.
const DPKG_LIMIT: Duration = Duration::from_secs(120);

fn in_time(said: &Said) {
    assert!(said.took < DPKG_LIMIT, "{:?}: {}", said.took, said.text);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and the package: make test-deb"]
async fn an_upgrade_loses_nothing_while_the_broker_is_away_or_blocks_or_a_source_is_halted() {
    let machine = Machine::start().await;
    let root = &machine.root;
    machine.set_up().await;

    // The broker is away, with rows that wait for it.
    let oracle = Oracle::default();
    let consuming = machine.consume(&oracle);
    machine.write_some(50, &oracle).await;
    machine.assert_delivered(&oracle, 0).await;
    drop(consuming);
    root.shell("systemctl stop rabbitmq-server").await;
    let oracle = Oracle::default();
    machine.write_some(200, &oracle).await;
    let said = machine.upgrade(1).await;
    in_time(&said);
    root.wait_for("outboxd", "ActiveState", "active", WAIT).await;
    let status = machine.until("outboxd status 2>&1", |said| said.contains("orders")).await;
    assert!(!status.contains("streaming"), "{status}");
    root.shell("systemctl start rabbitmq-server && rabbitmqctl --quiet await_startup").await;
    let consuming = machine.consume(&oracle);
    machine.until_streaming().await;
    machine.assert_delivered(&oracle, 0).await;
    drop(consuming);

    // The broker takes nothing: an alarm blocks the connection. apt waits for the drain.
    let oracle = Oracle::default();
    let consuming = machine.consume(&oracle);
    root.shell("rabbitmqctl --quiet set_vm_memory_high_watermark absolute 1MB").await;
    machine.write_some(200, &oracle).await;
    machine.until("outboxd status 2>&1", |said| said.contains("blocked")).await;
    let said = machine.upgrade(2).await;
    println!("the upgrade took {:?} while the broker blocked", said.took);
    in_time(&said);
    machine.until("outboxd status 2>&1", |said| said.contains("blocked")).await;
    root.shell("rabbitmqctl --quiet set_vm_memory_high_watermark absolute 1GB").await;
    machine.until_streaming().await;
    // What was in flight when the alarm came may come twice.
    machine.assert_delivered(&oracle, 4096).await;
    drop(consuming);

    // Halted by a message that no queue gets. The upgrade goes through, the new program halts at the same message, and goes on when the
    // cause is removed.
    let lost = "INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES ('Lost', '1', 'LostCreated', '{}')";
    root.shell(&format!("sudo -u postgres psql -q -d orders -c \"{lost}\"")).await;
    machine.until("outboxd status 2>&1", |said| said.contains("halted")).await;
    let oracle = Oracle::default();
    machine.write_some(50, &oracle).await;
    let said = machine.upgrade(3).await;
    in_time(&said);
    machine.until("outboxd status 2>&1", |said| said.contains("halted")).await;
    assert_eq!(machine.property("ActiveState").await, "active");
    let consuming = machine.consume(&oracle);
    let file = root.path("/etc/outboxd/outboxd.toml");
    let text = fs::read_to_string(&file).unwrap()
        + "\n[[subscriptions]]\nqueue = \"lost\"\nexchange = \"Lost.events\"\n";
    fs::write(&file, text).unwrap();
    root.shell("outboxd setup --print-rabbitmqctl | grep set_ | sh -e; systemctl restart outboxd").await;
    machine.until_streaming().await;
    // What was in flight when the source halted may come twice.
    machine.assert_delivered(&oracle, 4096).await;
    drop(consuming);
    machine.root.power_off().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and the package: make test-deb"]
async fn an_upgrade_keeps_what_the_administrator_has_done_to_the_units() {
    let machine = Machine::start().await;
    let root = &machine.root;
    machine.set_up().await;

    // Two units: the second one stands by for the first.
    root.shell(
        "set -e
         sed '1i [admin]\\nlisten = \"127.0.0.1:9465\"' /etc/outboxd/outboxd.toml >/etc/outboxd/second.toml
         systemctl enable --now outboxd@second",
    )
    .await;
    root.wait_for("outboxd@second", "ActiveState", "active", WAIT).await;
    machine
        .until("outboxd --config /etc/outboxd/second.toml status 2>&1", |said| said.contains("standby"))
        .await;
    let pids = || async {
        [root.property("outboxd", "MainPID").await, root.property("outboxd@second", "MainPID").await]
    };
    let before = pids().await;
    in_time(&machine.upgrade(1).await);
    let after = pids().await;
    assert!(
        before[0] != after[0] && before[1] != after[1] && !after.contains(&"0".to_owned()),
        "{before:?} {after:?}"
    );
    let oracle = Oracle::default();
    let consuming = machine.consume(&oracle);
    machine.write_some(50, &oracle).await;
    machine.assert_delivered(&oracle, 0).await;
    drop(consuming);

    // A stopped unit stays stopped, and a mode of the administrator's stays.
    root.shell(
        "systemctl stop outboxd outboxd@second; chmod 0700 /etc/outboxd/second.toml; chmod 0755 /etc/outboxd",
    )
    .await;
    let said = machine.upgrade(2).await;
    assert!(
        said.text.contains("outboxd is installed, and not running.")
            && said.text.contains("systemctl start outboxd"),
        "{}",
        said.text
    );
    for unit in ["outboxd", "outboxd@second"] {
        assert_eq!(root.property(unit, "ActiveState").await, "inactive");
        assert_eq!(root.property(unit, "UnitFileState").await, "enabled");
    }
    let modes = root.shell("stat -c %a /etc/outboxd /etc/outboxd/second.toml").await;
    assert_eq!(modes, "755\n700\n");

    // A wrong configuration: the upgrade succeeds, and says that the service did not start.
    root.shell("systemctl start outboxd; chmod 0750 /etc/outboxd; echo 'nonsense = 1' | cat - /etc/outboxd/outboxd.toml >/root/wrong").await;
    let right = fs::read(root.path("/etc/outboxd/outboxd.toml")).unwrap();
    root.shell("cat /root/wrong >/etc/outboxd/outboxd.toml").await;
    let said = machine.upgrade(3).await;
    in_time(&said);
    root.wait_for("outboxd", "ActiveState", "failed", WAIT).await;
    assert_eq!(machine.property("ExecMainStatus").await, "78");
    assert!(
        said.text.contains("a service does not run") && said.text.contains("systemctl status"),
        "{}",
        said.text
    );
    fs::write(root.path("/etc/outboxd/outboxd.toml"), right).unwrap();
    root.shell("systemctl start outboxd").await;
    machine.until_streaming().await;

    // Purged with both units enabled: no link of theirs stays.
    machine.packages("apt-get purge outboxd").await;
    let links = root.shell("find /etc/systemd /var/lib/systemd -name '*outboxd*'").await;
    assert_eq!(links, "");
    machine.root.power_off().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and the package: make test-deb"]
async fn a_removal_keeps_the_rows_that_wait_and_a_new_installation_publishes_them() {
    let machine = Machine::start().await;
    let root = &machine.root;
    machine.set_up().await;
    let oracle = Oracle::default();
    let consuming = machine.consume(&oracle);
    machine.write_some(50, &oracle).await;
    machine.assert_delivered(&oracle, 0).await;
    drop(consuming);

    // Removed while the broker is away: dpkg does not wait for it longer than for the drain.
    root.shell("systemctl stop rabbitmq-server").await;
    let oracle = Oracle::default();
    machine.write_some(200, &oracle).await;
    let said = machine.packages("apt-get remove outboxd").await;
    in_time(&said);
    for words in [
        "replication slot of each source stays",
        "outboxd teardown --source NAME",
        "pg_drop_replication_slot",
    ] {
        assert!(said.text.contains(words), "{words}: {}", said.text);
    }
    let slots = "sudo -u postgres psql -tA -c \"SELECT slot_name, active FROM pg_replication_slots\"";
    assert_eq!(root.shell(slots).await, "outboxd_orders|f\n");
    assert!(root.run("test -e /usr/bin/outboxd").await.status.code() == Some(1));
    root.shell("test -e /etc/outboxd/outboxd.toml").await;
    machine.write_some(50, &Oracle::default()).await;

    // Installed again: enabled as before, not started, and the rows are still there.
    let said = machine.upgrade(1).await;
    assert!(said.text.contains("sudo systemctl start outboxd"), "{}", said.text);
    assert_eq!(machine.property("UnitFileState").await, "enabled");
    root.shell(
        "systemctl start rabbitmq-server && rabbitmqctl --quiet await_startup && systemctl start outboxd",
    )
    .await;
    machine.until_streaming().await;
    let consuming = machine.consume(&oracle);
    let verdict = oracle.settle(Duration::from_secs(120), Duration::from_secs(2)).await;
    assert!(
        verdict.lost.is_empty() && verdict.out_of_order.is_empty() && verdict.duplicates == 0,
        "{verdict}"
    );
    drop(consuming);

    // Purged without a teardown: the text says what stays in PostgreSQL, and how it goes.
    let said = machine.packages("apt-get purge outboxd").await;
    assert!(
        said.text.contains("stay in PostgreSQL") && said.text.contains("/etc/outboxd is not empty"),
        "{}",
        said.text
    );
    root.shell("sudo -u postgres psql -q -d orders -c \"SELECT pg_drop_replication_slot('outboxd_orders')\"")
        .await;
    machine.root.power_off().await;
}
