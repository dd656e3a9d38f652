//! The one place where errors cross to Python.
//!
//! Invariant: an `EngineError` carries `(kind, message)`, and the message no secret.

use pyo3::create_exception;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use slotferry_core::Error;

use crate::kinds::kinds;

create_exception!(
    _core,
    EngineError,
    PyException,
    "What the engine raises: (kind, message)."
);

kinds! {
    /// What kind of trouble an `EngineError` is.
    ErrorKind:
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
    Internal; Forked = "forked"
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
