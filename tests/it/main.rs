//! Tests against real nodes and the real daemon, in one program: it links once, and its tests share the nodes.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod backlog;
mod can_publish;
mod cleanup;
mod commands;
mod connections;
mod continuity;
mod database;
mod delivery;
mod exchanges;
mod forgotten;
mod hostile;
mod hostile_rows;
mod inbox;
mod liar;
mod limits;
mod message;
mod nodes;
mod order;
mod outage;
mod parked;
mod parked_table;
mod parking_fails;
mod proxy;
mod publication;
mod publisher;
mod recover;
mod recovery;
mod refusal;
mod replay;
mod requeue;
mod row_order;
mod scale;
mod secrets;
mod signals;
mod slot;
mod stage;
mod standby;
mod stderr;
mod subscriptions;
#[path = "../support/mod.rs"]
mod support;
mod tables;
mod tls;
mod trace;
