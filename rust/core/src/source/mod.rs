//! What is read: the source's replication stream, and the keys that its commands touch.
//!
//! Invariant: the source is only read, and nothing here knows of a target.

pub mod keys;
pub mod stream;
