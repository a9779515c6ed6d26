//! Private FerretDB node: MongoDB's protocol over SQLite files, on 127.0.0.1.

use crate::{instance::Instance, process};
use std::{
    net::{Ipv4Addr, TcpStream},
    ops::{Deref, DerefMut},
    time::{Duration, Instant},
};
use tokio::sync::OnceCell;

const START_LIMIT: Duration = Duration::from_secs(60);
/// Option with which the node refuses every write.
const READ_ONLY: &str = "?_pragma=query_only(1)";

/// Private node. It ends, and its data with it, when dropped or when this process ends.
#[derive(Debug)]
pub struct FerretDb {
    instance: Instance,
}

/// Returns the node shared by all tests of this process. Each uses its own database.
pub async fn shared_ferretdb() -> &'static FerretDb {
    static SHARED: OnceCell<FerretDb> = OnceCell::const_new();
    SHARED.get_or_init(FerretDb::start).await
}

impl FerretDb {
    /// Starts a node and waits until it accepts connections.
    pub async fn start() -> Self {
        let mut node = Self { instance: Instance::new("ferretdb") };
        node.start_again().await;
        node
    }

    /// URL of a database.
    pub fn url(&self, database: &str) -> String {
        format!("mongodb://127.0.0.1:{}/{database}", self.port())
    }

    /// Starts the node on the same port and data.
    pub async fn start_again(&mut self) {
        self.launch_with("").await;
    }

    /// As [`start_again`](Self::start_again), but the node refuses every write.
    pub async fn start_again_read_only(&mut self) {
        self.launch_with(READ_ONLY).await;
    }

    async fn launch_with(&mut self, options: &str) {
        let mut command = process::command(super::built("ferretdb"));
        command.arg(format!("127.0.0.1:{}", self.port())).arg(format!("file:./{options}"));
        let log = self.log_file();
        self.instance.launch(command, &log);
        let deadline = Instant::now() + START_LIMIT;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.port())).is_err() {
            let ended = self.ended();
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "FerretDB is not up ({ended:?}); {}",
                process::tail(&log)
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Deref for FerretDb {
    type Target = Instance;

    fn deref(&self) -> &Instance {
        &self.instance
    }
}

impl DerefMut for FerretDb {
    fn deref_mut(&mut self) -> &mut Instance {
        &mut self.instance
    }
}
