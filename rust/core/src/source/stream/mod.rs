//! The replication stream of a source: attach as a replica that asks for no data, and read what it is sent.
//!
//! Invariant: reading never waits for anything but the source: what is read is handed over at once, so that the
//! source's output buffer stays empty whatever becomes of it. Sources: the servers' `replication.c`.

mod attach;
mod framing;
mod handshake;

pub use attach::{Attachment, Begun, Ended, Follower, Position};
pub use framing::{Answer, Commands, Item, SnapshotSkipper, Step, StreamError, answer};
