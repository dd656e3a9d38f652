//! `Event`: something the control plane should know of or act on.

use pyo3::prelude::*;

/// Something the control plane should know of or act on.
#[pyclass(frozen, module = "slotferry._core")]
pub(crate) struct Event(pub slotferry_core::Event);

#[pymethods]
impl Event {
    #[getter]
    fn kind(&self) -> &'static str {
        self.0.kind
    }
    #[getter]
    fn message(&self) -> &str {
        &self.0.message
    }
    #[getter]
    fn node(&self) -> Option<&str> {
        self.0.node.as_deref()
    }
    #[getter]
    fn slot(&self) -> Option<u16> {
        self.0.slot
    }
    fn __repr__(&self) -> String {
        format!("{:?}", self.0)
    }
}
