"""Everything that Slotferry raises, and the exit code that each means.

Invariant: an error says what happened, to which node or key, and (as its hint) what to do next; it never
carries a secret. Exit codes are written down here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import IntEnum
from signal import SIGINT, Signals
from typing import Any

from slotferry.redaction import redact


class ExitCode(IntEnum):
    """What the process ends with; 3, 5, 6, 75, 130 and 143 are resumable with the same command.

    74: the work is done and saved, but an output (stdout, or a file that an option names) is not whole.
    """

    OK = 0
    BUG = 1
    USAGE = 2
    INCOMPLETE = 3
    REFUSED = 4
    SOURCE_LOST = 5
    TARGET_LOST = 6
    OUTPUT_LOST = 74
    WORK_LEFT = 75
    INTERRUPTED = 130
    TERMINATED = 143


class SlotferryError(Exception):
    """The base of all: `kind` for programs, `message` (one sentence) and `hint` for people."""

    kind = "internal"
    exit_code = ExitCode.BUG

    def __init__(self, message: str, *, hint: str = "", kind: str | None = None) -> None:
        self.message = redact(message)
        self.hint = redact(hint)
        super().__init__(self.message)
        if kind is not None:
            self.kind = kind

    def __str__(self) -> str:
        return self.message

    def to_dict(self) -> dict[str, Any]:
        """Return the `error` of the summary: `kind`, `message` and `hint` (null where there is none)."""
        return {"kind": self.kind, "message": self.message, "hint": self.hint or None}


class UsageError(SlotferryError, ValueError):
    """An argument, option, URL or file makes no sense: nothing was begun."""

    kind = "usage"
    exit_code = ExitCode.USAGE


class OptionError(UsageError):
    """Options that make no sense, each or together.

    `{name}` in message and hint stands for an option, by its name in Python; `values` fill the other braces.
    """

    def __init__(self, message: str, *, hint: str = "", **values: object) -> None:
        self._texts, self._values = (message, hint), values
        super().__init__(message.format_map(_Names(values)), hint=hint.format_map(_Names(values)))

    def named(self, name: Callable[[str], str]) -> OptionError:
        """Return this error with the options called what `name` makes of each name."""
        renamed = type(self)(self._texts[0], hint=self._texts[1], **self._values)
        texts = [text.format_map(_Names(self._values, name)) for text in self._texts]
        renamed.message, renamed.hint = (redact(text) for text in texts)
        renamed.args = (renamed.message,)
        return renamed


class _Names(dict[str, object]):
    """Values by name, and for every other name what an option of that name is called."""

    def __init__(self, values: Mapping[str, object], name: Callable[[str], str] = str) -> None:
        super().__init__(values)
        self._name = name

    def __missing__(self, key: str) -> str:
        return self._name(key)


class RefusedError(SlotferryError):
    """The run can't start or go on until a person has changed something."""

    kind = "refused"
    exit_code = ExitCode.REFUSED


class JournalError(RefusedError):
    """The journal can't be read or written, or is not one."""

    kind = "journal"


class JobLockedError(RefusedError):
    """Another process runs this job."""

    kind = "job_locked"


class JobNotRunningError(RefusedError):
    """Nobody runs this job now, so nothing can be asked of it."""

    kind = "job_not_running"


class JobMismatchError(RefusedError):
    """The journal holds a job of this name with another setup."""

    kind = "job_mismatch"


class SourceNotReadyError(RefusedError):
    """The source can't be migrated from: credentials, rights, protocol, or it is a cluster."""

    kind = "source_not_ready"


class TargetNotReadyError(RefusedError):
    """The target can't be migrated to: credentials, rights, protocol, or it is no complete cluster."""

    kind = "target_not_ready"


class MixedTargetError(TargetNotReadyError):
    """The target's URL, or its nodes' addresses, lead to two clusters."""

    kind = "target_mixed"


class SourceLostError(SlotferryError, ConnectionError):
    """The source is not reachable; the job can be resumed."""

    kind = "source_lost"
    exit_code = ExitCode.SOURCE_LOST


class TargetLostError(SlotferryError, ConnectionError):
    """The target is not reachable, or stayed full or read-only; the job can be resumed."""

    kind = "target_lost"
    exit_code = ExitCode.TARGET_LOST


class OutputError(SlotferryError, OSError):
    """The work is done and saved, but an output could not be written."""

    kind = "output"
    exit_code = ExitCode.OUTPUT_LOST


class MigrationInterrupted(SlotferryError):  # noqa: N818 - like KeyboardInterrupt: somebody wanted it
    """The run was cancelled; what it had acknowledged is in the journal."""

    kind = "interrupted"
    exit_code = ExitCode.INTERRUPTED

    def __init__(self, message: str, *, hint: str = "", signal: int = SIGINT) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = ExitCode(128 + Signals(signal))


class InternalError(SlotferryError):
    """A bug of ours."""

    def __init__(self, message: str, *, hint: str = "", kind: str | None = None) -> None:
        super().__init__(message, hint=hint or "this is a bug: please report it with this message", kind=kind)


def unexpected(error: BaseException) -> SlotferryError:
    """Return what an error that nobody foresaw is told as: a bug, unless the address space is limited."""
    wrapped: SlotferryError
    limit = _address_space()
    if limit and (isinstance(error, (MemoryError, ImportError)) or "start new thread" in str(error)):
        wrapped = RefusedError(
            f"the address space is limited to {limit // 1_000_000} MB (ulimit -v), which is not enough: "
            f"{' '.join(str(error).split()) or 'out of memory'}",
            hint="raise the limit (ulimit -v unlimited)",
            kind="address_space",
        )
        wrapped.__cause__ = error
        return wrapped
    wrapped = InternalError(f"unexpected {type(error).__name__}: {' '.join(str(error).split())}")
    wrapped.__cause__ = error
    return wrapped


def _address_space() -> int:
    """Return to how many bytes of address space this process is limited; 0 where it is not."""
    try:
        import resource
    except ImportError:  # no such limit on this system, or no room for the module
        return 0
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return 0 if limit == resource.RLIM_INFINITY else limit


RESUME_HINT = "run the same command again to go on from the last checkpoint"
