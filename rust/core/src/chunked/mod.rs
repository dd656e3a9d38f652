//! Large keys, copied and compared chunk by chunk.
//!
//! Invariant: neither server is asked for more than a chunk at a time, and a key is seen whole or not at all.

pub(crate) mod compare;
pub(crate) mod copy;
pub(crate) mod parts;
