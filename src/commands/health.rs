//! `outboxd health`: tells a container's runtime whether the daemon beside it is alive.
//!
//! Asks `/healthz` and nothing else. A server that is away, a blocked broker or a halted source is no reason to restart a process,
//! and `/readyz` and the metrics show those. Of the configuration only `admin` is read: a file that was edited for the next start
//! says nothing about the process that runs.

use super::{Failure, answer, ask::ask};
use process::loopback::reachable;
use std::net::SocketAddr;

pub(super) async fn run(listen: Option<SocketAddr>) -> Result<(), Failure> {
    let Some(listen) = listen else {
        return Err(Failure::Configuration(
            "admin.enabled is false, so nobody can ask whether the daemon is alive; set it to true, or remove the health check"
                .to_owned(),
        ));
    };
    let address = reachable(listen);
    ask(address, "/healthz").await.map_err(|error| Failure::runtime(&error))?;
    answer(&format!("the daemon at {address} is alive\n"))
}
