//! Values that plain SQL reads as they are stored, in place of a conversion to UTF-8 that may fail.

use bytes::Bytes;

use pg_replication::stored_text::Encoding;

use crate::message::decode_hex;

/// An item of a SELECT list for a column: its text as it is stored. What `format` makes of a value is what its type's output
/// function does, as in the stream.
pub(crate) fn select(encoding: &Encoding, column: &str) -> String {
    match encoding {
        Encoding::Utf8 => column.to_owned(),
        Encoding::Unknown | Encoding::Other(_) => format!(
            "CASE num_nulls({column}) WHEN 0 THEN convert_to(format('%s', {column}), getdatabaseencoding()) END"
        ),
    }
}

/// The values as they are stored, of the text that the server gave for [`select`]; `None` when it is not that.
pub(crate) fn as_stored(encoding: &Encoding, values: Vec<Option<Bytes>>) -> Option<Vec<Option<Bytes>>> {
    match encoding {
        Encoding::Utf8 => Some(values),
        Encoding::Unknown | Encoding::Other(_) => values
            .into_iter()
            .map(|value| match value {
                Some(hex) => decode_hex(&hex).map(Some),
                None => Some(None),
            })
            .collect(),
    }
}
