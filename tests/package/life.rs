//! The package's life by the steps of the pages: installed, filled in, started, upgraded under load, removed, purged.

use std::time::Duration;

use testkit::{Oracle, PageSteps, Workload};

use crate::machine::{Machine, successor_version};

const WAIT: Duration = Duration::from_secs(60);

/// Workload that lasts until it is stopped.
fn steady() -> Workload {
    Workload { transactions: usize::MAX, pause: Duration::from_millis(5), ..Workload::default() }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and the package: make test-deb"]
async fn a_package_lives_by_the_steps_of_the_pages_and_leaves_nothing() {
    let machine = Machine::start().await;
    let root = &machine.root;
    let before = machine.files().await;
    let install = PageSteps::below("docs/start/install.md", "Debian package");

    // Installed: neither enabled nor started, and said so.
    let said = machine.step(&install, 1).await;
    for line in [
        "outboxd is installed, and not running.",
        "Fill in /etc/outboxd/outboxd.toml",
        "sudo outboxd check",
        "sudo systemctl enable --now outboxd",
    ] {
        assert!(said.contains(line), "{said}");
    }
    assert_eq!(machine.property("ActiveState").await, "inactive");
    assert_eq!(machine.property("UnitFileState").await, "disabled");
    let modes =
        root.shell("stat -c '%a %U %G' /etc/outboxd /etc/outboxd/outboxd.toml; getent passwd outboxd").await;
    let [directory, file, user] = modes.lines().collect::<Vec<_>>()[..] else { panic!("{modes}") };
    assert_eq!((directory, file), ("750 root outboxd", "644 root root"));
    assert!(user.ends_with(":/nonexistent:/usr/sbin/nologin"), "{user}");
    for page in ["outboxd", "outboxd-check", "outboxd-parked-requeue", "outboxd.toml"] {
        root.shell(&format!("man {page} >/dev/null")).await;
    }
    let completed = root
        .shell(
            "bash -c '. /usr/share/bash-completion/bash_completion; _completion_loader outboxd; COMP_WORDS=(outboxd tear); COMP_CWORD=1; \
             _outboxd outboxd tear outboxd; echo $COMPREPLY'",
        )
        .await;
    assert_eq!(completed.trim(), "teardown");

    // `check` explains the configuration, and so does the journal. The unit does not start again and again.
    let check = root.run("outboxd check 2>&1").await;
    let explained = String::from_utf8_lossy(&check.stdout).into_owned();
    assert_eq!(check.status.code(), Some(78), "{explained}");
    assert!(
        explained.contains("rabbitmq.url: is missing") && explained.contains("add a section [sources.NAME]"),
        "{explained}"
    );
    root.run("systemctl start outboxd").await;
    root.wait_for("outboxd", "ActiveState", "failed", WAIT).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(machine.property("ExecMainStatus").await, "78");
    assert_eq!(machine.property("NRestarts").await, "0");
    assert!(root.journal("outboxd").await.contains("rabbitmq.url: is missing"));

    for number in 2..=5 {
        machine.step(&install, number).await;
    }
    machine.step(&install, 6).await;
    root.wait_for("outboxd", "ActiveState", "active", WAIT).await;
    machine.step(&install, 7).await;
    machine.until_streaming().await;

    // Upgraded while rows are written.
    let oracle = Oracle::default();
    let consuming = machine.consume(&oracle);
    let first = machine.property("MainPID").await;
    let upgrade = PageSteps::below("docs/operate/upgrade.md", "The Debian package");
    let upgrading = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        machine.step(&upgrade, 2).await;
        machine.step(&upgrade, 3).await;
        machine.until_streaming().await;
        tokio::time::sleep(Duration::from_secs(2)).await;
    };
    machine.write(&steady(), &oracle, upgrading).await;
    machine.assert_delivered(&oracle, 0).await;
    assert!(oracle.committed_count() > 50, "{}", oracle.committed_count());
    drop(consuming);
    let version = root.shell("dpkg-query --show --showformat='${Version} ${Status}' outboxd").await;
    assert_eq!(version, format!("{} install ok installed", successor_version(1)));
    assert_ne!(machine.property("MainPID").await, first);
    assert_eq!(machine.property("UnitFileState").await, "enabled");
    let journal = root.journal("outboxd").await;
    println!("messages paused for {:.2} s", pause(&journal));
    assert!(journal.contains("drained") && !journal.contains("code=killed"), "{journal}");
    let configuration = root.shell("cat /etc/outboxd/outboxd.toml").await;
    assert!(configuration.contains("billing.orders"), "{configuration}");

    // Removed by the page: the slot first.
    let removal = PageSteps::below("docs/start/install.md", "Remove the package");
    machine.step(&removal, 1).await;
    let said = machine.step(&removal, 2).await;
    assert!(said.contains("slot outboxd_orders: dropped"), "{said}");
    machine.step(&removal, 3).await;
    let slots = root.shell("sudo -u postgres psql -tA -c 'SELECT count(*) FROM pg_replication_slots'").await;
    assert_eq!(slots.trim(), "0");
    let after = machine.files().await;
    let left: Vec<_> = after.difference(&before).collect();
    // Written by the administrator in step 2 of the installation, as the page says.
    assert_eq!(left, ["/etc/outboxd", "/etc/outboxd/postgres-password", "/etc/outboxd/rabbitmq-password"]);
    assert_eq!(before.difference(&after).count(), 0);
    assert!(root.run("id outboxd").await.status.success(), "the page says that the user stays");
    let states = root
        .run("systemctl list-units --all 'outboxd*'; ls /etc/systemd/system/multi-user.target.wants")
        .await;
    assert!(!String::from_utf8_lossy(&states.stdout).contains("outboxd.service"));
    machine.root.shell("rm -r /etc/outboxd").await;
    machine.root.power_off().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root and the package: make test-deb"]
async fn a_package_takes_the_place_of_an_installation_by_hand() {
    let machine = Machine::start().await;
    let root = &machine.root;
    let version = env!("CARGO_PKG_VERSION");
    root.shell(&format!(
        "set -e
         dpkg-deb -x outboxd_{version}-1_amd64.deb unpacked
         install -m 0755 unpacked/usr/bin/outboxd /usr/bin/outboxd
         install -m 0644 unpacked/usr/lib/systemd/system/outboxd*.service /etc/systemd/system/
         install -d -m 0755 /etc/outboxd
         groupadd --system outboxd && useradd --system --gid outboxd --shell /usr/sbin/nologin outboxd
         systemctl daemon-reload"
    ))
    .await;
    let install = PageSteps::below("docs/start/install.md", "Debian package");
    for number in 2..=6 {
        machine.step(&install, number).await;
    }
    machine.until_streaming().await;
    let before = root.shell("cat /etc/outboxd/outboxd.toml").await;
    let first = machine.property("MainPID").await;

    let oracle = Oracle::default();
    let consuming = machine.consume(&oracle);
    let replacing = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let steps = PageSteps::below("docs/operate/upgrade.md", "From an installation by hand");
        machine.step(&steps, 1).await;
        assert_eq!(machine.property("MainPID").await, first, "the running process goes on");
        machine.step(&steps, 2).await;
        machine.step(&steps, 3).await;
        machine.until_streaming().await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    machine.write(&steady(), &oracle, replacing).await;
    machine.assert_delivered(&oracle, 0).await;
    drop(consuming);
    assert_eq!(root.shell("cat /etc/outboxd/outboxd.toml").await, before);
    assert_ne!(machine.property("MainPID").await, first);
    // Debian 12 calls /usr/lib by its link /lib here.
    let unit = machine.property("FragmentPath").await;
    assert!(unit.ends_with("/lib/systemd/system/outboxd.service"), "{unit}");
    assert_eq!(machine.property("UnitFileState").await, "enabled");
    machine.root.power_off().await;
}

/// Seconds from the beginning of the last drain to the first message of the next process.
fn pause(journal: &str) -> f64 {
    // The daemon's own time: 2026-11-29T00:38:14.188070Z
    let seconds = |line: &str| {
        let (_, time) = line.split_once('T')?;
        let (time, _) = time.split_once('Z')?;
        time.split(':').try_fold(0.0, |sum, part| Some(sum * 60.0 + part.parse::<f64>().ok()?))
    };
    let message =
        |line: &str| line.split_once("]: ").map(|(_, message)| message.to_owned()).unwrap_or_default();
    let lines: Vec<String> = journal.lines().map(message).collect();
    let drains = lines.iter().rposition(|line| line.contains("draining: ")).unwrap();
    let streams = lines.iter().rposition(|line| line.contains("to=streaming")).unwrap();
    assert!(drains < streams, "{journal}");
    seconds(&lines[streams]).unwrap() - seconds(&lines[drains]).unwrap()
}
