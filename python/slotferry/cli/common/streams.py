"""stdout and stderr as the commands write to them.

Invariant: what stdout does not take is remembered, and ends no work; what goes to stderr holds no secret.
What stdout's encoding lacks is escaped, as `show_key` escapes it. Once a write to it failed nothing more is
written, so the output has no gap; the process then ends with an exit code of its own. Where the reader of a
pipe is gone, that is raised: it has seen enough.
"""

from __future__ import annotations

import codecs
import io
from typing import Any, TextIO

from slotferry.redaction import redact_strong
from slotferry.text import show_unencodable

_ESCAPING = "slotferry.escape"
codecs.register_error(_ESCAPING, show_unencodable)


class GuardedStdout:
    """Stands for sys.stdout; all but writing is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.failure: OSError | None = None
        """Why the output is not whole."""
        if isinstance(stream, io.TextIOWrapper):
            self._errors = stream.errors
            stream.reconfigure(errors=_ESCAPING)

    def release(self) -> None:
        """Leave the stream as it was."""
        if isinstance(self._stream, io.TextIOWrapper):
            self._stream.reconfigure(errors=self._errors)

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
