//! What an RDB file says before its first key.

use std::path::PathBuf;

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use slotferry_core::source::file::{Beginning, look};

use crate::error::raise;

/// The beginning of an RDB file; see the stub.
#[pyclass(frozen, module = "slotferry._core")]
pub(crate) struct RdbBeginning(Beginning);

#[pymethods]
impl RdbBeginning {
    #[getter]
    fn version(&self) -> u16 {
        self.0.version
    }

    #[getter]
    fn fields<'py>(&self, py: Python<'py>) -> Vec<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)> {
        let fields = self.0.fields.iter();
        fields
            .map(|(name, value)| (PyBytes::new(py, name), PyBytes::new(py, value)))
            .collect()
    }

    #[getter]
    fn libraries<'py>(&self, py: Python<'py>) -> Vec<Bound<'py, PyBytes>> {
        self.0
            .libraries
            .iter()
            .map(|code| PyBytes::new(py, code))
            .collect()
    }

    #[getter]
    fn first_database(&self) -> Option<(u64, Option<u64>)> {
        self.0.first_database
    }

    #[getter]
    fn stamp(&self) -> (u64, i64) {
        self.0.stamp
    }
}

/// Look at the beginning of an RDB file; see the stub.
#[allow(clippy::needless_pass_by_value, reason = "Python hands it over")]
#[pyfunction]
#[pyo3(signature = (path, name, /))]
pub(crate) fn look_at_rdb(py: Python<'_>, path: PathBuf, name: &str) -> PyResult<RdbBeginning> {
    py.detach(|| look(&path, name))
        .map(RdbBeginning)
        .map_err(|error| raise(&error))
}
