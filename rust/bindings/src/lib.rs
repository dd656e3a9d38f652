//! `slotferry._core`: adapters between Python and `slotferry-core`, one file a class, and nothing more.
//!
//! Invariant: pull-only, as `python/slotferry/_core.pyi` says it; the interpreter is detached wherever a call
//! may wait; errors cross in `error.rs` alone.

mod access;
mod checkpoint;
mod error;
mod event;
mod file;
mod filter;
mod follow;
mod handover;
mod job;
mod keymap;
mod kinds;
mod slot;
mod snapshot;
mod stream;
mod survey;

use pyo3::prelude::*;

#[pymodule]
mod _core {
    #[pymodule_export]
    use super::access::Access;
    #[pymodule_export]
    use super::checkpoint::{Checkpoint, Failure, PartitionMark, Pending};
    #[pymodule_export]
    use super::error::{EngineError, ErrorKind};
    #[pymodule_export]
    use super::event::{Event, EventKind};
    #[pymodule_export]
    use super::file::{RdbBeginning, look_at_rdb};
    #[pymodule_export]
    use super::filter::ValueFilter;
    #[pymodule_export]
    use super::follow::{FollowProgress, FollowSettings};
    #[pymodule_export]
    use super::handover::Handover;
    #[pymodule_export]
    use super::job::Job;
    #[pymodule_export]
    use super::keymap::KeyMap;
    #[pymodule_export]
    use super::slot::{key_slot, key_slots};
    #[pymodule_export]
    use super::snapshot::{Counts, Snapshot};
    #[pymodule_export]
    use super::stream::stream_keys;
    #[pymodule_export]
    use super::survey::Survey;

    #[pymodule_export]
    const SLOTS: u16 = slotferry_core::slot::SLOTS;

    #[pymodule_export]
    #[allow(non_upper_case_globals, reason = "the name that Python gives to versions")]
    const __version__: &str = env!("CARGO_PKG_VERSION");
}
