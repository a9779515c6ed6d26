//! Circuit breaker of one service: tower-resilience's, with what the gateway shows of it.
//!
//! Closed: calls go to the service. Open, after failures in a row: no call does, for a while. Half-open: one call does, and its
//! result closes or opens the circuit. A failure is no answer, or one with a status of 500 and above; 404 and the like are answers.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use axum::http::Response;
use hyper::body::Bytes;
use process::failure::Failure;
use serde::Serialize;
use tokio::sync::watch;
use tower_resilience_circuitbreaker::{
    CircuitBreakerHandle, CircuitBreakerLayer, CircuitState, FailureClassifier,
};
use utoipa::ToSchema;

use super::CallError;
use crate::{metrics::Metrics, settings::Limits};

/// Circuit of a service. Clones share it.
#[derive(Clone)]
pub(crate) struct Circuit {
    service: &'static str,
    open_for: Duration,
    handle: CircuitBreakerHandle<IsFailure>,
    /// Failures since the last success.
    failures: Arc<AtomicU32>,
    phases: watch::Receiver<Phase>,
}

/// State of a circuit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Phase {
    Closed,
    Open,
    HalfOpen,
}

/// Circuit as callers see it.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CircuitView {
    /// Name of the service.
    service: &'static str,
    state: Phase,
    /// Failures since the last success.
    failures: u32,
    /// Milliseconds until an open circuit lets one call try; null when it is not open.
    retry_in_ms: Option<u64>,
}

/// Tells the breaker which results are failures.
#[derive(Clone, Copy, Debug)]
pub(super) struct IsFailure;

impl FailureClassifier<Response<Bytes>, CallError> for IsFailure {
    fn classify(&self, result: &Result<Response<Bytes>, CallError>) -> bool {
        match result {
            Ok(response) => response.status().is_server_error(),
            Err(CallError::Unreachable(_) | CallError::Lost(_) | CallError::TimedOut) => true,
            // The service has answered, too much.
            Err(CallError::TooLong) => false,
        }
    }
}

impl Phase {
    pub(crate) const ALL: [Self; 3] = [Self::Closed, Self::Open, Self::HalfOpen];

    /// Returns the name in JSON and in metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
        }
    }
}

impl From<CircuitState> for Phase {
    fn from(state: CircuitState) -> Self {
        match state {
            CircuitState::Closed => Self::Closed,
            CircuitState::Open => Self::Open,
            CircuitState::HalfOpen => Self::HalfOpen,
        }
    }
}

impl Circuit {
    /// Returns a closed circuit and its layer.
    pub(super) fn new(
        service: &'static str,
        limits: &Limits,
        metrics: &Metrics,
    ) -> Result<(Self, CircuitBreakerLayer<IsFailure>), Failure> {
        let (phase, phases) = watch::channel(Phase::Closed);
        let failures = Arc::new(AtomicU32::new(0));
        let (failed, succeeded, metrics) = (failures.clone(), failures.clone(), metrics.clone());
        let open_for = limits.circuit_open;
        metrics.circuit(service, Phase::Closed);
        let (layer, handle) = CircuitBreakerLayer::builder()
            .name(service)
            .consecutive_failures(limits.circuit_failures)
            .wait_duration_in_open(open_for)
            .permitted_calls_in_half_open(1)
            .on_failure(move |_| {
                failed.fetch_add(1, Ordering::Relaxed);
            })
            .on_success(move |_| succeeded.store(0, Ordering::Relaxed))
            .on_state_transition(move |from, to| {
                let (from, to) = (Phase::from(from), Phase::from(to));
                metrics.circuit(service, to);
                phase.send_replace(to);
                match (from, to) {
                    (Phase::Closed, Phase::Open) => {
                        metrics.circuit_opened(service);
                        tracing::warn!(
                            service,
                            "the circuit opens: {service} is not asked for {} ms",
                            open_for.as_millis()
                        );
                    }
                    (Phase::HalfOpen, Phase::Closed) => {
                        tracing::info!(service, "the circuit closes: {service} answers again");
                    }
                    _ => tracing::debug!(service, "the circuit is {}", to.name()),
                }
            })
            .failure_classifier_type(IsFailure)
            .build_with_handle()
            .map_err(|error| Failure::runtime(&error))?;
        Ok((Self { service, open_for, handle, failures, phases }, layer))
    }

    /// Returns the state.
    pub(crate) fn phase(&self) -> Phase {
        self.handle.state().into()
    }

    /// Returns the time until an open circuit lets one call try; `None` when it is not open.
    pub(super) async fn opens_in(&self) -> Option<Duration> {
        let metrics = self.handle.metrics().await;
        let is_open = metrics.state == CircuitState::Open;
        is_open.then(|| self.open_for.saturating_sub(metrics.time_since_state_change))
    }

    /// Waits until the circuit is open.
    pub(super) async fn opened(&mut self) {
        // The breaker lives as long as this circuit.
        if self.phases.wait_for(|phase| *phase == Phase::Open).await.is_err() {
            std::future::pending().await
        }
    }

    /// Returns the circuit as callers see it.
    pub(crate) async fn view(&self) -> CircuitView {
        let retry_in_ms =
            self.opens_in().await.map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
        CircuitView {
            service: self.service,
            state: self.phase(),
            failures: self.failures.load(Ordering::Relaxed),
            retry_in_ms,
        }
    }
}
