//! `ValueFilter`: which keys are taken by what they are.

use pyo3::prelude::*;
use slotferry_core::transform::filter;

/// Filters that the source is asked about, key by key.
#[pyclass(frozen, module = "slotferry._core")]
pub(crate) struct ValueFilter(pub filter::ValueFilter);

#[pymethods]
impl ValueFilter {
    #[new]
    #[pyo3(signature = (
        *,
        types = Vec::new(),
        excluded_types = Vec::new(),
        min_size = None,
        max_size = None,
        without_ttl = false,
        min_ttl_ms = None,
    ))]
    fn new(
        types: Vec<String>,
        excluded_types: Vec<String>,
        min_size: Option<u64>,
        max_size: Option<u64>,
        without_ttl: bool,
        min_ttl_ms: Option<u64>,
    ) -> Self {
        Self(filter::ValueFilter {
            types,
            excluded_types,
            min_size,
            max_size,
            without_ttl,
            min_ttl: min_ttl_ms,
        })
    }
}
