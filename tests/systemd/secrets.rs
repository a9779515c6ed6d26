//! Secrets: credentials, files that rotate, and the page that sets them up.

use std::time::Duration;

use testkit::PageSteps;

use crate::host::{BY_SOCKET, Host, PATIENCE};

/// Time in which a source that could connect again would have done so.
const WHILE: Duration = Duration::from_secs(10);

#[tokio::test]
#[ignore = "needs root and a booted Debian: make test-systemd"]
async fn a_rotated_file_counts_at_the_next_connection_and_a_credential_at_the_next_start() {
    let host = Host::configured(BY_SOCKET).await;
    let shell = async |script: &str| host.root.shell(script).await;
    let configuration = "
        [rabbitmq]
        url = \"amqp://outboxd@127.0.0.1:5672/%2f\"
        password_file = \"credential:rabbitmq-password\"
        [sources.orders]
        postgres.url = \"postgresql://outboxd@127.0.0.1/orders\"
        postgres.password_file = \"/etc/outboxd/orders-password\"
        delivery.backoff_max_ms = 500
    ";
    host.write("/etc/outboxd/outboxd.toml", configuration, 0o644);
    host.write("/etc/outboxd/secrets/rabbitmq-password", "rabbit one\n", 0o400);
    host.drop_in(
        "outboxd.service",
        "LoadCredential=rabbitmq-password:/etc/outboxd/secrets/rabbitmq-password",
    )
    .await;
    let write_password = async |password: &str| {
        // The user of the service reads it by its group. A rename replaces it in one step.
        let new = "/etc/outboxd/orders-password.new";
        host.write(new, password, 0o640);
        shell(&format!("chgrp outboxd {new}; mv {new} /etc/outboxd/orders-password")).await;
        host.sql(&format!("ALTER ROLE outboxd PASSWORD '{password}'")).await;
    };
    write_password("one").await;
    shell(
        "rabbitmqctl -q add_user outboxd 'rabbit one'; rabbitmqctl -q set_permissions outboxd '.*' '.*' '.*'",
    )
    .await;
    shell("systemctl start outboxd").await;
    host.until_status("outboxd", "orders: streaming").await;
    // Only the service and root reach the copy.
    let copy = "/run/credentials/outboxd.service/rabbitmq-password";
    assert_eq!(shell(&format!("cat {copy}")).await, "rabbit one\n");
    assert!(!host.root.run(&format!("sudo -u postgres cat {copy}")).await.status.success());

    // The file: every connection is ended, and the next one knows the new password.
    write_password("two").await;
    host.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'outboxd'").await;
    host.bind("orders").await;
    host.insert(1).await;
    host.until_status("outboxd", "orders: streaming").await;

    // The credential: the service goes on with the old password until it is started again.
    host.write("/etc/outboxd/secrets/rabbitmq-password", "rabbit two\n", 0o400);
    shell("rabbitmqctl -q change_password outboxd 'rabbit two'; rabbitmqctl -q close_all_connections test")
        .await;
    let refused = host.until_status("outboxd", "refuses the login of user 'outboxd'").await;
    assert!(!refused.contains("rabbit one"), "{refused}");
    tokio::time::sleep(WHILE).await;
    assert_eq!(host.status("outboxd").await, refused);
    assert_eq!(shell(&format!("cat {copy}")).await, "rabbit one\n");
    shell("systemctl restart outboxd").await;
    host.until_status("outboxd", "orders: streaming").await;
    let all = host.root.journal("outboxd").await + &shell("systemctl show outboxd").await;
    assert!(!all.contains("rabbit one") && !all.contains("rabbit two"), "{all}");
}

#[tokio::test]
#[ignore = "needs root and a booted Debian: make test-systemd"]
async fn a_credential_that_nobody_loads_is_explained() {
    let host = Host::start().await;
    let configuration = "
        [rabbitmq]
        url = \"amqp://guest:guest@127.0.0.1:5672/%2f\"
        [sources.orders]
        postgres.url = \"postgresql://outboxd@127.0.0.1/orders\"
        postgres.password_file = \"credential:orders-password\"
    ";
    host.write("/etc/outboxd/outboxd.toml", configuration, 0o644);
    let said = host.root.run("outboxd check").await;
    assert_eq!(said.status.code(), Some(78));
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    for part in [
        "credential:orders-password",
        "CREDENTIALS_DIRECTORY=/etc/outboxd/secrets",
        "LoadCredential=orders-password:/etc/outboxd/secrets/orders-password",
    ] {
        assert!(said.contains(part), "{said}");
    }
    // The unit without the line ends for good, and says the same.
    assert!(!host.root.run("systemctl start outboxd").await.status.success());
    assert_eq!(host.root.property("outboxd", "ExecMainStatus").await, "78");
    assert!(host.root.journal("outboxd").await.contains("LoadCredential=orders-password"));
    // By hand, with the folder of the original files.
    host.write("/etc/outboxd/secrets/orders-password", "one", 0o400);
    let said = host.root.run("CREDENTIALS_DIRECTORY=/etc/outboxd/secrets outboxd check --offline").await;
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
}

#[tokio::test]
#[ignore = "needs root and a booted Debian: make test-systemd"]
async fn the_page_sets_up_a_service_with_secrets_and_rotates_one() {
    let host = Host::start().await;
    // What the page begins with: the program, its unit and the table.
    for section in ["Set up", "Change a password"] {
        for step in PageSteps::below("docs/operate/systemd-secret.md", section).iter() {
            host.follow(step).await;
        }
    }
    host.root.wait_for("outboxd", "ActiveState", "active", PATIENCE).await;
    assert_eq!(host.restarts("outboxd").await, 0);
    let logins = host.sql("SELECT count(*) > 0 FROM pg_stat_activity WHERE usename = 'outboxd'").await;
    assert_eq!(logins, "t");
}
