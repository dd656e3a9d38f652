//! `Counts` and `Snapshot`: figures, read-only.

use pyo3::prelude::*;
use slotferry_core::ledger::progress;

use crate::error::usage;
use crate::follow::FollowProgress;

/// How many keys ended how.
#[pyclass(frozen, module = "slotferry._core")]
pub(crate) struct Counts(pub progress::Counts);

#[pymethods]
impl Counts {
    #[getter]
    fn scanned(&self) -> u64 {
        self.0.scanned
    }
    #[getter]
    fn migrated(&self) -> u64 {
        self.0.migrated
    }
    #[getter]
    fn unchanged(&self) -> u64 {
        self.0.unchanged
    }
    #[getter]
    fn skipped(&self) -> u64 {
        self.0.skipped
    }
    #[getter]
    fn expired(&self) -> u64 {
        self.0.expired
    }
    #[getter]
    fn vanished(&self) -> u64 {
        self.0.vanished
    }
    #[getter]
    fn pending(&self) -> u64 {
        self.0.pending
    }
    #[getter]
    fn failed(&self) -> u64 {
        self.0.failed
    }
    #[getter]
    fn bytes(&self) -> u64 {
        self.0.bytes
    }
    fn __repr__(&self) -> String {
        format!("{:?}", self.0)
    }
}

/// The job at one instant.
#[pyclass(frozen, module = "slotferry._core")]
pub(crate) struct Snapshot(pub slotferry_core::Snapshot);

#[pymethods]
impl Snapshot {
    #[staticmethod]
    #[pyo3(signature = (parts, /))]
    #[allow(
        clippy::needless_pass_by_value,
        reason = "a list of Python's becomes one of ours"
    )]
    fn merged(parts: Vec<PyRef<'_, Self>>) -> PyResult<Self> {
        let parts: Vec<_> = parts.iter().map(|part| part.0.clone()).collect();
        slotferry_core::Snapshot::merged(parts)
            .map(Self)
            .ok_or_else(|| usage("no snapshot was given"))
    }

    #[getter]
    fn state(&self) -> &'static str {
        self.0.state.name()
    }
    #[getter]
    fn reason(&self) -> &str {
        &self.0.reason
    }
    #[getter]
    fn counts(&self) -> Counts {
        Counts(self.0.counts)
    }
    #[getter]
    fn moved(&self) -> u64 {
        self.0.moved
    }
    #[getter]
    fn ask(&self) -> u64 {
        self.0.ask
    }
    #[getter]
    fn retries(&self) -> u64 {
        self.0.retries.iter().map(|(_, commands)| commands).sum()
    }
    #[getter]
    fn retries_by_reason(&self) -> Vec<(&'static str, u64)> {
        let named = self.0.retries.iter();
        named
            .map(|(reason, commands)| (reason.name(), *commands))
            .collect()
    }
    #[getter]
    fn buffered_bytes(&self) -> u64 {
        self.0.buffered_bytes
    }
    #[getter]
    fn engine_cpu_seconds(&self) -> f64 {
        self.0.engine_cpu.as_secs_f64()
    }
    #[getter]
    fn keys_by_primary(&self) -> Vec<(String, u64)> {
        self.0.keys_by_primary.clone()
    }
    #[getter]
    fn follow(&self) -> Option<FollowProgress> {
        self.0.follow.clone().map(FollowProgress)
    }
    fn __repr__(&self) -> String {
        format!("{:?}", self.0)
    }
}
