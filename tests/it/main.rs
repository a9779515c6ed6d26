//! Tests against real nodes and the real daemon, in one program: it links once, and its tests share the nodes.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod database;
mod nodes;
mod proxy;
#[path = "../support/mod.rs"]
mod support;
