//! What must hold for any bytes: one module for each fuzz target, each with one function that panics if it does not.
//!
//! `make fuzz` looks for bytes that break it; `tests/fuzz_corpus.rs` tries those that were found worth keeping.

pub mod amqp_frames;
pub mod amqp_properties;
pub mod configuration;
pub mod mapping;
pub mod pgoutput;
pub mod template;
