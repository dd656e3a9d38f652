"""Errors: each has its exit code, its kind, and nothing that it should not show."""

import pickle
from signal import SIGTERM

import pytest

from slotferry import errors
from slotferry.errors import ExitCode, SlotferryError, from_engine


@pytest.mark.parametrize(
    ("kind", "error", "code"),
    [
        ("source_lost", errors.SourceLostError, 5),
        ("source_changed", errors.SourceLostError, 5),
        ("source_refused", errors.SourceUnfitError, 4),
        ("target_lost", errors.TargetLostError, 6),
        ("target_full", errors.TargetLostError, 6),
        ("target_refused", errors.TargetUnfitError, 4),
        ("interrupted", errors.MigrationInterrupted, 130),
        ("usage", errors.UsageError, 2),
        ("forked", errors.UsageError, 2),
        ("internal", errors.InternalError, 1),
        ("a kind that is not known yet", errors.InternalError, 1),
    ],
)
def test_each_error_of_the_engine_has_its_exit_code(
    kind: str, error: type[SlotferryError], code: int
) -> None:
    mapped = from_engine(kind, "what happened")
    assert type(mapped) is error
    assert mapped.exit_code == code
    assert str(mapped) == mapped.message == "what happened"


def test_the_kind_of_an_error_of_the_engine_is_kept() -> None:
    assert from_engine("target_full", "OOM").to_dict()["kind"] == "target_full"


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
        errors.SourceUnfitError,
        errors.TargetUnfitError,
    ]
    assert {error("x").exit_code for error in refusals} == {ExitCode.REFUSED}
    assert len({error.kind for error in refusals}) == len(refusals)
