//! The one place where errors cross to Python.
//!
//! Invariant: an `EngineError` carries `(kind, message)`, and the message no secret. A kind of the engine that is not
//! given here does not compile.

use pyo3::create_exception;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use slotferry_core::Error;

create_exception!(
    _core,
    EngineError,
    PyException,
    "What the engine raises: (kind, message)."
);

/// What kind of trouble an `EngineError` is.
#[pyclass(
    frozen,
    eq,
    hash,
    module = "slotferry._core",
    rename_all = "SCREAMING_SNAKE_CASE"
)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum ErrorKind {
    SourceLost,
    SourceChanged,
    SourceRefused,
    SourceFlushed,
    TargetLost,
    TargetFailedOver,
    TargetIsSource,
    TargetChanged,
    TargetFull,
    TargetRefused,
    Interrupted,
    Usage,
    Internal,
    Forked,
}

#[pymethods]
impl ErrorKind {
    #[getter]
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "this is how Python calls it")]
    fn value(&self) -> &'static str {
        match self {
            Self::SourceLost => slotferry_core::ErrorKind::SourceLost.name(),
            Self::SourceChanged => slotferry_core::ErrorKind::SourceChanged.name(),
            Self::SourceRefused => slotferry_core::ErrorKind::SourceRefused.name(),
            Self::SourceFlushed => slotferry_core::ErrorKind::SourceFlushed.name(),
            Self::TargetLost => slotferry_core::ErrorKind::TargetLost.name(),
            Self::TargetFailedOver => slotferry_core::ErrorKind::TargetFailedOver.name(),
            Self::TargetIsSource => slotferry_core::ErrorKind::TargetIsSource.name(),
            Self::TargetChanged => slotferry_core::ErrorKind::TargetChanged.name(),
            Self::TargetFull => slotferry_core::ErrorKind::TargetFull.name(),
            Self::TargetRefused => slotferry_core::ErrorKind::TargetRefused.name(),
            Self::Interrupted => slotferry_core::ErrorKind::Interrupted.name(),
            Self::Usage => slotferry_core::ErrorKind::Usage.name(),
            Self::Internal => slotferry_core::ErrorKind::Internal.name(),
            Self::Forked => "forked",
        }
    }
}

impl From<slotferry_core::ErrorKind> for ErrorKind {
    fn from(kind: slotferry_core::ErrorKind) -> Self {
        use slotferry_core::ErrorKind as Core;
        match kind {
            Core::SourceLost => Self::SourceLost,
            Core::SourceChanged => Self::SourceChanged,
            Core::SourceRefused => Self::SourceRefused,
            Core::SourceFlushed => Self::SourceFlushed,
            Core::TargetLost => Self::TargetLost,
            Core::TargetFailedOver => Self::TargetFailedOver,
            Core::TargetIsSource => Self::TargetIsSource,
            Core::TargetChanged => Self::TargetChanged,
            Core::TargetFull => Self::TargetFull,
            Core::TargetRefused => Self::TargetRefused,
            Core::Interrupted => Self::Interrupted,
            Core::Usage => Self::Usage,
            Core::Internal => Self::Internal,
        }
    }
}

/// An engine's error as a Python exception.
pub(crate) fn raise(error: &Error) -> PyErr {
    EngineError::new_err((ErrorKind::from(error.kind), error.message.clone()))
}

/// An argument that makes no sense.
pub(crate) fn usage(message: impl Into<String>) -> PyErr {
    EngineError::new_err((ErrorKind::Usage, message.into()))
}

/// The job belongs to the parent process: its thread does not exist in this one.
pub(crate) fn forked() -> PyErr {
    EngineError::new_err((
        ErrorKind::Forked,
        "this job was made before fork() and belongs to the parent process; make a new one here",
    ))
}
