//! Values read by plain SQL in the database's encoding, because the server's conversion to UTF-8 may fail.

use bytes::Bytes;

use pg_replication::stored_text::Encoding;

use crate::message::decode_hex;

/// The item of a SELECT list for a column's text as stored. `format` uses the type's output function, as the stream does.
pub(crate) fn select(encoding: &Encoding, column: &str) -> String {
    match encoding {
        Encoding::Utf8 => column.to_owned(),
        Encoding::Unknown | Encoding::Other(_) => format!(
            "CASE num_nulls({column}) WHEN 0 THEN convert_to(format('%s', {column}), getdatabaseencoding()) END"
        ),
    }
}

/// The stored values from the server's text for [`select`]; `None` if the text does not fit.
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
