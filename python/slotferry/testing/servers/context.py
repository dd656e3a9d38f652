"""What every embedded server, or group of them, is as a context manager.

Invariant: one that could not be started whole is stopped again before the error is raised.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import TypeVar

_Started = TypeVar("_Started", bound="StartedContext")


class StartedContext(ABC):
    """Starts on entry and stops on exit."""

    @abstractmethod
    def start(self) -> None:
        """Start, and wait until it serves."""

    @abstractmethod
    def stop(self) -> None:
        """Stop; of no effect where it does not run."""

    def __enter__(self: _Started) -> _Started:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
