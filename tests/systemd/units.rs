//! The units: user, restarts, exit status, hardening.

use crate::host::{BY_SOCKET, Host};

#[tokio::test]
#[ignore = "needs root and a booted Debian: make test-systemd"]
async fn a_killed_process_is_restarted_and_a_bad_configuration_is_not() {
    let host = Host::configured(BY_SOCKET).await;
    let shell = async |script: &str| host.root.shell(script).await;
    // Nothing to warn of in either unit.
    let said = shell("systemd-analyze verify /etc/systemd/system/outboxd.service /etc/systemd/system/outboxd@.service 2>&1").await;
    assert_eq!(said.trim(), "");
    shell("systemctl enable --now outboxd").await;
    host.until_status("outboxd", "orders: streaming").await;
    for kill in 1..=3 {
        shell("systemctl kill --signal=KILL outboxd").await;
        host.until_restarts("outboxd", kill).await;
        host.until_status("outboxd", "orders: streaming").await;
    }
    host.write("/etc/outboxd/outboxd.toml", &BY_SOCKET.replace("backoff_max_ms", "backof_max_ms"), 0o644);
    assert!(!host.root.run("systemctl restart outboxd").await.status.success());
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    assert_eq!(host.root.property("outboxd", "ActiveState").await, "failed");
    assert_eq!(host.root.property("outboxd", "ExecMainStatus").await, "78");
    let journal = host.root.journal("outboxd").await;
    assert!(journal.contains("backoff_max_ms"), "the problem is named: {journal}");
    host.write("/etc/outboxd/outboxd.toml", BY_SOCKET, 0o644);
    shell("systemctl start outboxd").await;
    host.until_status("outboxd", "orders: streaming").await;
}

/// A user of this name exists on the host, as PostgreSQL must be able to look its name up.
#[tokio::test]
#[ignore = "needs root and a booted Debian: make test-systemd"]
async fn the_socket_and_the_users_name_are_enough_for_both_units() {
    let host = Host::configured(BY_SOCKET).await;
    let shell = async |script: &str| host.root.shell(script).await;
    host.bind("orders").await;
    shell("mv /etc/outboxd/outboxd.toml /etc/outboxd/orders.toml").await;
    shell("systemctl start outboxd@orders").await;
    host.until_status("outboxd@orders", "orders: streaming").await;
    host.insert(10).await;
    let user = shell("ps -o user= -p $(systemctl show --value --property=MainPID outboxd@orders)").await;
    assert_eq!(user.trim(), "outboxd");
    let login = host.sql("SELECT DISTINCT usename, client_addr IS NULL FROM pg_stat_activity WHERE application_name LIKE 'outboxd%'").await;
    assert_eq!(login, "outboxd|t", "over the socket");
    // The rest of the host is out of reach, and nothing was written there.
    let process = host.root.property("outboxd@orders", "MainPID").await;
    let seen = shell(&format!("nsenter --target {process} --mount touch /etc/outboxd/x 2>&1 || true")).await;
    assert!(seen.contains("Read-only file system"), "{seen}");
}

#[tokio::test]
#[ignore = "needs root and a booted Debian: make test-systemd"]
async fn a_user_for_the_time_of_the_service_logs_in_by_password() {
    let host = Host::configured(BY_SOCKET).await;
    let shell = async |script: &str| host.root.shell(script).await;
    host.sql("ALTER ROLE outboxd PASSWORD 'one'").await;
    shell("userdel outboxd").await;
    host.write(
        "/etc/outboxd/outboxd.toml",
        &BY_SOCKET.replace("outboxd@/orders?host=/run/postgresql", "outboxd:one@127.0.0.1/orders"),
        0o644,
    );
    shell("systemctl start outboxd").await;
    host.until_status("outboxd", "orders: streaming").await;
    let ids = shell("grep ^Uid: /proc/$(systemctl show --value --property=MainPID outboxd)/status").await;
    let user: u32 = ids.split_whitespace().nth(1).and_then(|id| id.parse().ok()).expect("a user");
    // The range of systemd.exec(5).
    assert!((61184..=65519).contains(&user), "{ids}");
}

#[tokio::test]
#[ignore = "needs root and a booted Debian: make test-systemd"]
async fn the_exposure_is_at_most_what_the_page_says() {
    let host = Host::configured(BY_SOCKET).await;
    for unit in ["outboxd.service", "outboxd@orders.service"] {
        let table = host.root.shell(&format!("systemd-analyze security --no-pager {unit}")).await;
        let verdict = table.lines().find(|line| line.contains("Overall exposure level")).unwrap_or_default();
        println!("{verdict}");
        let level: f64 =
            verdict.split(": ").nth(1).and_then(|text| text.split(' ').next()?.parse().ok()).unwrap();
        assert!(level <= 1.2, "{table}");
    }
}
