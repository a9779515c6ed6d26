//! outboxd as a demo runs and shows it, and as a user who looks around finds it.

use super::{
    LIMIT, Outcome, ensure,
    files::{executable, keep, kept, kept_folder, short},
    screen::Screen,
};
use std::{path::PathBuf, process::ExitStatus, time::Instant};
use testkit::{Daemon, RabbitMq, http};

/// Returns the path of the configuration file, which is kept.
pub(crate) fn config_file() -> PathBuf {
    kept("outboxd.toml")
}

/// Returns the path of the log, which is kept.
pub(crate) fn log_file() -> PathBuf {
    kept("outboxd.log")
}

/// Keeps both files, from before the start.
pub(crate) fn keep_files(daemon: &Daemon) -> Outcome<()> {
    keep(&daemon.config_file(), "outboxd.toml")?;
    keep(&daemon.log_file(), "outboxd.log")
}

/// Returns the base address of the admin endpoints.
pub(crate) fn admin_url(daemon: &Daemon) -> String {
    format!("http://127.0.0.1:{}", daemon.port())
}

/// Returns the output of a command.
pub(crate) async fn answer(daemon: &Daemon, arguments: &[&str]) -> Outcome<String> {
    let output = daemon.command(arguments).await;
    ensure(output.status.success(), || {
        let said = String::from_utf8_lossy(&output.stderr);
        format!("`outboxd {}` ended with {}: {said}", arguments.join(" "), output.status)
    })?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Starts outboxd, and shows its address once it is ready.
pub(crate) async fn start(screen: Screen, daemon: &mut Daemon) -> Outcome<()> {
    let start = Instant::now();
    daemon.start_again();
    daemon.wait_ready(LIMIT).await;
    let took = start.elapsed().as_secs_f64();
    screen.fact("version", answer(daemon, &["--version"]).await?.trim());
    screen.fact("configuration", &short(&config_file()));
    screen.fact("log", &short(&log_file()));
    screen.fact("metrics", &format!("{}/metrics", admin_url(daemon)));
    let (status, body) = http::get(daemon.port(), "/readyz").await?;
    screen.fact("GET /readyz", &format!("{status}: {}, {took:.1} s after the start", body.trim()));
    Ok(())
}

/// Shows how to query outboxd and its broker from another terminal.
pub(crate) fn invite(screen: Screen, daemon: &Daemon, rabbitmq: &RabbitMq) {
    screen.fact("RabbitMQ", &format!("{}  user guest, password guest", rabbitmq.management_url()));
    screen.fact("outboxd", &format!("{}/metrics, /status and /readyz", admin_url(daemon)));
    let (program, config) = (short(&executable("outboxd")), short(&config_file()));
    screen.fact("status", &format!("{program} --config {config} status"));
    screen.fact("logs", &format!("tail -f {}/*.log", short(&kept_folder())));
}

/// Shows how a stopped program ended: with 0, unless a user who looked around may have killed it.
pub(crate) fn ended(
    screen: Screen,
    program: &str,
    status: ExitStatus,
    somebody_looked_around: bool,
) -> Outcome<()> {
    screen.fact(program, &format!("ended with {status}"));
    ensure(status.success() || somebody_looked_around, || {
        format!("{program} was asked to stop, and ended with {status} instead of 0")
    })
}
