//! Tests of the systemd units, in a booted Debian: `make test-systemd`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod host;
mod ready;
mod root;
mod secrets;
mod units;
mod watchdog;
