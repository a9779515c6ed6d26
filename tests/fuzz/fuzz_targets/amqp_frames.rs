#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| outboxd_fuzz::amqp_frames::holds(input));
