//! `Survey`: a look at names alone, fed by scan-only jobs.

use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use slotferry_core::job::survey;

use crate::keymap::KeyMap;

/// What rules make of names, and which names would meet.
#[pyclass(frozen, module = "slotferry._core")]
pub(crate) struct Survey(pub Arc<survey::Survey>);

type PyName<'py> = (Bound<'py, PyBytes>, u16);
type PySample<'py> = (u32, PyName<'py>, PyName<'py>);
type PyCollision<'py> = (u32, Bound<'py, PyBytes>, Vec<(u32, Bound<'py, PyBytes>)>, u64);
type PyFindings<'py> = (
    u64,
    u64,
    Vec<PySample<'py>>,
    Vec<u64>,
    Vec<u64>,
    Vec<PyCollision<'py>>,
    bool,
);

#[pymethods]
impl Survey {
    #[new]
    #[pyo3(signature = (*, expected_keys, memory, samples = 10))]
    fn new(expected_keys: u64, memory: u64, samples: usize) -> Self {
        Self(Arc::new(survey::Survey::new(expected_keys, memory, samples)))
    }

    fn next_pass(&self, py: Python<'_>) -> bool {
        py.detach(|| self.0.next_pass())
    }

    #[pyo3(signature = (keys, key_map, /, *, source_database = 0, target_database = 0))]
    fn add(
        &self,
        py: Python<'_>,
        keys: Vec<Vec<u8>>,
        key_map: Option<Bound<'_, KeyMap>>,
        source_database: u32,
        target_database: u32,
    ) {
        let map = key_map.map(|map| Arc::clone(&map.get().0));
        py.detach(move || {
            let names = keys.iter().map(Vec::as_slice);
            self.0
                .add_names(source_database, target_database, names, map.as_deref());
        });
    }

    fn findings<'py>(&self, py: Python<'py>) -> PyFindings<'py> {
        let found = self.0.findings();
        let samples = found
            .samples
            .iter()
            .map(|sample| {
                (
                    sample.database,
                    (PyBytes::new(py, &sample.source.0), sample.source.1),
                    (PyBytes::new(py, &sample.target.0), sample.target.1),
                )
            })
            .collect();
        let collisions = found
            .collisions
            .iter()
            .map(|collision| {
                let sources = collision
                    .sources
                    .iter()
                    .map(|(database, key)| (*database, PyBytes::new(py, key)))
                    .collect();
                let target = PyBytes::new(py, &collision.target);
                (collision.database, target, sources, collision.keys)
            })
            .collect();
        let (before, after) = found.slots;
        (
            found.keys,
            found.renamed,
            samples,
            before,
            after,
            collisions,
            found.more,
        )
    }
}
