"""Files that a command leaves behind: reports, differences, plans, rules.

Invariant: a regular file is whole or as it was: written beside its place, then renamed. A symbolic link is
followed; what is no regular file (a device, a FIFO, an open descriptor) is written to and never replaced.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import stat
import sys
from collections.abc import Iterable
from pathlib import Path

from slotferry.errors import OutputError, UsageError

_DESCRIPTOR = re.compile(r"/dev/(stdin|stdout|stderr)|(?:/dev|/proc/self)/fd/([0-9]{1,9})")
_STANDARD = {"stdin": 0, "stdout": 1, "stderr": 2}
# Where a file can't be replaced though it can be written: mounted by itself, or in a folder of others.
_IN_PLACE = (errno.EBUSY, errno.EXDEV, errno.EACCES, errno.EPERM, errno.EROFS)


class OutputFile:
    """A file that will be written. `what` it is and by which `option` it is named stand in messages."""

    def __init__(self, path: Path | str, what: str, option: str) -> None:
        """Look whether it can be written. Raises `UsageError` where not."""
        self.path = Path(path)
        self._what = what
        self._option = option
        try:
            self._probe()
        except OSError as error:
            folder = self.path.parent
            missing = isinstance(error, FileNotFoundError) and not folder.is_dir()
            raise UsageError(
                self._complaint(f"there is no folder {folder}" if missing else error.strerror),
                hint=f"make the folder, or name another file with {option}" if missing else self._hint,
            ) from None

    def write(self, parts: Iterable[str]) -> None:
        """Write the text, part by part. Raises `OutputError`."""
        try:
            self._write(parts)
        except OSError as error:
            raise OutputError(self._complaint(error.strerror), hint=self._hint) from None

    @property
    def _hint(self) -> str:
        return f"name another file with {self._option}"

    def _complaint(self, why: str | None) -> str:
        return f"the {self._what} can't be written to {self.path}: {why or 'it is unknown why'}"

    def _probe(self) -> None:
        if self._descriptor() is not None:
            os.fstat(self._descriptor() or 0)
            return
        mode = self._mode()
        if mode is not None and stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if mode is not None and not os.access(self.path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        if mode is None or stat.S_ISREG(mode):
            try:
                os.close(self._open_draft())
            except OSError as error:
                if mode is None or error.errno not in _IN_PLACE:
                    raise
            else:
                self._draft.unlink()

    def _write(self, parts: Iterable[str]) -> None:
        descriptor, mode = self._descriptor(), self._mode()
        if descriptor is not None:
            sys.stdout.flush()  # what was printed before stands before
            _fill(os.dup(descriptor), parts)
        elif mode is not None and not stat.S_ISREG(mode):
            _fill(self._open_special(mode), parts)
        else:
            self._replace(parts, mode)

    def _replace(self, parts: Iterable[str], mode: int | None) -> None:
        try:
            draft = self._open_draft()
        except OSError as error:
            if mode is None or error.errno not in _IN_PLACE:
                raise
            _fill(os.open(self._real, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC), parts)
            return
        try:
            if mode is not None:
                os.fchmod(draft, stat.S_IMODE(mode))
            _fill(draft, parts)
            try:
                self._draft.replace(self._real)
            except OSError as error:
                if mode is None or error.errno not in _IN_PLACE:
                    raise
                shutil.copyfile(self._draft, self._real)
        finally:
            with contextlib.suppress(OSError):
                self._draft.unlink()

    def _open_draft(self) -> int:
        return os.open(self._draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)

    def _open_special(self, mode: int) -> int:
        if not stat.S_ISFIFO(mode):
            return os.open(self.path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY)
        try:
            # Not to wait for a reader that never comes.
            opened = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            if error.errno == errno.ENXIO:
                raise OSError(errno.ENXIO, "nobody reads the other end of this FIFO") from None
            raise
        os.set_blocking(opened, True)
        return opened

    def _descriptor(self) -> int | None:
        """Return the descriptor of this process that the path names, such as /dev/stdout."""
        named = _DESCRIPTOR.fullmatch(str(self.path))
        return None if named is None else _STANDARD[named[1]] if named[1] else int(named[2])

    def _mode(self) -> int | None:
        """Return what is there, behind links; None for nothing."""
        try:
            return self.path.stat().st_mode
        except FileNotFoundError:
            return None

    @property
    def _real(self) -> Path:
        """Where it is, behind links, of which the last may lead to what is not there yet."""
        return Path(os.path.realpath(self.path))

    @property
    def _draft(self) -> Path:
        return self._real.with_name(f".{self._real.name}.{os.getpid()}.tmp")


def _fill(opened: int, parts: Iterable[str]) -> None:
    with os.fdopen(opened, "w", encoding="utf-8") as file:
        file.writelines(parts)
