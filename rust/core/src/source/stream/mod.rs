//! The replication stream of a source: attach as a replica that asks for no data, and read what it is sent; or ask for the
//! data alone.
//!
//! Invariant: reading never waits for anything but the source: what is read is handed over at once, so that the
//! source's output buffer stays empty whatever becomes of it. Sources: the servers' `replication.c`.

mod answer;
mod attach;
mod ended;
mod error;
mod framing;
mod handshake;
mod peer;
mod snapshot;
mod taken;

pub use attach::{Attachment, Begun, Follower};
pub use ended::Ended;
pub use error::StreamError;
pub use framing::{Commands, Item, Step};
pub(crate) use taken::take_snapshot;
