//! Parked rows: rows that policy puts aside (`delivery.on_invalid`, `delivery.on_unroutable`, `delivery.on_nack`). The table, the
//! writer that fills it, and the operations of `outboxd parked`.
//!
//! Does not know why a row is parked, or when its position may be acknowledged: the relay does.

pub mod parked_rows;
pub mod parked_table;
pub mod requeue;
mod spelling;
pub(crate) mod writer;
