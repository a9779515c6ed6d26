//! Texts for the people who run a program: what is wrong, what mends it, and nothing in it that is not seen.
//!
//! Knows no cause: whoever names one stands above. Pure.

mod chain;
pub mod check;
pub mod legible;
mod nearest;
pub mod remedy;
pub mod shell_word;

pub use chain::chain;
pub use nearest::nearest;
