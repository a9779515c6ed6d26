//! Private OpenSearch node with 512 MB of heap, on 127.0.0.1.

use crate::{http, instance::Instance, ports::Port, process};
use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use std::{
    ops::{Deref, DerefMut},
    time::{Duration, Instant},
};
use tokio::sync::OnceCell;

/// Limit for the start: seconds alone, much longer beside a compiler on few cores.
const START_LIMIT: Duration = Duration::from_secs(180);

/// Private node. It ends, and its data with it, when dropped or when this process ends.
#[derive(Debug)]
pub struct OpenSearch {
    instance: Instance,
    transport: Port,
}

/// Returns the node shared by all tests of this process. Each uses its own prefix of indices.
pub async fn shared_opensearch() -> &'static OpenSearch {
    static SHARED: OnceCell<OpenSearch> = OnceCell::const_new();
    SHARED.get_or_init(OpenSearch::start).await
}

impl OpenSearch {
    /// Starts a node and waits until it answers.
    pub async fn start() -> Self {
        let mut node = Self { instance: Instance::new("opensearch"), transport: Port::reserve() };
        node.start_again().await;
        node
    }

    /// URL with a prefix of indices.
    pub fn url(&self, prefix: &str) -> String {
        format!("http://127.0.0.1:{}/{prefix}", self.port())
    }

    /// Starts the node on the same ports and data.
    pub async fn start_again(&mut self) {
        let folder = super::built("opensearch");
        let class_path = format!("{0}/classes:{0}/lib/*", folder.display());
        let mut command = process::command("java");
        command
            .args(["-Xms512m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp"])
            .args([&class_path, "SingleNode"])
            .arg(self.folder())
            .args([self.port().to_string(), self.transport.number().to_string()]);
        let log = self.log_file();
        self.instance.launch(command, &log);
        let deadline = Instant::now() + START_LIMIT;
        let health = "/_cluster/health?wait_for_status=yellow&timeout=1s";
        loop {
            let answer = http::get(self.port(), health).await;
            if matches!(&answer, Ok((StatusCode::OK, _))) {
                return;
            }
            let ended = self.ended();
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "OpenSearch is not up: {answer:?} ({ended:?}); {}",
                process::tail(&log)
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Makes the node refuse every write and every new index, as when its disk is full, or allow them again.
    pub async fn refuse_writes(&self, is_refused: bool) {
        let block = if is_refused { json!(true) } else { Value::Null };
        let settings = json!({ "persistent": { "cluster.blocks.read_only_allow_delete": block } });
        self.ask(Method::PUT, "/_cluster/settings", settings).await;
    }

    /// Returns the JSON of a successful answer.
    pub async fn ask(&self, method: Method, path: &str, body: Value) -> Value {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let answer = http::request(method, self.port(), path, &[], body).await;
        let (status, text) = answer.unwrap_or_else(|error| panic!("OpenSearch {path}: {error}"));
        assert!(status.is_success(), "OpenSearch {path}: {status} {text}");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("OpenSearch {path}: {error} in {text}"))
    }
}

impl Deref for OpenSearch {
    type Target = Instance;

    fn deref(&self) -> &Instance {
        &self.instance
    }
}

impl DerefMut for OpenSearch {
    fn deref_mut(&mut self) -> &mut Instance {
        &mut self.instance
    }
}
