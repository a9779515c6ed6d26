//! Texts for operators: problems, cures, and text without hidden characters.
//!
//! Knows no causes, which the crates above define. Pure.

mod chain;
pub mod check;
pub mod legible;
mod nearest;
pub mod remedy;
pub mod shell_word;

pub use chain::chain;
pub use nearest::nearest;
