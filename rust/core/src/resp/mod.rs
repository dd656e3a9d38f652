//! RESP2, sans-IO: bytes in, replies out, and the other way round.
//!
//! Invariant: knows nothing of sockets and allocates nothing per key; a reply borrows from the buffer that it
//! was read from.

pub mod decode;
pub mod encode;
mod restore;
mod tree;

pub use decode::{
    Decoded, ProtocolError, Reply, ScanPage, ScanProgress, decode, decode_scan, decode_scan_on, decode_time,
};
pub use restore::Eviction;
pub(crate) use restore::Restore;
pub use tree::Tree;
