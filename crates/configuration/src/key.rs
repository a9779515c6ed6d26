//! Definition of a key, as the code that reads it gives it: the kind of its value, the range, the default.

use std::ops::RangeInclusive;

/// Definition of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// Kind of its value.
    pub kind: Kind,
    /// Value of a key that is not given, as text; `None`: there is none, or it depends on other keys.
    pub default: Option<String>,
}

/// Kind of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Text.
    Text,
    /// A list of texts.
    Texts,
    /// true or false.
    Flag,
    /// A whole number of that range.
    Number(RangeInclusive<u64>),
    /// One of these words.
    Choice(Vec<String>),
    /// A table of any names and values.
    Table,
}
