//! Short strings of AMQP: text with a length of one octet (AMQP 0-9-1 specification, 4.2.5.3).

use std::io;

use amq_protocol::types::ShortString;

/// Longest short string, in bytes.
pub const SHORT_STRING_BYTES_MAX: usize = 255;

/// Returns a short string for the codec, whose own conversion panics on one that is too long.
///
/// # Errors
///
/// [`io::Error`] when the text has more than [`SHORT_STRING_BYTES_MAX`] bytes.
pub fn short(text: &str) -> io::Result<ShortString> {
    ShortString::try_new(text).map_err(io::Error::other)
}
