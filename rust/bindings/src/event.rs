//! `Event`: something the control plane should know of or act on.

use pyo3::prelude::*;

use crate::kinds::kinds;

kinds! {
    /// What an `Event` is.
    EventKind:
    TopologyWanted,
    CheckpointWanted,
    SourceAccessWanted,
    TargetAccessWanted,
    NodeLost,
    NodeBack,
    SourceLost,
    SourceBack,
    SlotParked,
    BigKeyAgain,
    BusyKey,
    NamesShared,
    ElementsGivenUp,
    ElementsRefused,
    BigKeysUnseen,
    FollowAttached,
    FollowLost,
    FollowResynced,
    FollowFunctions,
    ComparisonWanted,
    FileDamaged,
    FileDatabases,
    FileFunctions,
}

/// Something the control plane should know of or act on.
#[pyclass(frozen, module = "slotferry._core")]
pub(crate) struct Event(pub slotferry_core::Event);

#[pymethods]
impl Event {
    #[getter]
    fn kind(&self) -> EventKind {
        self.0.kind.into()
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
