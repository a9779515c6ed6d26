//! Life of every service, with a database or without: its address, metrics, tasks, and an end in order.
//!
//! Does not know what the tasks do.

use futures_util::{FutureExt, future::BoxFuture};
use prometheus::core::Collector;
use tokio::{net::TcpListener, sync::watch, task::JoinSet, time::timeout};
use utoipa_axum::router::OpenApiRouter;

use super::{
    asyncapi::{Description, MessageType},
    health::Health,
    http,
    listener::{Binding, Heard, Listener, Subscription, listen},
    metrics::Metrics,
    settings::BaseSettings,
};
use process::{
    failure::Failure,
    shutdown::{Shutdown, ShutdownTrigger, StopSignals, shutdown},
};

/// Parts that every service has, while it is assembled.
pub struct Base {
    settings: BaseSettings,
    address: TcpListener,
    stop: StopSignals,
    trigger: ShutdownTrigger,
    ended: Shutdown,
    pub(crate) metrics: Metrics,
    pub(crate) health: Health,
    /// What is sent and received, for `/asyncapi.json`.
    pub(crate) description: Description,
    /// Tasks, which start when the service is prepared.
    tasks: Vec<BoxFuture<'static, ()>>,
}

/// Runs a service without a database until SIGTERM, SIGINT or SIGQUIT. `assemble` registers its tasks and returns its
/// API. The tasks may open `files_max` files.
///
/// # Errors
///
/// [`Failure`] when the address is in use, signals cannot be caught, the HTTP server or a task ends by itself, or work
/// in progress does not end within `drain_timeout_s`; and the failure of `assemble`.
pub async fn run_without_database(
    settings: BaseSettings,
    files_max: usize,
    assemble: impl FnOnce(&mut Base) -> Result<OpenApiRouter, Failure>,
) -> Result<(), Failure> {
    let mut base = Base::open(settings).await?;
    let api = assemble(&mut base)?;
    base.run(api, files_max, std::future::ready(())).await
}

impl Base {
    /// Binds the address and catches the signals.
    pub(crate) async fn open(settings: BaseSettings) -> Result<Self, Failure> {
        let address = TcpListener::bind(&settings.listen).await.map_err(|error| {
            let listen = &settings.listen;
            Failure::Runtime(format!(
                "cannot listen on {listen}: {error}; stop what uses that address, or set listen to another"
            ))
        })?;
        let (trigger, ended) = shutdown();
        Ok(Self {
            address,
            stop: StopSignals::listen().map_err(|error| Failure::runtime(&error))?,
            trigger,
            ended,
            metrics: Metrics::new().map_err(|error| Failure::runtime(&error))?,
            health: Health::default(),
            description: Description::default(),
            tasks: Vec::new(),
            settings,
        })
    }

    /// Returns the settings.
    pub fn settings(&self) -> &BaseSettings {
        &self.settings
    }

    /// Returns the handle by which a task learns of the shutdown.
    pub fn shutdown(&self) -> Shutdown {
        self.ended.clone()
    }

    /// Describes message types for `/asyncapi.json`. Of these, the document has what the service sends and receives.
    pub fn describe(&mut self, messages: Vec<MessageType>) {
        self.description.know(messages);
    }

    /// Adds a metric of the service's own to `/metrics`.
    ///
    /// # Errors
    ///
    /// [`Failure`] when the metric is invalid or there is one of that name.
    pub fn metric<C: Collector + Clone + 'static>(
        &self,
        metric: prometheus::Result<C>,
    ) -> Result<C, Failure> {
        metric
            .and_then(|metric| self.metrics.register(metric.clone()).map(|()| metric))
            .map_err(|error| Failure::runtime(&error))
    }

    /// Adds a task, which runs until the shutdown.
    pub fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.push(task.boxed());
    }

    /// Listens to events from a queue that ends with this process, and passes them to `hear`.
    pub fn listen(&mut self, subscription: Subscription, hear: impl FnMut(Heard) + Send + 'static) {
        let BaseSettings { name, ref broker, declare, .. } = self.settings;
        for Binding { exchange, keys } in &subscription.bindings {
            let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
            self.description.receive(exchange, &keys, subscription.queue);
        }
        let listener = Listener { name, connection: broker.clone(), declare, subscription };
        self.spawn(listen(listener, hear, self.shutdown()));
    }

    /// Answers requests, and runs the tasks once `prepared` has ended, until a signal. The tasks may open `files_max`
    /// files.
    pub(crate) async fn run(
        self,
        api: OpenApiRouter,
        files_max: usize,
        prepared: impl Future<Output = ()>,
    ) -> Result<(), Failure> {
        let Self { settings, address, mut stop, trigger, ended, metrics, health, description, tasks } = self;
        let (ready, is_ready) = watch::channel(false);
        let messages = description.document(settings.name);
        let router = http::router(settings.name, api, messages, metrics, is_ready, health);
        let mut answering = tokio::spawn(http::serve(address, router, files_max, ended));
        tokio::select! {
            biased;
            // 1. The preparation, which may have ended already.
            () = prepared => {}
            // 2. A signal.
            signal = stop.next() => {
                tracing::info!(signal, "stopped before the database was ready");
                return Ok(());
            }
        }
        ready.send_replace(true);
        let mut tasks: JoinSet<()> = tasks.into_iter().collect();
        tracing::info!(listen = settings.listen, "{} is up", settings.name);

        tokio::select! {
            signal = stop.next() => {
                tracing::info!(signal, drain_timeout_s = settings.drain_timeout.as_secs(), "draining; a second signal ends at once");
            }
            ended = &mut answering => {
                return Err(Failure::Runtime(format!("the HTTP endpoints ended by themselves: {ended:?}")));
            }
            Some(ended) = tasks.join_next() => {
                return Err(Failure::Runtime(format!("a consumer ended by itself: {ended:?}")));
            }
        }
        trigger.request(settings.drain_timeout);
        let drained = async {
            while tasks.join_next().await.is_some() {}
            // Keep-alive connections without a request are closed; requests under way are answered.
            let _ = answering.await;
        };
        tokio::select! {
            drained = timeout(settings.drain_timeout, drained) => match drained {
                Ok(()) => tracing::info!("drained"),
                Err(_) => return Err(Failure::Runtime(
                    "work in progress did not end within drain_timeout_s; what was not committed is done again at the next start".to_owned(),
                )),
            },
            _ = stop.next() => return Err(Failure::Runtime("stopped by a second signal".to_owned())),
        }
        Ok(())
    }
}
