//! Publishing to RabbitMQ over AMQP 0-9-1: confirms, returns, topology, and a lock that keeps publishing to one connection.
//!
//! A [`Publisher`] is one connection. It connects to the first broker that can be used, declares a [`Topology`], and publishes the
//! [`Message`]s that are handed to it, in that order. Whoever has it polls [`Publisher::next`], which tells the [`Outcome`] of each:
//! confirmed, returned, or nacked. A message that the broker refuses costs the channel and not the connection.
//!
//! ```text
//! Publisher             messages in, outcomes out
//!   publisher/          message -> encoding -> frames;  confirms: what is in flight, and what became of it
//!   fence               an exclusive queue: of several publishers only one publishes
//!   topology/           exchanges, queues, bindings: what is needed, declared or verified
//!   subscriptions       whether the queues are still there
//!   probe               what the broker would refuse, asked without leaving anything behind
//! connection/           channels, calls and their answers
//!   dial -> link -> handshake   a byte stream, frames of it, a login
//! frame                 bytes of a frame, and whether the codec may read them
//! refusal/  error       why the broker refuses, who mends it, and how
//! ```
//!
//! Recovery is crash-only: a publisher that gave an error is dropped, and what has no outcome is published again by another one.
//! Nothing here is tried again but the question for a fence.
//!
//! Knows nothing of where messages come from, of their order across connections, or of any configuration: errors say what happened and
//! what an administrator of RabbitMQ does about it ([`BrokerError::what`], [`BrokerError::cure`]), and the caller adds the names of
//! its own keys. [`frame`], [`encoding`](publisher::encoding) and `confirms` are pure.
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
