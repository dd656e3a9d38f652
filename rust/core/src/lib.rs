//! The data plane of Slotferry: reads keys from a standalone server and writes them into a cluster.
//!
//! Invariants (the whole list is in `rust/README.md`): the source is only read; a checkpoint never runs ahead
//! of acknowledged writes; every scanned key ends in exactly one count; memory is bounded by a byte budget.

pub mod checkpoint;
mod control;
pub mod error;
pub mod filter;
pub mod flow;
pub mod handover;
pub mod job;
pub mod keymap;
pub mod ledger;
pub mod net;
pub mod payload;
mod pipeline;
pub mod progress;
pub mod reply;
pub mod resp;
pub mod slot;
pub mod source;
pub mod survey;
pub mod topology;

pub use control::{Doubts, Event, FollowStatus, Side, State};
pub use error::{Error, ErrorKind, Result};
pub use job::{Job, Snapshot};
pub use pipeline::{
    Depth, Eviction, FollowSpec, JobSpec, OnConflict, OnFlush, Sample, Sweep, TargetLimits, Verify,
};
