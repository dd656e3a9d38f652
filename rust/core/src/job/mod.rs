//! A job: what it is asked for, what its stages share, how it is watched, steered and ended.
//!
//! Invariant: it alone knows both sides.

pub(crate) mod control;
pub(crate) mod engine;
pub(crate) mod follow;
pub(crate) mod login;
mod side_by_side;
pub mod supervisor;
pub mod survey;
