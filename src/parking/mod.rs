//! Rows that policy puts aside (`delivery.on_invalid`, `delivery.on_unroutable`): their table, what is written into it, and what
//! is read for whoever looks after it.
//!
//! The tables' files know nothing of why a row is parked, nor of when its position may be acknowledged: `writer` tells the relay.

pub mod parked_rows;
pub mod parked_table;
pub mod requeue;
mod spelling;
pub(crate) mod writer;
