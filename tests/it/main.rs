//! Tests against real nodes and the real daemon, in one program: it links once, and its tests share the nodes.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod commands;
mod database;
mod delivery;
mod nodes;
mod proxy;
mod stage;
#[path = "../support/mod.rs"]
mod support;
