//! `kubernetes/`: the chart, the manifests that are made with it, and the example of a sidecar.
//!
//! `make test` holds the kept manifests to outboxd's rules and to outboxd's own parser. `make test-kubernetes` renders the chart with
//! helm, validates it against Kubernetes' schemas, and compares the manifests with it. No test needs a cluster.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod chart;
mod manifests;
mod objects;
mod rules;
mod sidecar_page;
mod tools;
