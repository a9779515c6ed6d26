//! A browser with one page: typing, clicking, reading, its console.

use std::time::{Duration, Instant};

use fantoccini::{
    Client, ClientBuilder, Locator,
    actions::{InputSource, KeyAction, KeyActions},
    key::Key,
    wd::WebDriverCompatibleCommand,
};
use hyper::Method;
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use url::{ParseError, Url};

use crate::driver::Driver;
use testkit::process;

/// Limit of a wait, long enough for a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A browser. Dropping it ends its processes.
pub(crate) struct Browser {
    client: Client,
    /// After the client, which speaks to it.
    driver: Driver,
}

/// A failed request that a scenario causes, in the words of the browser's console.
pub(crate) struct Expected {
    /// Path with its query; `*` stands for an id.
    pub(crate) path: &'static str,
    /// End of the entry: a status, or the network's error.
    pub(crate) failure: &'static str,
}

impl Browser {
    /// Starts a browser and opens a page of 1240 by 900 pixels in light colours.
    pub(crate) async fn open(url: &str) -> Self {
        let driver = Driver::start().await;
        let arguments = [
            "--headless=new".to_owned(),
            // Containers and root may not have a sandbox. The browser sees no other page than ours.
            "--no-sandbox".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--disable-gpu".to_owned(),
            "--disable-breakpad".to_owned(),
            "--disable-background-networking".to_owned(),
            "--disable-component-update".to_owned(),
            "--no-first-run".to_owned(),
            "--hide-scrollbars".to_owned(),
            // Nothing can be loaded from elsewhere.
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1".to_owned(),
            format!("--user-data-dir={}", driver.folder().join("profile").display()),
        ];
        let capabilities = json!({
            "browserName": "chrome",
            "goog:loggingPrefs": { "browser": "ALL" },
            "goog:chromeOptions": { "args": arguments },
        });
        let connected = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities.as_object().unwrap().clone())
            .connect(&driver.url())
            .await;
        let client = connected.unwrap_or_else(|error| {
            panic!("no browser: {error}; {}", process::tail(&driver.folder().join("log")))
        });
        let browser = Self { client, driver };
        browser.look(1240, 900, "light").await;
        browser.client.goto(url).await.unwrap();
        browser
    }

    /// Sets the size of the page, as a phone below 500 pixels, and the colours that its user prefers.
    pub(crate) async fn look(&self, width: u32, height: u32, colours: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": colours }]);
        self.devtools("Emulation.setEmulatedMedia", json!({ "features": features })).await;
        let is_phone = width < 500;
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": is_phone });
        self.devtools("Emulation.setDeviceMetricsOverride", size).await;
    }

    /// Sends a command of the DevTools protocol.
    async fn devtools(&self, command: &str, parameters: Value) -> Value {
        let body = json!({ "cmd": command, "params": parameters });
        self.issue("goog/cdp/execute", body).await
    }

    /// Runs a script and returns what it returns.
    pub(crate) async fn run(&self, script: &str) -> Value {
        self.client.execute(script, Vec::new()).await.unwrap_or_else(|error| panic!("{script}: {error}"))
    }

    /// Takes a picture of what the window shows, as PNG.
    pub(crate) async fn picture(&self) -> Vec<u8> {
        self.client.screenshot().await.unwrap()
    }

    /// Loads the page anew.
    pub(crate) async fn reload(&self) {
        self.client.refresh().await.unwrap();
    }

    /// Types into the field of this label, in place of what is there.
    pub(crate) async fn fill(&self, label: &str, text: &str) {
        let path = format!("//*[@id = //label[normalize-space() = '{label}']/@for]");
        let field = self.client.find(Locator::XPath(&path)).await.unwrap();
        field.clear().await.unwrap();
        field.send_keys(text).await.unwrap();
    }

    /// Chooses the entry of the list of this label.
    pub(crate) async fn choose(&self, label: &str, entry: &str) {
        let path = format!("//*[@id = //label[normalize-space() = '{label}']/@for]");
        let list = self.client.find(Locator::XPath(&path)).await.unwrap();
        list.select_by_label(entry).await.unwrap();
    }

    /// Clicks the first visible button of this name.
    pub(crate) async fn press(&self, name: &str) {
        let path = format!("//button[normalize-space() = '{name}' and not(@hidden)]");
        let button = self.client.find(Locator::XPath(&path)).await;
        button.unwrap_or_else(|error| panic!("button {name}: {error}")).click().await.unwrap();
    }

    /// Strikes a key, wherever the focus is.
    pub(crate) async fn strike(&self, key: Key) {
        let value = char::from(key);
        let actions = KeyActions::new("keyboard".to_owned())
            .then(KeyAction::Down { value })
            .then(KeyAction::Up { value });
        self.client.perform_actions(actions).await.unwrap();
    }

    /// Types a text, wherever the focus is.
    pub(crate) async fn type_text(&self, text: &str) {
        let actions = text.chars().fold(KeyActions::new("keyboard".to_owned()), |actions, value| {
            actions.then(KeyAction::Down { value }).then(KeyAction::Up { value })
        });
        self.client.perform_actions(actions).await.unwrap();
    }

    /// Waits until `look` returns a value. Fails after [`PATIENCE`] with the page's text.
    pub(crate) async fn eventually<T>(&self, what: &str, mut look: impl AsyncFnMut(&Self) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look(self).await {
                return found;
            }
            if Instant::now() > deadline {
                let text = self.run("return document.body.innerText").await;
                panic!("not in time: {what}; the page:\n{}", text.as_str().unwrap_or_default());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Ends the browser. Fails when the console has anything.
    pub(crate) async fn close(self) {
        self.close_expecting(&[]).await;
    }

    /// Ends the browser. Fails when the console has anything beside the failed requests that the scenario causes.
    pub(crate) async fn close_expecting(self, expected: &[Expected]) {
        let origin = self.run("return location.origin").await;
        let entries = self.issue("se/log", json!({ "type": "browser" })).await;
        let unexpected: Vec<String> = entries
            .as_array()
            .expect("a list of entries")
            .iter()
            .map(|entry| {
                format!("{} {}: {}", entry["level"], entry["source"], entry["message"].as_str().unwrap())
            })
            .filter(|entry| !expected.iter().any(|expected| expected.is(entry, origin.as_str().unwrap())))
            .collect();
        assert!(unexpected.is_empty(), "the browser's console:\n{}", unexpected.join("\n"));
        let processes = self.driver.group();
        assert!(processes.len() > 2, "chromedriver and a browser: {processes:?}");
        drop(self);
        let left: Vec<_> = processes.into_iter().filter(|&pid| process::is_running(pid)).collect();
        assert!(left.is_empty(), "processes of the browser are left: {left:?}");
    }

    async fn issue(&self, path: &'static str, body: Value) -> Value {
        let shown = format!("{path} {body}");
        let answer = self.client.issue_cmd(Extension { path, body }).await;
        answer.unwrap_or_else(|error| panic!("{shown}: {error}"))
    }
}

impl Expected {
    fn is(&self, entry: &str, origin: &str) -> bool {
        let Some(url) =
            entry.strip_prefix("\"SEVERE\" \"network\": ").and_then(|rest| rest.strip_prefix(origin))
        else {
            return false;
        };
        let Some(path) =
            url.strip_suffix(self.failure).and_then(|rest| rest.strip_suffix(" - Failed to load resource: "))
        else {
            return false;
        };
        match self.path.split_once('*') {
            None => path == self.path,
            Some((before, after)) => path
                .strip_prefix(before)
                .and_then(|rest| rest.strip_suffix(after))
                .is_some_and(|id| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit())),
        }
    }
}

/// Command of chromedriver that the WebDriver standard does not have.
#[derive(Debug)]
struct Extension {
    path: &'static str,
    body: Value,
}

impl WebDriverCompatibleCommand for Extension {
    fn endpoint(&self, base_url: &Url, session_id: Option<&str>) -> Result<Url, ParseError> {
        base_url.join(&format!("session/{}/{}", session_id.unwrap_or_default(), self.path))
    }

    fn method_and_body(&self, _: &Url) -> (Method, Option<String>) {
        (Method::POST, Some(self.body.to_string()))
    }
}

#[tokio::test]
#[ignore = "needs Chromium: make test-page"]
async fn a_browser_that_is_dropped_leaves_no_process_and_no_file() {
    let browser = Browser::open("about:blank").await;
    let (processes, folder) = (browser.driver.group(), browser.driver.folder().to_owned());
    assert!(processes.len() > 2 && folder.join("profile").exists(), "{processes:?}");
    drop(browser);
    let left: Vec<_> = processes.into_iter().filter(|&pid| process::is_running(pid)).collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(!folder.exists());
}
