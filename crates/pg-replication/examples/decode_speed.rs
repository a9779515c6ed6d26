//! Measures the decoder's speed, without a server.
//!
//! ```text
//! cargo run --release --example decode_speed
//! ```

use std::{error::Error, hint::black_box, time::Instant};

use bytes::{BufMut, Bytes, BytesMut};
use pg_replication::pgoutput;

const ROUNDS: u32 = 200_000;

fn main() -> Result<(), Box<dyn Error>> {
    println!("{:>12} {:>14} {:>12} {:>10}", "value bytes", "message bytes", "ns/message", "MB/s");
    for value_bytes in [10, 100, 1_000, 100_000] {
        let message = insert(&[value_bytes; 5])?;
        let began = Instant::now();
        for _ in 0..ROUNDS {
            black_box(pgoutput::decode(black_box(message.clone()))?);
        }
        let seconds = began.elapsed().as_secs_f64();
        let each_ns = seconds * 1e9 / f64::from(ROUNDS);
        let rate = message.len() as f64 * f64::from(ROUNDS) / seconds / 1e6;
        println!("{value_bytes:>12} {:>14} {each_ns:>12.0} {rate:>10.0}", message.len());
    }
    Ok(())
}

/// Returns an Insert message with values of these lengths (manual, "Logical Replication Message Formats").
fn insert(lengths: &[usize]) -> Result<Bytes, std::num::TryFromIntError> {
    const RELATION_OID: u32 = 16_400;
    let mut message = BytesMut::new();
    message.put_u8(b'I');
    message.put_u32(RELATION_OID);
    message.put_u8(b'N');
    message.put_u16(u16::try_from(lengths.len())?);
    for length in lengths {
        message.put_u8(b't');
        message.put_u32(u32::try_from(*length)?);
        message.put_bytes(b'x', *length);
    }
    Ok(message.freeze())
}
