"""stdout as the commands write to it: what can't be written is remembered, and ends no work.

Invariant: once a write failed nothing more is written, so the output has no gap; the process then ends with
an exit code of its own. Where the reader of a pipe is gone, that is raised: it has seen enough.
"""

from __future__ import annotations

from typing import Any, TextIO


class GuardedStdout:
    """Stands for sys.stdout; all but writing is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.failure: OSError | None = None
        """Why the output is not whole."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write, as long as nothing failed."""
        if self.failure is None:
            try:
                return self._stream.write(text)
            except BrokenPipeError:
                raise
            except OSError as error:
                self.failure = error
        return len(text)

    def flush(self) -> None:
        """Flush, as long as nothing failed."""
        if self.failure is None:
            try:
                self._stream.flush()
            except BrokenPipeError:
                raise
            except OSError as error:
                self.failure = error
