//! Procedures of the book, run as they stand there: [`PageSteps`] reads the numbered steps, [`PageShell`] runs their blocks.
//!
//! What a test replaces is an address, a path, or the way to stop a service of the machine.

use std::{fs, time::Duration};

use testkit::{
    Daemon, PageShell, PageSteps, Postgres, PostgresOptions, ports::Port, programs, shared_rabbitmq,
};

use crate::stage::{PATIENCE, Stage};

/// Messages that arrive between two events.
const FLOW: usize = 100;

/// A shell with outboxd, and with psql for the stage's database.
fn shell(stage: &Stage, name: &str) -> PageShell {
    let port = stage.postgres_url.rsplit(':').next().and_then(|rest| rest.split('/').next()).unwrap();
    PageShell::new(name)
        .program("outboxd", &programs::executable("outboxd"))
        .variable("PGHOST", "127.0.0.1")
        .variable("PGPORT", port)
        .variable("PGUSER", "postgres")
        .variable("PGDATABASE", &stage.name)
}

/// The page's ports are those of a machine with outboxd; here they are free ones.
fn on_ports(steps: PageSteps, ports: &[(&str, &Port)]) -> PageSteps {
    ports.iter().fold(steps, |steps, (page, port)| steps.replacing(page, &port.number().to_string()))
}

#[tokio::test]
async fn two_instances_run_as_the_page_says() {
    let mut stage = Stage::flowing("page_two").await;
    stage.consume().await;
    let config = stage.run_printed_sql().await;
    let shell = shell(&stage, "page-standby");
    fs::write(shell.folder().join("outboxd.toml"), config).unwrap();
    let (first, second) = (Port::reserve(), Port::reserve());
    let steps = PageSteps::below("docs/operate/standby.md", "Do this: run two instances");
    let steps = on_ports(steps, &[("9464", &first), ("9465", &second)]);
    let mut writing = None;
    for step in steps.iter().filter(|step| !step.words.starts_with("Alert when")) {
        shell.run(step).await;
        if step.number == 4 {
            writing = Some(stage.keep_writing());
            stage.receive_more(FLOW).await;
        }
    }
    stage.receive_more(FLOW).await;
    writing.unwrap().stop().await;
    assert!(stage.verdict().await.keeps_promises());
}

#[tokio::test]
async fn an_upgrade_goes_as_the_page_says() {
    let mut stage = Stage::flowing("page_upgrade").await;
    stage.consume().await;
    // The service of the machine.
    let mut service = Daemon::start(&stage.run_printed_sql().await);
    service.wait_ready(PATIENCE).await;
    let shell = shell(&stage, "page-upgrade");
    let usual = service.config_file().display().to_string();
    let folder = shell.folder().display().to_string();
    fs::copy(programs::executable("outboxd"), shell.folder().join("outboxd-new")).unwrap();
    let new = Port::reserve();
    let steps = PageSteps::below("docs/operate/upgrade.md", "outboxd without a gap");
    let steps = on_ports(steps, &[("9465", &new)])
        .replacing("/etc/outboxd/outboxd.toml", &usual)
        .replacing("sudo systemctl stop outboxd", &format!("kill -TERM {}", service.pid()))
        .replacing("sudo install -m 0755 outboxd-new /usr/bin/outboxd", "install -m 0755 outboxd-new outboxd")
        .replacing(
            "sudo systemctl start outboxd",
            &format!("env -u OUTBOXD__ADMIN__LISTEN {folder}/outboxd --config {usual} run 2>> service.log &"),
        );
    let writing = stage.keep_writing();
    for step in steps.iter().filter(|step| !step.words.starts_with("Read `CHANGELOG.md`")) {
        stage.receive_more(FLOW).await;
        shell.run(step).await;
        if step.number == 5 {
            assert!(service.wait(PATIENCE).await.success(), "{}", service.log());
        }
    }
    stage.receive_more(FLOW).await;
    writing.stop().await;
    stage.verdict().await.assert_delivered(0);
}

#[tokio::test]
async fn a_load_is_measured_and_wal_is_limited_as_the_page_says() {
    // A server of its own, because the last steps change its settings.
    let postgres = Postgres::start(PostgresOptions::default()).await;
    let mut stage = Stage::on("page_sizing", &postgres, shared_rabbitmq().await).await;
    stage.workload.pause = Duration::from_millis(5);
    stage.consume().await;
    let mut daemon = Daemon::start(&stage.run_printed_sql().await);
    daemon.wait_ready(PATIENCE).await;
    let writing = stage.keep_writing();
    stage.receive_more(FLOW).await;
    let shell = shell(&stage, "page-sizing");

    let steps = PageSteps::below("docs/operate/sizing.md", "Measure your own load");
    let steps = steps
        .replacing("127.0.0.1:9464", &format!("127.0.0.1:{}", daemon.port()))
        .replacing("$(pidof outboxd)", &daemon.pid().to_string())
        .replacing("pg_sleep(600)", "pg_sleep(3)")
        .replacing("/ 600", "/ 3");
    let mut said = Vec::new();
    for step in steps.iter().filter(|step| step.number < 6) {
        said.push(shell.run(step).await);
    }
    writing.stop().await;
    // The figures are those of this load: none of them is nothing.
    let cell = |output: &str, column: usize| {
        let row = output.lines().nth(2).unwrap_or_else(|| panic!("{output}"));
        row.split('|').nth(column).unwrap_or_default().trim().to_owned()
    };
    assert!(cell(&said[0], 0).parse::<f64>().unwrap() > 0.0, "{}", said[0]);
    assert!(cell(&said[0], 1).parse::<u64>().unwrap() > 50, "{}", said[0]);
    let wal =
        said[1].lines().find(|line| line.contains("bytes") || line.contains("kB") || line.contains("MB"));
    assert!(wal.is_some_and(|wal| !wal.trim().starts_with("0 ")), "{}", said[1]);
    assert_eq!(cell(&said[4], 0), "1", "{}", said[4]);

    let steps = PageSteps::below("docs/operate/sizing.md", "WAL: how long an outage may last");
    let steps = steps.replacing("outboxd_orders", &stage.slot());
    for step in steps.iter().filter(|step| step.number < 4) {
        let said = shell.run(step).await;
        // What the page computes is what it sets.
        if step.number == 1 {
            assert!(said.contains("63 GB"), "{said}");
        }
    }
    stage.verdict().await.assert_delivered(0);
}
