//! The booted root itself.

use testkit::BootedRoot;

#[tokio::test]
#[ignore = "needs root and a booted Debian: make test-systemd"]
async fn a_booted_root_runs_both_servers_and_powers_off() {
    let root = BootedRoot::start().await;
    let said = root.shell("sudo -u postgres psql --tuples-only --no-align --command 'SELECT 6 * 7'").await;
    assert_eq!(said.trim(), "42");
    root.wait_for("rabbitmq-server", "ActiveState", "active", std::time::Duration::from_secs(60)).await;
    assert!(root.journal("postgresql@15-main").await.contains("Started"));

    // Through the forwarded port: the server answers, and refuses this login.
    let port = root.forward(5432).await;
    let url = format!("postgresql://nobody:wrong@127.0.0.1:{port}/postgres");
    let refused = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.map(|_| ()).unwrap_err();
    let refused = refused.as_db_error().expect("an answer of the server").message();
    assert!(refused.contains("password authentication failed"), "{refused}");

    // The copy is changed, and its original is not.
    std::fs::write(root.path("/etc/written-by-a-test"), "here\n").unwrap();
    assert_eq!(root.shell("cat /etc/written-by-a-test").await, "here\n");
    root.power_off().await;
    let other = BootedRoot::start().await;
    assert!(!other.run("test -e /etc/written-by-a-test").await.status.success());
}
