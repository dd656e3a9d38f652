//! A job: what it is asked for, what its stages share, how it is watched, steered and ended.
//!
//! Invariant: it alone knows both sides.

pub(crate) mod control;
pub(crate) mod engine;
pub(crate) mod follow;
pub mod progress;
pub mod supervisor;
pub mod survey;
