//! Properties that hold for any bytes: one module for each fuzz target, each with one function that panics when its property
//! fails.
//!
//! `make fuzz` searches for bytes that break a property. `tests/fuzz_corpus.rs` checks the recorded ones.

pub mod amqp_frames;
pub mod amqp_properties;
pub mod configuration;
pub mod mapping;
pub mod pgoutput;
pub mod template;
