//! Publisher for RabbitMQ over AMQP 0-9-1, with confirms, returns, topology, and a fence that lets only one
//! connection publish.
//!
//! A [`Publisher`] is one connection. It connects to the first usable broker, declares a [`Topology`], and publishes
//! [`Message`]s in the order in which they are handed over. The caller polls [`Publisher::next`], which returns the
//! [`Outcome`] of each message: confirmed, returned or nacked. A message that the broker refuses costs the channel,
//! not the connection.
//!
//! ```text
//! Publisher             messages in, outcomes out
//!   publisher/          message -> encoding -> frames;  confirms: messages in flight and their outcomes
//!   fence               an exclusive queue: only one of several publishers publishes
//!   topology/           exchanges, queues, bindings: planned, declared or verified
//!   subscriptions       a watch over the subscriptions' queues
//!   probe               asks what the broker would refuse, and leaves nothing behind
//! connection/           channels, calls and their answers
//!   dial -> link -> handshake   byte stream, frames, login
//! frame                 bytes of a frame, and the check before the codec parses them
//! refusal/  error       RabbitMQ's refusals: reason, cure, and who applies it
//! ```
//!
//! Recovery is crash-only: after an error the publisher is dropped, and another one publishes the messages without an
//! outcome again. Only the request for a fence is repeated here.
//!
//! Does not know where messages come from, their order across connections, or any configuration. Errors say what
//! happened and what an administrator of RabbitMQ does about it ([`BrokerError::what`], [`BrokerError::cure`]); the
//! caller adds the names of its own keys. [`frame`], [`encoding`](publisher::encoding) and `confirms` are pure.
//!
//! # Example
//! ```no_run
//! use std::{sync::Arc, time::Duration};
//! use amqp_publisher::{
//!     Client, ConnectionOptions, Message, Outcome, PublishTag, Publisher, PublisherEvent, PublisherOptions, Topology,
//!     publisher::exchange_limit::ExchangeLimit,
//! };
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let options = PublisherOptions {
//!     connection: ConnectionOptions {
//!         client: Client { product: "shop", version: "1.0" },
//!         urls: vec!["amqp://guest:guest@localhost:5672/%2f".to_owned()],
//!         rotating: None,
//!         heartbeat: Duration::from_secs(10),
//!         connect_timeout: Duration::from_secs(5),
//!         ca_file: None,
//!         client_cert: None,
//!     },
//!     topology: Topology { declare: true, ..Topology::default() },
//!     identifying_header: "number",
//!     exchange_limit: ExchangeLimit::default(),
//!     fence_memory: Default::default(),
//!     watch: Default::default(),
//! };
//! let mut publisher = Publisher::connect(&options, "shop publisher", 0).await?;
//! let message = Message {
//!     exchange: "orders".to_owned(),
//!     routing_key: "created".to_owned(),
//!     headers: vec![("number".into(), amqp_publisher::HeaderValue::Text("1".to_owned()))],
//!     body: b"{}".as_slice().into(),
//!     ..Message::default()
//! };
//! publisher.publish(PublishTag(1), Arc::new(message));
//! if let PublisherEvent::Outcomes(outcomes) = publisher.next().await? {
//!     assert_eq!(outcomes, [(PublishTag(1), Outcome::Confirmed)]);
//! }
//! publisher.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! # Guarantees
//! - Frames are written in the order of [`Publisher::publish`], whatever exchange has to be declared in between.
//! - Each published message has exactly one outcome, or is returned by [`PublisherEvent::ChannelClosed`], or the
//!   publisher ends in an error.
//! - A returned message is never reported as confirmed.
//! - Data from a broker is kept only up to a limit that has a name, and its nesting is checked before it is parsed.
//! - No error and no `Debug` output shows a password.
#![deny(missing_docs)]

pub mod connection;
pub mod error;
pub mod fence;
pub mod frame;
pub mod probe;
pub mod publisher;
pub mod refusal;
pub mod short_string;
pub mod subscriptions;
pub mod topology;

pub use connection::{
    Connection,
    endpoint::{Endpoint, InvalidUrl},
    options::{Client, ConnectionOptions},
    rotating_urls::RotatingUrls,
};
pub use error::{BrokerError, DeclareError};
pub use fence::{Fence, FenceMemory, FenceOwner};
pub use publisher::{
    Outcome, PublishTag, Publisher, PublisherEvent, PublisherOptions, Refused,
    message::{HeaderValue, Message, Properties},
};
pub use refusal::{Reason, Refusal};
pub use topology::Topology;
