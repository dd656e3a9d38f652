"""What is known of an RDB file before it is read.

Invariant: how many keys it will have had is told only where its bytes can say so.
"""

from __future__ import annotations

from dataclasses import dataclass

from slotferry.model.events import FileProgress


@dataclass(frozen=True)
class FileFacts:
    """An RDB file. path: None for stdin; stamp: size and last change, as the engine checks them.

    libraries: the code of its function libraries, by name.
    """

    path: str | None
    name: str
    stamp: tuple[int, int] | None = None
    libraries: tuple[tuple[str, bytes], ...] = ()
    is_compressed: bool = False

    def progress(self, position: int) -> FileProgress:
        """Return how far the file is read, where its first `position` bytes are done."""
        size = None if self.stamp is None or self.is_compressed else self.stamp[0]
        return FileProgress(position, size)

    def expected_keys(self, keys: int, position: int) -> int | None:
        """Return how many keys there will have been, where the first `position` bytes have `keys`.

        None where that is not known: a compressed file does not tell how many bytes it has.
        """
        if self.stamp is None or self.is_compressed or not position:
            return None
        return max(keys, round(keys * self.stamp[0] / position))
