//! Any bytes are a pgoutput message or an error, never a panic; a piece of a message is never a message.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use outboxd::postgres::pgoutput::decode;

fuzz_target!(|input: &[u8]| {
    let bytes = Bytes::copy_from_slice(input);
    if decode(bytes.clone()).is_ok() {
        // An encoding is never the beginning of another one, so a torn message cannot pass unnoticed.
        assert!(decode(bytes.slice(..bytes.len() - 1)).is_err());
    }
});
