//! What is known of the work that is left.
//!
//! Invariant: nothing is taken for done that is not.

pub mod checkpoint;
pub mod touched;
