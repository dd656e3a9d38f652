//! Slot hashing for Python.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

/// Return the hash slot of `key`.
#[pyfunction]
#[pyo3(signature = (key, /))]
pub(crate) fn key_slot(key: &Bound<'_, PyAny>) -> PyResult<u16> {
    if let Ok(bytes) = key.cast::<PyBytes>() {
        return Ok(slotferry_core::slot::key_slot(bytes.as_bytes()));
    }
    if let Ok(text) = key.cast::<PyString>() {
        return Ok(slotferry_core::slot::key_slot(text.to_str()?.as_bytes()));
    }
    Err(PyTypeError::new_err(format!(
        "a key is bytes or str, not {}",
        key.get_type().name()?
    )))
}

/// Return the hash slot of each key, in order.
#[pyfunction]
#[pyo3(signature = (keys, /))]
pub(crate) fn key_slots(keys: &Bound<'_, PyAny>) -> PyResult<Vec<u16>> {
    keys.try_iter()?.map(|key| key_slot(&key?)).collect()
}
