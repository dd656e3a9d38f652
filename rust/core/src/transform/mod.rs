//! Which keys are taken, and what they are called at the target.
//!
//! Invariant: pure functions of a key; the same key is always chosen and named alike.

pub mod filter;
pub mod inverse;
pub mod keymap;
mod pattern;
pub(crate) mod sample;
mod template;
mod way_back;
