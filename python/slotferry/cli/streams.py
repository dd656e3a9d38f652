"""stdout and stderr as the commands write to them.

Invariant: what stdout does not take is remembered, and ends no work; what goes to stderr holds no secret.
Once a write to stdout failed nothing more is written, so the output has no gap; the process then ends with an
exit code of its own. Where the reader of a pipe is gone, that is raised: it has seen enough.
"""

from __future__ import annotations

from typing import Any, TextIO

from slotferry.redaction import redact_strong


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


class RedactedStderr:
    """Stands for sys.stderr; all but writing is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write the text without secrets."""
        self._stream.write(redact_strong(text))
        return len(text)
