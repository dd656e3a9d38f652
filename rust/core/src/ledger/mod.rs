//! What is known of the work that is left.
//!
//! Invariant: nothing is taken for done that is not.

pub mod books;
pub mod checkpoint;
pub(crate) mod held;
pub mod position;
pub mod progress;
pub mod touched;
pub mod unsettled;
