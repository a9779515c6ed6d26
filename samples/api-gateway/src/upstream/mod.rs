//! Services behind the gateway. Each has a time limit, a bound on calls under way, and a circuit breaker of its own, so that one that
//! fails or hangs costs its own part only.
//!
//! Does not know what is asked.

mod circuit;
mod client;
mod outage;

use std::time::{Duration, Instant};

use axum::http::{HeaderValue, Method, Request, Response, header::CONTENT_TYPE};
use http_body_util::Full;
use hyper::body::Bytes;
use process::{failure::Failure, shutdown::Shutdown};
use tower::{
    BoxError, ServiceBuilder, ServiceExt,
    util::{BoxCloneSyncService, service_fn},
};
use tracing::Instrument;

use crate::{
    context::Context,
    metrics::Metrics,
    settings::{GatewaySettings, Limits, ServiceUrl},
    timing::Timing,
};
pub(crate) use circuit::{Circuit, CircuitView, Phase};
use client::{CallError, Client, exchange};
pub(crate) use outage::Outage;

pub(crate) const ORDER_SERVICE: &str = "order-service";
pub(crate) const CUSTOMER_SERVICE: &str = "customer-service";
pub(crate) const ORDER_HISTORY: &str = "order-history";
pub(crate) const ORDER_SEARCH: &str = "order-search";

/// Wait before a circuit whose time is over is tried again after a call could not be made at all.
const TRY_AGAIN: Duration = Duration::from_millis(50);

/// The services.
#[derive(Clone)]
pub(crate) struct Upstreams {
    pub(crate) orders: Upstream,
    pub(crate) customers: Upstream,
    pub(crate) history: Upstream,
    pub(crate) search: Option<Upstream>,
}

/// One service. Clones share its circuit and its bound.
#[derive(Clone)]
pub(crate) struct Upstream {
    name: &'static str,
    url: ServiceUrl,
    /// Path that shows whether the service answers: a query to its database that finds nothing, or little.
    probe: &'static str,
    limits: Limits,
    circuit: Circuit,
    metrics: Metrics,
    service: BoxCloneSyncService<Call, Response<Bytes>, BoxError>,
}

/// Request with the limit for its whole answer.
#[derive(Clone, Debug)]
struct Call {
    request: Request<Full<Bytes>>,
    limit: Duration,
}

/// Question to a service.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(crate) method: Method,
    /// Path with its query.
    pub(crate) path: String,
    pub(crate) body: Bytes,
    pub(crate) content_type: Option<HeaderValue>,
    pub(crate) context: Context,
}

/// Result of a question.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) service: &'static str,
    pub(crate) took: Duration,
    /// The whole answer, whatever its status.
    pub(crate) answer: Result<Response<Bytes>, Outage>,
}

impl Upstreams {
    pub(crate) fn new(settings: &GatewaySettings, metrics: &Metrics) -> Result<Self, Failure> {
        let limits = settings.limits;
        let client = client::new(&limits);
        let upstream =
            |name, url: &ServiceUrl, probe| Upstream::new(name, url, probe, limits, &client, metrics);
        Ok(Self {
            orders: upstream(ORDER_SERVICE, &settings.order_service, "/orders/0")?,
            customers: upstream(CUSTOMER_SERVICE, &settings.customer_service, "/customers/0")?,
            history: upstream(ORDER_HISTORY, &settings.order_history, "/lag")?,
            search: settings
                .order_search
                .as_ref()
                .map(|url| upstream(ORDER_SEARCH, url, "/lag"))
                .transpose()?,
        })
    }

    /// Returns every service that is configured.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Upstream> {
        [&self.orders, &self.customers, &self.history].into_iter().chain(&self.search)
    }
}

impl Upstream {
    fn new(
        name: &'static str,
        url: &ServiceUrl,
        probe: &'static str,
        limits: Limits,
        client: &Client,
        metrics: &Metrics,
    ) -> Result<Self, Failure> {
        let (circuit, breaker) = Circuit::new(name, &limits, metrics)?;
        let client = client.clone();
        // From the outside: a call beyond the bound is refused at once, and is no failure of the service. The circuit sees the rest.
        let service = ServiceBuilder::new()
            .load_shed()
            .concurrency_limit(limits.in_flight_max)
            .layer(breaker)
            .service(service_fn(move |call| exchange(client.clone(), call)));
        let service = BoxCloneSyncService::new(service);
        Ok(Self { name, url: url.clone(), probe, limits, circuit, metrics: metrics.clone(), service })
    }

    /// Returns the service's circuit.
    pub(crate) fn circuit(&self) -> &Circuit {
        &self.circuit
    }

    /// Asks once. Nothing is repeated here: a POST may have had its effect although no answer came.
    pub(crate) async fn ask(&self, question: Question) -> Asked {
        let begin = Instant::now();
        let answer = self.answer(question).await;
        let took = begin.elapsed();
        let outcome = match &answer {
            Ok(response) if response.status().is_server_error() => "error",
            Ok(_) => "answered",
            Err(outage) => outage.name(),
        };
        self.metrics.asked(self.name, outcome, took);
        match &answer {
            // The circuit has said so when it opened.
            Err(outage @ Outage::Open(_)) => {
                tracing::debug!(service = self.name, "{}", outage.text(self.name))
            }
            Err(outage) => {
                let took_ms = took.as_secs_f64() * 1000.0;
                tracing::warn!(service = self.name, took_ms, "{}", outage.text(self.name));
            }
            Ok(_) => {}
        }
        Asked { service: self.name, took, answer }
    }

    async fn answer(&self, question: Question) -> Result<Response<Bytes>, Outage> {
        let is_query = question.method == Method::GET;
        let limit = if is_query { self.limits.query_timeout } else { self.limits.command_timeout };
        let request = question.request(&self.url).map_err(|error| Outage::NoRequest(error.to_string()))?;
        let call = self.service.clone().oneshot(Call { request, limit });
        // A task of its own, which ends by itself: the circuit learns the result although the caller may be gone.
        let called = tokio::spawn(call.in_current_span()).await;
        match called {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(Outage::of(&error, limit, self.circuit.opens_in().await)),
            Err(error) => Err(Outage::Lost(error.to_string())),
        }
    }

    /// Tries the service whenever its circuit may let one call through, until `shutdown`: a circuit closes by itself, and no caller
    /// waits for a service that may still be away.
    pub(crate) async fn recover(mut self, mut shutdown: Shutdown) {
        loop {
            let recovering = async {
                self.circuit.opened().await;
                let wait = self.circuit.opens_in().await.unwrap_or_default();
                tokio::time::sleep(wait.max(TRY_AGAIN)).await;
                if self.circuit.phase() == Phase::Open {
                    let probe = Question {
                        method: Method::GET,
                        path: self.probe.to_owned(),
                        body: Bytes::new(),
                        content_type: None,
                        context: Context::own(),
                    };
                    self.ask(probe).await;
                }
            };
            tokio::select! {
                _ = shutdown.requested() => return,
                () = recovering => {}
            }
        }
    }
}

impl Question {
    /// Returns the request. Only these headers are handed on.
    fn request(self, url: &ServiceUrl) -> Result<Request<Full<Bytes>>, axum::http::Error> {
        let builder = Request::builder().method(self.method).uri(url.with(&self.path));
        let mut request = builder.body(Full::new(self.body))?;
        if let Some(content_type) = self.content_type {
            request.headers_mut().insert(CONTENT_TYPE, content_type);
        }
        self.context.write(request.headers_mut());
        Ok(request)
    }
}

impl Asked {
    /// Returns the time of the part; `missing`: why there is none.
    pub(crate) fn timing(&self, missing: Option<&'static str>) -> Timing {
        Timing { service: self.service, took: self.took, missing }
    }
}
