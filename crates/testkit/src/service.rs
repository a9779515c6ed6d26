//! A sample service as a process, configured by environment variables alone.

use super::{http, instance::Instance, process, programs};
use hyper::{Method, Response};
use serde_json::Value;
use std::{
    ops::{Deref, DerefMut},
    path::Path,
    process::Output,
    time::Duration,
};

/// At most one running process of a service, with its port and log. Killed when dropped.
#[derive(Debug)]
pub struct Service {
    instance: Instance,
    environment: Vec<(&'static str, String)>,
    arguments: Vec<String>,
    /// Limit on open files; `None`: that of the test.
    open_files: Option<u32>,
}

impl Service {
    /// Starts `program` with this database and broker, and waits until it answers.
    pub async fn start(program: &'static str, database_url: &str, amqp_url: &str) -> Self {
        let mut service = Self::prepare(program, database_url, amqp_url);
        service.start_again();
        service.wait_ready(Duration::from_secs(60)).await;
        service
    }

    /// Sets the service up as [`start`](Self::start) does, without starting it.
    pub fn prepare(program: &'static str, database_url: &str, amqp_url: &str) -> Self {
        let mut service = Self::with_arguments(program, &[]);
        let urls = [("DATABASE_URL", database_url.to_owned()), ("AMQP_URL", amqp_url.to_owned())];
        service.environment.extend(urls);
        service
    }

    /// Sets the service up with these arguments, and with LISTEN as its only variable. Does not start it.
    pub fn with_arguments(program: &'static str, arguments: &[&str]) -> Self {
        let instance = Instance::new(program);
        Self {
            environment: vec![("LISTEN", format!("127.0.0.1:{}", instance.port()))],
            instance,
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
            open_files: None,
        }
    }

    /// Adds an environment variable.
    #[must_use]
    pub fn with(mut self, variable: &'static str, value: &str) -> Self {
        self.environment.push((variable, value.to_owned()));
        self
    }

    /// Sets a variable of the environment from the next start on.
    pub fn set(&mut self, variable: &'static str, value: &str) {
        self.environment.retain(|(name, _)| *name != variable);
        self.environment.push((variable, value.to_owned()));
    }

    /// Limits open files from the next start on.
    pub fn limit_open_files(&mut self, files: u32) {
        self.open_files = Some(files);
    }

    /// Starts the service after an end. Does not wait for it.
    pub fn start_again(&mut self) {
        self.start_again_logging_to(&self.log_file());
    }

    /// Starts the service after an end, with its output in another file.
    pub fn start_again_logging_to(&mut self, log: &Path) {
        let executable = programs::executable(self.program());
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
        self.launch(command, log);
    }

    /// Runs another command with the same environment to its end: `&["rebuild"]`.
    pub async fn command(&self, arguments: &[&str]) -> Output {
        let mut command = tokio::process::Command::new(programs::executable(self.program()));
        command
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .args(arguments)
            .current_dir(self.folder())
            .kill_on_drop(true);
        command.output().await.expect("the service's executable runs")
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
            .unwrap_or_else(|error| panic!("{} {path}: {error} in {body}", self.program()));
        (answer.status().as_u16(), json)
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
        answer.unwrap_or_else(|error| panic!("{} {path}: {error}; {}", self.program(), self.log_tail()))
    }

    /// Value of one series of `/metrics`; `None` while the service does not answer.
    pub async fn metric_if_up(&self, series: &str) -> Option<f64> {
        http::get(self.port(), "/metrics").await.ok()?;
        self.metric(series).await
    }
}

impl Deref for Service {
    type Target = Instance;

    fn deref(&self) -> &Instance {
        &self.instance
    }
}

impl DerefMut for Service {
    fn deref_mut(&mut self) -> &mut Instance {
        &mut self.instance
    }
}
