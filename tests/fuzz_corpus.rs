//! Recorded inputs of `make fuzz`: the properties for any bytes hold for these in every run of the tests.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{fs, panic, path::Path};

// A crate of its own for `make fuzz`.
#[allow(unreachable_pub)]
#[path = "fuzz/src/lib.rs"]
mod targets;

/// Runs a target on its corpus, and names an input that breaks its property.
fn replay(target: &str, holds: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let mut inputs = 0;
    for entry in fs::read_dir(&corpus).unwrap() {
        let input = entry.unwrap().path();
        let bytes = fs::read(&input).unwrap();
        if panic::catch_unwind(|| holds(&bytes)).is_err() {
            panic!("{} breaks {target}", input.display());
        }
        inputs += 1;
    }
    assert!(inputs > 10, "only {inputs} inputs in {}", corpus.display());
}

#[test]
fn pgoutput() {
    replay("pgoutput", targets::pgoutput::holds);
}

#[test]
fn mapping() {
    replay("mapping", targets::mapping::holds);
}

#[test]
fn template() {
    replay("template", targets::template::holds);
}

#[test]
fn configuration() {
    replay("configuration", targets::configuration::holds);
}

#[test]
fn amqp_frames() {
    replay("amqp_frames", targets::amqp_frames::holds);
}

#[test]
fn amqp_properties() {
    replay("amqp_properties", targets::amqp_properties::holds);
}
