//! Whether both sides hold the same.
//!
//! Invariant: a value is equal when everything that RESTORE would bring is equal.

pub(crate) mod session;
pub(crate) mod shape;
pub(crate) mod sweep;
pub(crate) mod verdict;
