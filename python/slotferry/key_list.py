"""Keys that are copied by name: a list in a file or on stdin, one a line.

Invariant: the list is read as bytes and once; what is read again is a copy of our own, so that a pipe or a
file that is still written can't change under a run. Its digest is part of the job's setup.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from slotferry._core import key_slot
from slotferry.errors import UsageError
from slotferry.selection import Selection

_IN_MEMORY = 16 << 20


class KeyList:
    """The keys of `--keys-from` that a selection takes, with their slots at the target."""

    def __init__(self, path: Path | str, selection: Selection) -> None:
        """Read the list. Raises `UsageError` where it can't be read."""
        self._selection = selection
        self._copy: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115
        digest = hashlib.sha256()
        try:
            source = sys.stdin.buffer if str(path) == "-" else Path(path).open("rb")  # noqa: SIM115
            with source:
                while block := source.read(1 << 20):
                    digest.update(block)
                    self._copy.write(block)
        except OSError as error:
            self._copy.close()
            raise UsageError(
                f"the key list {path} can't be read: {error.strerror}", hint="check the path"
            ) from None
        self.digest = f"sha256 {digest.hexdigest()[:16]}"

    def close(self) -> None:
        """Forget the list."""
        self._copy.close()

    def names(self) -> Iterator[bytes]:
        """Yield every line without its end; empty lines are no keys."""
        self._copy.seek(0)
        for line in self._copy:
            if name := line.removesuffix(b"\n"):
                yield name

    def __iter__(self) -> Iterator[tuple[bytes, int]]:
        """Yield each key that is taken, and its slot at the target."""
        key_map = self._selection.key_map(whole=True)
        for name in self.names():
            if key_map is None:
                yield name, key_slot(name)
            elif (placed := key_map.place(name)) is not None:
                yield name, placed[1]
