//! Base of tests, benches and demos: private PostgreSQL and RabbitMQ nodes, a TCP proxy with faults, writers, a
//! consumer, an oracle that judges deliveries, and a handle on the real daemon.
//!
//! Functions panic with a whole sentence when the machine does not do what a test needs, because a test cannot handle
//! such an error.

// A failed expectation here fails the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

pub mod booted_root;
pub mod certs;
pub mod consumer;
pub mod daemon;
pub mod event_stream;
pub mod http;
pub mod instance;
pub mod liar;
pub mod oracle;
pub mod page_steps;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod programs;
pub mod proxy;
pub mod rabbitmq;
pub mod raw_amqp;
pub mod run;
pub mod service;
pub mod shop;
pub mod unread;
pub mod views;
pub mod workload;

pub use booted_root::BootedRoot;
pub use certs::Authority;
pub use consumer::Consumer;
pub use daemon::Daemon;
pub use event_stream::{EventStream, StreamedEvent};
pub use oracle::{Committed, Oracle, Received, Verdict};
pub use page_steps::{PageBlock, PageShell, PageStep, PageSteps};
pub use postgres::{Postgres, PostgresOptions, shared_postgres};
pub use proxy::{Direction, Proxy};
pub use rabbitmq::{RabbitMq, RabbitMqOptions, shared_rabbitmq};
pub use raw_amqp::RawPublisher;
pub use run::unique;
pub use service::Service;
pub use shop::Shop;
pub use unread::UnreadPipe;
pub use views::{FerretDb, OpenSearch, shared_ferretdb, shared_opensearch};
pub use workload::{Workload, create_outbox};
