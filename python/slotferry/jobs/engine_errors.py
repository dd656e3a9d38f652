"""What each error of the engine is for whoever runs a job: an exception with its exit code and a hint.

Invariant: every kind of the engine is here; the engine's message and kind are kept.
"""

from __future__ import annotations

from slotferry._core import ErrorKind
from slotferry.errors import (
    RESUME_HINT,
    InternalError,
    MigrationInterrupted,
    SlotferryError,
    SourceLostError,
    SourceNotReadyError,
    TargetLostError,
    TargetNotReadyError,
    UsageError,
)

ENGINE_ERRORS: dict[ErrorKind, tuple[type[SlotferryError], str]] = {
    ErrorKind.SOURCE_LOST: (SourceLostError, RESUME_HINT),
    ErrorKind.SOURCE_CHANGED: (SourceLostError, RESUME_HINT),
    ErrorKind.SOURCE_REFUSED: (SourceNotReadyError, "fix the reported error, then " + RESUME_HINT),
    ErrorKind.SOURCE_FLUSHED: (
        SourceNotReadyError,
        "find out what emptied it: the target is as it was before; where it was meant, give --on-flush apply",
    ),
    ErrorKind.TARGET_LOST: (TargetLostError, RESUME_HINT),
    ErrorKind.TARGET_FAILED_OVER: (TargetLostError, RESUME_HINT),
    ErrorKind.TARGET_CHANGED: (TargetLostError, RESUME_HINT),
    ErrorKind.TARGET_IS_SOURCE: (
        TargetNotReadyError,
        "correct what the target's nodes announce, or give --address-map, then " + RESUME_HINT,
    ),
    ErrorKind.TARGET_FULL: (TargetLostError, "give the target room for more data, then " + RESUME_HINT),
    ErrorKind.TARGET_REFUSED: (TargetNotReadyError, "fix the reported error, then " + RESUME_HINT),
    ErrorKind.USAGE: (UsageError, ""),
    ErrorKind.FORKED: (UsageError, "start the migration in the process that runs it"),
    ErrorKind.INTERRUPTED: (MigrationInterrupted, RESUME_HINT),
    ErrorKind.INTERNAL: (InternalError, ""),
}


def from_engine(kind: ErrorKind, message: str) -> SlotferryError:
    """Return the exception for an `EngineError(kind, message)` of the engine; its kind is kept."""
    error, hint = ENGINE_ERRORS[kind]
    if error is MigrationInterrupted:
        return MigrationInterrupted(message, hint=hint)
    return error(message, hint=hint, kind=kind.value)
