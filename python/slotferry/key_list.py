"""Keys that are named in a list: in a file or on stdin, one a line.

Invariant: a line is read as `show_key` writes a key, so what is printed can be fed back. The list is read
once; what is read again is a copy of our own, so that a pipe or a file that is still written can't change
under a run. Its digest is part of the job's setup.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from slotferry._core import key_slot
from slotferry.emptiness import Names
from slotferry.errors import UsageError
from slotferry.selection import Selection
from slotferry.text import read_key

_IN_MEMORY = 16 << 20
_LONGEST_LINE = 1 << 30
"""A key has up to 512 MB, and a list that never ends its line is none."""
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_names(lines: Iterable[bytes], where: str) -> Iterator[bytes]:
    r"""Yield the key of every line; empty lines are no keys, and `""` is the empty key.

    A CR at a line's end belongs to the end, and a byte order mark to the file: keys with one have it escaped.
    Raises `UsageError` with the number of a line that can't be read.
    """
    for number, line in enumerate(lines, 1):
        text = line.removesuffix(b"\n").removesuffix(b"\r")
        if number == 1:
            text = text.removeprefix(_BYTE_ORDER_MARK)
        if text:
            try:
                yield read_key(text)
            except ValueError as error:
                raise UsageError(
                    f"line {number} of {where} is no key: {error}",
                    hint=r"write a backslash as \\; others are \t, \n, \r and \x with two digits: \xff",
                ) from None


class KeyList:
    """The keys of `--keys-from` that a selection takes, with their slots at the target."""

    def __init__(self, path: Path | str, selection: Selection) -> None:
        """Read the list. Raises `UsageError` where it can't be read."""
        self._selection = selection
        self._where = f"the key list {'on stdin' if str(path) == '-' else path}"
        self._copy: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115
        try:
            self.digest = f"sha256 {self._read(path)[:16]}"
        except BaseException:
            self._copy.close()
            raise

    def _read(self, path: Path | str) -> str:
        """Copy the list, look whether all of it can be read, and return its digest."""
        digest, escaped, unbroken = hashlib.sha256(), False, 0
        try:
            source = sys.stdin.buffer if str(path) == "-" else Path(path).open("rb")  # noqa: SIM115
            with source:
                while block := source.read(1 << 20):
                    digest.update(block)
                    self._copy.write(block)
                    escaped = escaped or b"\\" in block
                    unbroken = len(block) - block.rfind(b"\n") - 1 + (0 if b"\n" in block else unbroken)
                    if unbroken > _LONGEST_LINE:
                        raise UsageError(
                            f"{self._where} has a line of more than {_LONGEST_LINE >> 30} GiB",
                            hint="write one key a line",
                        )
        except OSError as error:
            raise UsageError(
                f"{self._where} can't be read: {error.strerror}", hint="check the path"
            ) from None
        if escaped:
            for _ in self.names():
                pass
        return digest.hexdigest()

    def close(self) -> None:
        """Forget the list."""
        self._copy.close()

    def names(self) -> Iterator[bytes]:
        """Yield every key of the list."""
        self._copy.seek(0)
        return read_names(self._copy, self._where)

    def count(self) -> Names:
        """Count the keys, and those that are taken."""
        return Names(sum(1 for _ in self.names()), sum(1 for _ in self), self._where)

    def __iter__(self) -> Iterator[tuple[bytes, int]]:
        """Yield each key that is taken, and its slot at the target."""
        key_map = self._selection.key_map(whole=True)
        for name in self.names():
            if key_map is None:
                yield name, key_slot(name)
            elif (placed := key_map.place(name)) is not None:
                yield name, placed[1]
