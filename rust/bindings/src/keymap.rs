//! `KeyMap`: which keys are taken, and what they are called at the target.

use std::sync::{Arc, Mutex, PoisonError};

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use slotferry_core::transform::keymap;
use slotferry_core::transform::keymap::{NameFilter, Rule, Scratch};

use crate::error::{raise, usage};

/// Rules and filter, compiled.
#[pyclass(frozen, module = "slotferry._core")]
pub(crate) struct KeyMap(pub Arc<keymap::KeyMap>, Mutex<Scratch>);

/// Kind, pattern, text, last.
type PyRule = (String, String, Vec<u8>, bool);

fn rule((kind, pattern, text, last): PyRule) -> PyResult<Rule> {
    match kind.as_str() {
        "rewrite" => Ok(Rule::Rewrite {
            pattern,
            template: text,
            last,
        }),
        "add_prefix" => Ok(Rule::AddPrefix(text)),
        "strip_prefix" => Ok(Rule::StripPrefix(text)),
        other => Err(usage(format!(
            "a rule is rewrite, add_prefix or strip_prefix, not {other}"
        ))),
    }
}

#[pymethods]
impl KeyMap {
    #[new]
    #[pyo3(signature = (
        *,
        rules = Vec::new(),
        prefix = b"".as_slice(),
        globs = Vec::new(),
        patterns = Vec::new(),
        excluded_globs = Vec::new(),
        excluded_patterns = Vec::new(),
        slots = Vec::new(),
    ))]
    fn new(
        rules: Vec<PyRule>,
        prefix: &[u8],
        globs: Vec<Vec<u8>>,
        patterns: Vec<String>,
        excluded_globs: Vec<Vec<u8>>,
        excluded_patterns: Vec<String>,
        slots: Vec<(u16, u16)>,
    ) -> PyResult<Self> {
        let rules: Vec<Rule> = rules.into_iter().map(rule).collect::<PyResult<_>>()?;
        let filter = NameFilter {
            globs,
            patterns,
            excluded_globs,
            excluded_patterns,
            slots,
        };
        let map = keymap::KeyMap::new(&rules, prefix, &filter).map_err(|error| raise(&error))?;
        Ok(Self(Arc::new(map), Mutex::default()))
    }

    #[getter]
    fn renames(&self) -> bool {
        self.0.renames()
    }

    #[getter]
    fn is_one_to_one(&self) -> bool {
        self.0.is_one_to_one()
    }

    #[getter]
    fn without_way_back(&self) -> Option<&str> {
        self.0.without_way_back()
    }

    #[pyo3(signature = (name, /))]
    fn sources<'py>(&self, py: Python<'py>, name: &[u8]) -> Option<Vec<Bound<'py, PyBytes>>> {
        let mut scratch = self.1.lock().unwrap_or_else(PoisonError::into_inner);
        let found = self.0.sources(name, &mut scratch).ok()?;
        Some(found.iter().map(|source| PyBytes::new(py, source)).collect())
    }

    #[pyo3(signature = (key, /))]
    fn place<'py>(&self, py: Python<'py>, key: &[u8]) -> Option<(Bound<'py, PyBytes>, u16)> {
        let mut scratch = self.1.lock().unwrap_or_else(PoisonError::into_inner);
        let (name, slot) = self.0.place(key, &mut scratch)?;
        Some((PyBytes::new(py, name), slot))
    }
}
