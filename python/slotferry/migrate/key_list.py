"""Keys that are named in a list: in a file or on stdin, one a line.

Invariant: a line is read as `show_key` writes a key, so what is printed can be fed back. The list is read
once; what is read again is a copy of our own, so that a pipe or a file that is still written can't change
under a run. Its digest is part of the job's setup.
"""

from __future__ import annotations

import hashlib
import os
import select
import sqlite3
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import IO

from slotferry._core import key_slot
from slotferry.errors import UsageError
from slotferry.jobs.control.cancel import CancelRequest
from slotferry.migrate.emptiness import Names
from slotferry.model.key_filter import Selection
from slotferry.text import format_bytes, read_key

_IN_MEMORY = 16 << 20
_BLOCK = 1 << 20
_LOOK_MILLISECONDS = 100
_LONGEST_LINE = 64_000_000
"""A server would take a name of 512 MB, but nobody has one; a list that never ends its line is none."""
_LONGEST_LIST = 4_000_000_000
"""A hundred million keys; what goes on beyond that may have no end, and fills the disk of the copy."""
_CHUNK_NAMES = 50_000
_CHUNK_BYTES = 2 << 20
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
                    f"line {number} of {where} is not a key: {error}",
                    hint=r"write a backslash as \\; others are \t, \n, \r and \x with two digits: \xff",
                ) from None


def in_chunks(names: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Yield names in lists of a bounded number and, but for a last name that is longer, of bounded size."""
    chunk: list[bytes] = []
    left = _CHUNK_BYTES
    for name in names:
        chunk.append(name)
        left -= len(name)
        if left <= 0 or len(chunk) == _CHUNK_NAMES:
            yield chunk
            chunk, left = [], _CHUNK_BYTES
    if chunk:
        yield chunk


class KeyList:
    """The keys of `--keys-from` that a selection takes, with their slots at the target."""

    def __init__(self, path: Path | str, selection: Selection, cancel: CancelRequest | None = None) -> None:
        """Read the list. Raises `UsageError` where it can't be read.

        Where nothing comes (a pipe), it waits until `cancel` is asked for, and raises `MigrationInterrupted`.
        """
        self._cancel = cancel or CancelRequest(saves=False)
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
        digest, escaped, unbroken, lines, size = hashlib.sha256(), False, 0, 0, 0
        for block in self._blocks(path):
            digest.update(block)
            self._keep(block)
            escaped = escaped or b"\\" in block
            size += len(block)
            ends = block.count(b"\n")
            lines += ends
            unbroken = len(block) - block.rfind(b"\n") - 1 + (0 if ends else unbroken)
            if unbroken > _LONGEST_LINE:
                raise UsageError(
                    f"line {lines + 1:,} of {self._where} is longer than {format_bytes(_LONGEST_LINE)}",
                    hint="write one key a line",
                )
            if size > _LONGEST_LIST:
                raise UsageError(
                    f"{self._where} is longer than {format_bytes(_LONGEST_LIST)} ({lines:,} lines so far)",
                    hint="see that it has an end, and copy its keys in several jobs",
                )
        if escaped:
            for _ in self.names():
                pass
        return digest.hexdigest()

    def _blocks(self, path: Path | str) -> Iterator[bytes]:
        """Yield what the list holds as it comes. A pipe without a writer is waited for."""
        try:
            piped = str(path) == "-"
            source = (
                sys.stdin.fileno() if piped else os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            )
            try:
                news = select.poll()
                news.register(source, select.POLLIN)
                while True:
                    self._cancel.check()
                    if not news.poll(_LOOK_MILLISECONDS):
                        continue
                    with suppress(BlockingIOError):
                        if not (block := os.read(source, _BLOCK)):
                            return
                        yield block
            finally:
                if not piped:
                    os.close(source)
        except OSError as error:
            raise UsageError(
                f"{self._where} can't be read: {error.strerror or error}", hint="check the path"
            ) from None

    def _keep(self, block: bytes) -> None:
        try:
            self._copy.write(block)
        except OSError as error:
            raise UsageError(
                f"{self._where} can't be copied to {tempfile.gettempdir()}: {error.strerror}",
                hint="name a folder with room for it in TMPDIR",
            ) from None

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

    def distinct(self) -> Iterator[bytes]:
        """Yield each key that is taken once, however often it is listed and however many there are."""
        with closing(sqlite3.connect("")) as scratch:  # a file of its own beyond some memory
            scratch.execute("CREATE TABLE taken (key BLOB PRIMARY KEY) WITHOUT ROWID")
            scratch.executemany("INSERT OR IGNORE INTO taken VALUES (?)", ((name,) for name, _ in self))
            for (name,) in scratch.execute("SELECT key FROM taken"):
                yield name

    def __iter__(self) -> Iterator[tuple[bytes, int]]:
        """Yield each key that is taken, and its slot at the target."""
        key_map = self._selection.key_map(whole=True)
        for name in self.names():
            if key_map is None:
                yield name, key_slot(name)
            elif (placed := key_map.place(name)) is not None:
                yield name, placed[1]
