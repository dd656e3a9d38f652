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

/// Makes a class for Python of these kinds, which are all that the engine has, and of one that only Python can meet.
macro_rules! kinds {
    ($($kind:ident),* $(,)?) => {
        /// What kind of trouble an `EngineError` is.
        #[pyclass(frozen, eq, hash, module = "slotferry._core", rename_all = "SCREAMING_SNAKE_CASE")]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub(crate) enum ErrorKind {
            $($kind,)*
            Forked,
        }

        #[pymethods]
        impl ErrorKind {
            #[getter]
            #[allow(clippy::trivially_copy_pass_by_ref, reason = "this is how Python calls it")]
            fn value(&self) -> &'static str {
                match self {
                    $(Self::$kind => slotferry_core::ErrorKind::$kind.name(),)*
                    Self::Forked => "forked",
                }
            }
        }

        impl From<slotferry_core::ErrorKind> for ErrorKind {
            fn from(kind: slotferry_core::ErrorKind) -> Self {
                match kind {
                    $(slotferry_core::ErrorKind::$kind => Self::$kind,)*
                }
            }
        }
    };
}

kinds!(
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
);

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
