//! A companion service as a process, run from the environment alone.

use super::{
    http,
    ports::Port,
    process::{self, Process},
    programs, run,
};
use hyper::{Method, Response};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    process::{ExitStatus, Output},
    time::{Duration, Instant},
};

/// One instance at a time, with its port and log. Killed when dropped.
#[derive(Debug)]
pub struct Service {
    program: &'static str,
    folder: PathBuf,
    port: Port,
    environment: Vec<(&'static str, String)>,
    arguments: Vec<String>,
    /// Files that it may have open; `None`: as many as the test.
    open_files: Option<u32>,
    process: Option<Process>,
}

impl Service {
    /// Starts `program` with this database and broker, and waits until it answers.
    pub async fn start(program: &'static str, database_url: &str, amqp_url: &str) -> Self {
        let mut service = Self::prepare(program, database_url, amqp_url);
        service.start_again();
        service.wait_ready(Duration::from_secs(60)).await;
        service
    }

    /// As [`start`](Self::start), without starting it.
    pub fn prepare(program: &'static str, database_url: &str, amqp_url: &str) -> Self {
        let mut service = Self::with_arguments(program, &[]);
        let urls = [("DATABASE_URL", database_url.to_owned()), ("AMQP_URL", amqp_url.to_owned())];
        service.environment.extend(urls);
        service
    }

    /// With these arguments, and an environment that says where to listen and nothing else. Does not start it.
    pub fn with_arguments(program: &'static str, arguments: &[&str]) -> Self {
        let port = Port::reserve();
        Self {
            program,
            folder: run::folder(program),
            environment: vec![("LISTEN", format!("127.0.0.1:{}", port.number()))],
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
            port,
            open_files: None,
            process: None,
        }
    }

    /// With one more variable of its environment.
    #[must_use]
    pub fn with(mut self, variable: &'static str, value: &str) -> Self {
        self.environment.push((variable, value.to_owned()));
        self
    }

    /// From its next start on it may have so many files open.
    pub fn limit_open_files(&mut self, files: u32) {
        self.open_files = Some(files);
    }

    /// Starts it again after an end. Does not wait for it.
    pub fn start_again(&mut self) {
        self.start_again_logging_to(&self.log_file());
    }

    /// As [`start_again`](Self::start_again), with its output going elsewhere.
    pub fn start_again_logging_to(&mut self, log: &Path) {
        assert!(self.process.is_none(), "{} has not been stopped", self.program);
        let executable = programs::executable(self.program);
        let mut command = match self.open_files {
            Some(files) => {
                let mut command = process::command("prlimit");
                command.arg(format!("--nofile={files}:{files}")).arg(executable);
                command
            }
            None => process::command(executable),
        };
        command
            .args(["--log-format", "json"])
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        self.process = Some(Process::spawn(command, &self.folder, log));
    }

    /// Runs another command of the same environment to its end: `&["rebuild"]`.
    pub async fn command(&self, arguments: &[&str]) -> Output {
        let mut command = tokio::process::Command::new(programs::executable(self.program));
        command
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .args(arguments)
            .current_dir(&self.folder)
            .kill_on_drop(true);
        command.output().await.expect("the service's executable runs")
    }

    /// Waits until `/readyz` answers 200.
    pub async fn wait_ready(&mut self, limit: Duration) {
        let deadline = Instant::now() + limit;
        while !matches!(http::get(self.port(), "/readyz").await, Ok((status, _)) if status.is_success()) {
            if let Some(status) = self.process.as_mut().and_then(Process::ended) {
                panic!("{} ended ({status}) before it answered; {}", self.program, self.log_tail());
            }
            assert!(Instant::now() < deadline, "{} does not answer; {}", self.program, self.log_tail());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Everything it has logged, in all its lives, a JSON object a line.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Where it logs.
    pub fn log_file(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// Status and JSON of a GET.
    pub async fn get(&self, path: &str) -> (u16, Value) {
        self.ask(Method::GET, path, String::new()).await
    }

    /// Status and JSON of a POST.
    pub async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.ask(Method::POST, path, body.to_string()).await
    }

    /// Status and JSON of any request.
    pub async fn ask(&self, method: Method, path: &str, body: String) -> (u16, Value) {
        let answer = self.send(method, path, &[], body).await;
        let body = answer.body();
        let json = serde_json::from_str(body)
            .unwrap_or_else(|error| panic!("{} {path}: {error} in {body}", self.program));
        (answer.status().as_u16(), json)
    }

    /// Status and body of a GET, whatever it is.
    pub async fn get_text(&self, path: &str) -> (u16, String) {
        let answer = self.send(Method::GET, path, &[], String::new()).await;
        (answer.status().as_u16(), answer.into_body())
    }

    /// The whole answer to a request.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: String,
    ) -> Response<String> {
        let answer = http::send(method, self.port(), path, headers, body).await;
        answer.unwrap_or_else(|error| panic!("{} {path}: {error}; {}", self.program, self.log_tail()))
    }

    /// The value of one series of `/metrics`, named as it stands there, if it is there.
    pub async fn metric(&self, series: &str) -> Option<f64> {
        let metrics = self.send(Method::GET, "/metrics", &[], String::new()).await.into_body();
        let value = |line: &str| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok();
        metrics.lines().find_map(value)
    }

    /// As [`metric`](Self::metric), also while it may not answer yet.
    pub async fn metric_if_up(&self, series: &str) -> Option<f64> {
        http::get(self.port(), "/metrics").await.ok()?;
        self.metric(series).await
    }

    /// Its process id. Panics when it does not run.
    pub fn pid(&self) -> u32 {
        self.running().pid()
    }

    /// Kills it.
    pub async fn kill9(&mut self) {
        self.running().signal("KILL");
        self.wait(Duration::from_secs(10)).await;
    }

    /// Asks it to stop and waits for its end.
    pub async fn sigterm(&mut self, limit: Duration) -> ExitStatus {
        self.running().signal("TERM");
        self.wait(limit).await
    }

    /// Waits until it ends by itself.
    pub async fn wait(&mut self, limit: Duration) -> ExitStatus {
        let mut process = self.process.take().expect("the service runs");
        let ended = process.wait(limit).await;
        ended.unwrap_or_else(|| panic!("{} did not end within {limit:?}; {}", self.program, self.log_tail()))
    }

    fn running(&self) -> &Process {
        self.process.as_ref().expect("the service runs")
    }

    fn log_tail(&self) -> String {
        process::tail(&self.log_file())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.process = None;
        if std::thread::panicking() {
            eprintln!("{}", self.log_tail());
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}
