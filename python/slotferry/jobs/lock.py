"""One run per job: a lock that the kernel gives back, whatever becomes of the process.

Invariant: who holds the lock is the only one to write this job's rows. The lock is `flock` on
`<journal>.locks/<job>.lock`; the file says who holds it and stays behind (taking it away could let two
processes lock two files of the same name). A reshard's is `reshard@<job>.lock`, which no migration is called.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Literal

from slotferry.errors import JobLockedError, JournalError

Kind = Literal["migrate", "reshard"]
KINDS: tuple[Kind, ...] = ("migrate", "reshard")

_PATIENCE = 0.2  # seconds: outlasts a look by `is_running`


class JobLock:
    """Holds the lock of `job` from `with` to its end. Raises `JobLockedError` where another has it."""

    def __init__(self, journal: Path, job: str, kind: Kind = "migrate") -> None:
        self.path = _lock_path(journal, lock_name(job, kind))
        self.job = job
        self.kind = kind
        self._file = -1

    def __enter__(self) -> JobLock:
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._acquire()
        except OSError as error:
            raise JournalError(
                f"the lock {self.path} can't be used: {error.strerror}",
                hint="name a journal in a folder that can be written with --journal",
            ) from None
        return self

    def _acquire(self) -> None:
        deadline = time.monotonic() + _PATIENCE
        while not _try_lock(self._file, fcntl.LOCK_EX):
            if time.monotonic() >= deadline:
                holder = _describe_holder(os.pread(self._file, 1000, 0))
                os.close(self._file)
                noun = "migration" if self.kind == "migrate" else "reshard"
                raise JobLockedError(
                    f"the job {self.job} is being run by {holder}",
                    hint=f"wait until it has ended, or stop it; another {noun} needs another --job",
                )
            time.sleep(_PATIENCE / 10)
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)  # which unlocks


def lock_name(job: str, kind: Kind) -> str:
    """Return what the lock of a job is called: a migration and a reshard may be namesakes."""
    return job if kind == "migrate" else f"reshard@{job}"


def is_running(journal: Path, job: str, kind: Kind = "migrate") -> bool:
    """Whether some process holds the lock of `job` now."""
    try:
        file = os.open(_lock_path(journal, lock_name(job, kind)), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not _try_lock(file, fcntl.LOCK_SH)
    finally:
        os.close(file)


def holder(journal: Path, job: str) -> int | None:
    """Return the process that holds the lock of `job` now, or None."""
    if not is_running(journal, job):
        return None
    try:
        return int(json.loads(_lock_path(journal, job).read_bytes())["pid"])
    except (OSError, ValueError, KeyError):
        return None  # it has just been taken or given back


def lock_folder(journal: Path) -> Path:
    """Return where the locks of a journal's jobs are: a folder for its owner alone."""
    return journal.parent / f"{journal.name}.locks"


def _lock_path(journal: Path, name: str) -> Path:
    return lock_folder(journal) / f"{name}.lock"


def _try_lock(file: int, how: int) -> bool:
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _describe_holder(content: bytes) -> str:
    try:
        holder = json.loads(content)
        return f"process {holder['pid']} on {holder['host']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
