//! Short string of AMQP: text whose length is one octet (AMQP 0-9-1 specification, 4.2.5.3).

use std::io;

use amq_protocol::types::ShortString;

/// Most bytes that a short string may have.
pub const SHORT_STRING_BYTES_MAX: usize = 255;

/// Makes a short string for the codec, whose own conversion panics on one that is too long.
///
/// # Errors
///
/// The text has more than [`SHORT_STRING_BYTES_MAX`] bytes.
pub fn short(text: &str) -> io::Result<ShortString> {
    ShortString::try_new(text).map_err(io::Error::other)
}
