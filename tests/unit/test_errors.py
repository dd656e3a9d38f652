"""Errors: each has its exit code, its kind, and nothing that it should not show."""

import pickle
import sys
from signal import SIGTERM

import pytest

from slotferry import errors
from slotferry._core import ErrorKind
from slotferry.errors import ExitCode, SlotferryError, unexpected
from slotferry.jobs.engine_errors import ENGINE_ERRORS, from_engine


@pytest.mark.parametrize(
    ("kind", "error", "code"),
    [
        (ErrorKind.SOURCE_LOST, errors.SourceLostError, 5),
        (ErrorKind.SOURCE_CHANGED, errors.SourceLostError, 5),
        (ErrorKind.SOURCE_REFUSED, errors.SourceNotReadyError, 4),
        (ErrorKind.TARGET_LOST, errors.TargetLostError, 6),
        (ErrorKind.TARGET_FULL, errors.TargetLostError, 6),
        (ErrorKind.TARGET_REFUSED, errors.TargetNotReadyError, 4),
        (ErrorKind.INTERRUPTED, errors.MigrationInterrupted, 130),
        (ErrorKind.USAGE, errors.UsageError, 2),
        (ErrorKind.FORKED, errors.UsageError, 2),
        (ErrorKind.INTERNAL, errors.InternalError, 1),
    ],
)
def test_each_error_of_the_engine_has_its_exit_code(
    kind: ErrorKind, error: type[SlotferryError], code: int
) -> None:
    mapped = from_engine(kind, "what happened")
    assert type(mapped) is error
    assert mapped.exit_code == code
    assert str(mapped) == mapped.message == "what happened"


def test_every_kind_of_the_engine_has_an_error() -> None:
    kinds = {kind for kind in vars(ErrorKind).values() if isinstance(kind, ErrorKind)}
    assert len(kinds) == 14
    assert set(ENGINE_ERRORS) == kinds
    assert {kind.value.upper() for kind in kinds} == {name for name in vars(ErrorKind) if name.isupper()}


def test_the_kind_of_an_error_of_the_engine_is_kept() -> None:
    assert from_engine(ErrorKind.TARGET_FULL, "OOM").to_dict()["kind"] == "target_full"


def test_an_interruption_says_by_which_signal() -> None:
    assert errors.MigrationInterrupted("x").exit_code == ExitCode.INTERRUPTED
    assert errors.MigrationInterrupted("x", signal=SIGTERM).exit_code == ExitCode.TERMINATED


def test_errors_are_also_what_python_calls_them() -> None:
    assert issubclass(errors.UsageError, ValueError)
    assert issubclass(errors.SourceLostError, ConnectionError)
    assert issubclass(errors.TargetLostError, ConnectionError)


def test_an_error_without_hint_has_null_in_json() -> None:
    assert errors.JournalError("x").to_dict() == {"kind": "journal", "message": "x", "hint": None}


def test_an_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(errors.SourceLostError("gone", hint="wait")))
    assert (error.message, error.hint) == ("gone", "wait")


def test_refusals_exit_with_4() -> None:
    refusals = [
        errors.RefusedError,
        errors.JournalError,
        errors.JobLockedError,
        errors.JobMismatchError,
        errors.SourceNotReadyError,
        errors.TargetNotReadyError,
    ]
    assert {error("x").exit_code for error in refusals} == {ExitCode.REFUSED}
    assert len({error.kind for error in refusals}) == len(refusals)


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS is not kept everywhere")
@pytest.mark.parametrize(
    "error", [RuntimeError("can't start new thread"), MemoryError(), ImportError("No module named 'x'")]
)
def test_what_too_little_address_space_breaks_is_no_bug(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    import resource

    monkeypatch.setattr(resource, "getrlimit", lambda _: (200_000_000, 200_000_000))
    told = unexpected(error)
    assert told.exit_code == ExitCode.REFUSED
    assert "limited to 200 MB (ulimit -v)" in told.message
    assert "ulimit -v unlimited" in told.hint
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY,) * 2)
    assert unexpected(error).exit_code == ExitCode.BUG
