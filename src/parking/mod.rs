//! Rows that policy puts aside (`delivery.on_invalid`, `delivery.on_unroutable`): their table, what is written into it, and what
//! is read for whoever looks after it.
//!
//! Knows nothing of why a row is parked, nor of when its position may be acknowledged.

pub mod parked_rows;
pub mod parked_table;
pub mod requeue;
mod spelling;
pub(crate) mod writer;
