//! The data plane of Slotferry: reads keys from a standalone server and writes them into a cluster.
//!
//! Invariants (the whole list is in `rust/README.md`): the source is only read; a checkpoint never runs ahead
//! of acknowledged writes; every scanned key ends in exactly one count; memory is bounded by a byte budget.

pub mod chunked;
pub mod compare;
pub mod error;
pub mod event;
pub mod handover;
pub mod job;
pub mod ledger;
pub mod net;
pub mod rdb;
pub mod reply;
pub mod resp;
pub mod slot;
pub mod source;
pub mod target;
mod text;
pub mod throttle;
pub mod topology;
pub mod transform;

pub use error::{Error, ErrorKind, Result};
pub use event::{Event, EventKind, Side};
pub use job::control::{Doubts, FollowStatus, State};
pub use job::engine::{Depth, FollowSpec, JobSpec, OnConflict, OnFlush, Sweep, Verify};
pub use job::supervisor::{Job, Snapshot};
pub use resp::Eviction;
pub use source::cluster::{ClusterNode, SlotSet};
pub use target::limits::TargetLimits;
pub use transform::sample::Sample;
