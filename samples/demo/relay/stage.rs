//! Stage of the demo: two private nodes, and the daemon between them.

use super::show::{Outcome, daemon, nodes, screen::Screen};
use testkit::{Daemon, Postgres, RabbitMq};

const CONFIG: &str = include_str!("outboxd.toml");
/// Database of the order service.
const DATABASE: &str = "orders";

/// Running programs. Dropped in this order: the daemon ends before its nodes.
pub(crate) struct Stage {
    pub(crate) daemon: Daemon,
    pub(crate) postgres: Postgres,
    pub(crate) rabbitmq: RabbitMq,
}

impl Stage {
    /// Starts both nodes, and prepares the daemon without starting it.
    pub(crate) async fn set_up(screen: Screen) -> Outcome<Self> {
        let (postgres, rabbitmq) = nodes::start(screen, &["outboxd"], "demo-relay").await?;
        let url = postgres.create_database(DATABASE).await;
        let config = CONFIG.replace("{postgres}", &url).replace("{rabbitmq}", &rabbitmq.url("/"));
        let daemon = Daemon::prepare(&config);
        daemon::keep_files(&daemon)?;
        Ok(Self { daemon, postgres, rabbitmq })
    }

    /// Returns a connection to the service's database.
    pub(crate) async fn client(&self) -> tokio_postgres::Client {
        self.postgres.client(DATABASE).await
    }

    /// Returns the output of a command of the daemon.
    pub(crate) async fn outboxd(&self, arguments: &[&str]) -> Outcome<String> {
        daemon::answer(&self.daemon, arguments).await
    }

    /// Returns the `psql` command for a session.
    pub(crate) fn psql(&self) -> String {
        format!("psql -h 127.0.0.1 -p {} -U postgres {DATABASE}", self.postgres.port())
    }
}
