//! `FollowSettings` and `FollowProgress`: how a source is followed, and how that stands.

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use slotferry_core::ledger::position::Position;
use slotferry_core::{FollowSpec, FollowStatus, OnFlush};

use crate::error::usage;

/// Replication id, offset, database.
pub(crate) type PyPosition = (String, u64, u32);

pub(crate) fn position(position: &Position) -> PyPosition {
    (position.id.clone(), position.offset, position.database)
}

/// How a source is followed.
#[pyclass(frozen, module = "slotferry._core")]
pub(crate) struct FollowSettings(pub FollowSpec);

#[pymethods]
impl FollowSettings {
    #[new]
    #[pyo3(signature = (*, position = None, in_doubt = false, on_flush = "stop", memory = 67_108_864))]
    fn new(position: Option<PyPosition>, in_doubt: bool, on_flush: &str, memory: usize) -> PyResult<Self> {
        Ok(Self(FollowSpec {
            from: position.map(|(id, offset, database)| Position { id, offset, database }),
            in_doubt,
            on_flush: match on_flush {
                "stop" => OnFlush::Stop,
                "compare" => OnFlush::Compare,
                other => return Err(usage(format!("on_flush is stop or compare, not {other}"))),
            },
            memory,
        }))
    }
    fn __repr__(&self) -> String {
        format!("{:?}", self.0)
    }
}

/// How following stands at one instant.
#[pyclass(frozen, module = "slotferry._core")]
pub(crate) struct FollowProgress(pub FollowStatus);

#[pymethods]
impl FollowProgress {
    #[getter]
    fn mark(&self) -> PyPosition {
        position(&self.0.mark)
    }
    #[getter]
    fn clean(&self) -> u64 {
        self.0.clean
    }
    #[getter]
    fn busy_keys<'py>(&self, py: Python<'py>) -> Vec<Bound<'py, PyBytes>> {
        let keys = self.0.busy_keys.iter();
        keys.map(|key| PyBytes::new(py, key)).collect()
    }
    #[getter]
    fn received(&self) -> u64 {
        self.0.received
    }
    #[getter]
    fn lag_bytes(&self) -> u64 {
        self.0.received.saturating_sub(self.0.mark.offset)
    }
    #[getter]
    fn lag_seconds(&self) -> f64 {
        self.0.lag.as_secs_f64()
    }
    #[getter]
    fn connected(&self) -> bool {
        self.0.connected
    }
    #[getter]
    fn in_doubt(&self) -> bool {
        self.0.in_doubt
    }
    #[getter]
    fn doubtful_slots(&self) -> u64 {
        self.0.doubtful_slots
    }
    #[getter]
    fn comparing(&self) -> bool {
        self.0.comparing
    }
    #[getter]
    fn touched(&self) -> u64 {
        self.0.touched
    }
    #[getter]
    fn touched_bytes(&self) -> u64 {
        self.0.touched_bytes
    }
    #[getter]
    fn commands(&self) -> u64 {
        self.0.commands
    }
    #[getter]
    fn writes(&self) -> u64 {
        self.0.writes
    }
    #[getter]
    fn copied(&self) -> u64 {
        self.0.copied
    }
    #[getter]
    fn deleted(&self) -> u64 {
        self.0.deleted
    }
    #[getter]
    fn bytes(&self) -> u64 {
        self.0.bytes
    }
    #[getter]
    fn published(&self) -> u64 {
        self.0.published
    }
    #[getter]
    fn scripts(&self) -> u64 {
        self.0.scripts
    }
    #[getter]
    fn functions(&self) -> u64 {
        self.0.functions
    }
    #[getter]
    fn flushes(&self) -> u64 {
        self.0.flushes
    }
    #[getter]
    fn resyncs(&self) -> u64 {
        self.0.resyncs
    }
    #[getter]
    fn comparisons(&self) -> u64 {
        self.0.comparisons
    }
    #[getter]
    fn at_rest(&self) -> bool {
        self.0.at_rest
    }
    fn __repr__(&self) -> String {
        format!("{:?}", self.0)
    }
}
