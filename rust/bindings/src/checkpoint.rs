//! `Checkpoint` and what it holds: to be written in one transaction.

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};
use pyo3::{PyClass, PyClassInitializer};
use slotferry_core::ledger::{checkpoint, progress, unsettled};

use crate::follow::{PyPosition, position};
use crate::snapshot::Counts;

/// A key that was given up.
#[pyclass(frozen, module = "slotferry._core")]
pub(crate) struct Failure(unsettled::Failure);

#[pymethods]
impl Failure {
    #[getter]
    fn key<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.key)
    }
    #[getter]
    fn slot(&self) -> u16 {
        self.0.slot
    }
    #[getter]
    fn kind(&self) -> &'static str {
        self.0.kind.name()
    }
    #[getter]
    fn message(&self) -> &str {
        &self.0.message
    }
    #[getter]
    fn source(&self) -> Option<&str> {
        self.0.sides.as_ref().map(|sides| sides.source.as_str())
    }
    #[getter]
    fn target(&self) -> Option<&str> {
        self.0.sides.as_ref().map(|sides| sides.target.as_str())
    }
    #[getter]
    fn node(&self) -> &str {
        &self.0.node
    }
    fn __repr__(&self) -> String {
        format!("{:?}", self.0)
    }
}

/// A key that could not be written because its slot stayed unavailable.
#[pyclass(frozen, module = "slotferry._core")]
pub(crate) struct Pending(unsettled::Pending);

#[pymethods]
impl Pending {
    #[getter]
    fn key<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.key)
    }
    #[getter]
    fn slot(&self) -> u16 {
        self.0.slot
    }
    #[getter]
    fn reason(&self) -> &str {
        &self.0.reason
    }
    fn __repr__(&self) -> String {
        format!("{:?}", self.0)
    }
}

/// The low-water mark of a partition.
#[pyclass(frozen, module = "slotferry._core")]
pub(crate) struct PartitionMark(checkpoint::Mark);

#[pymethods]
impl PartitionMark {
    #[getter]
    fn index(&self) -> u32 {
        self.0.index
    }
    #[getter]
    fn cursor(&self) -> u64 {
        self.0.cursor
    }
    #[getter]
    fn done(&self) -> bool {
        self.0.done
    }
    fn __repr__(&self) -> String {
        format!("{:?}", self.0)
    }
}

/// All that may be recorded as done, taken at one instant.
#[pyclass(frozen, module = "slotferry._core", get_all)]
pub(crate) struct Checkpoint {
    partitions: Py<PyAny>,
    counts: Py<Counts>,
    failures: Py<PyAny>,
    pending: Py<PyAny>,
    notes: Py<PyAny>,
    big_positions: Py<PyAny>,
    resolved: Py<PyAny>,
    follow: Option<(PyPosition, bool)>,
}

#[pymethods]
impl Checkpoint {
    /// One checkpoint of several jobs, whose partitions are counted from these numbers on.
    #[staticmethod]
    #[pyo3(signature = (parts, /))]
    #[allow(
        clippy::needless_pass_by_value,
        reason = "a list of Python's becomes one of ours"
    )]
    fn merged(py: Python<'_>, parts: Vec<(Py<Self>, u32)>) -> PyResult<Self> {
        let joined = |lists: Vec<&Py<PyAny>>| -> PyResult<Py<PyAny>> {
            let all = PyList::empty(py);
            for list in lists {
                for item in list.bind(py).try_iter()? {
                    all.append(item?)?;
                }
            }
            Ok(all.into_any().unbind())
        };
        let marks = PyList::empty(py);
        let mut counts = progress::Counts::default();
        for (part, first) in &parts {
            let part = part.get();
            for mark in part.partitions.bind(py).try_iter()? {
                let mark = mark?.cast_into::<PartitionMark>()?.get().0;
                let index = mark.index + first;
                marks.append(Py::new(py, PartitionMark(checkpoint::Mark { index, ..mark }))?)?;
            }
            counts.merge(&part.counts.get().0);
        }
        let of =
            |list: fn(&Self) -> &Py<PyAny>| joined(parts.iter().map(|(part, _)| list(part.get())).collect());
        Ok(Self {
            partitions: marks.into_any().unbind(),
            counts: Py::new(py, Counts(counts))?,
            failures: of(|part| &part.failures)?,
            pending: of(|part| &part.pending)?,
            notes: of(|part| &part.notes)?,
            big_positions: of(|part| &part.big_positions)?,
            resolved: of(|part| &part.resolved)?,
            follow: None,
        })
    }
}

impl Checkpoint {
    /// Turn the engine's checkpoint into lists of Python objects, once.
    pub fn new(py: Python<'_>, checkpoint: checkpoint::Checkpoint) -> PyResult<Self> {
        fn list<T, C: PyClass + Into<PyClassInitializer<C>>>(
            py: Python<'_>,
            items: Vec<T>,
            wrap: impl Fn(T) -> C,
        ) -> PyResult<Py<PyAny>> {
            let objects = items
                .into_iter()
                .map(|item| Py::new(py, wrap(item)))
                .collect::<PyResult<Vec<_>>>()?;
            Ok(objects.into_pyobject(py)?.unbind())
        }
        let big_positions: Vec<_> = checkpoint
            .big_positions
            .into_iter()
            .map(|(key, position)| (PyBytes::new(py, &key), position))
            .collect();
        let resolved: Vec<_> = checkpoint
            .resolved
            .iter()
            .map(|key| PyBytes::new(py, key))
            .collect();
        Ok(Self {
            partitions: list(py, checkpoint.marks, PartitionMark)?,
            counts: Py::new(py, Counts(checkpoint.counts))?,
            failures: list(py, checkpoint.failures, Failure)?,
            pending: list(py, checkpoint.pending, Pending)?,
            notes: list(py, checkpoint.notes, Failure)?,
            big_positions: big_positions.into_pyobject(py)?.unbind(),
            resolved: resolved.into_pyobject(py)?.unbind(),
            follow: checkpoint
                .follow
                .map(|mark| (position(&mark.position), mark.in_doubt)),
        })
    }
}
