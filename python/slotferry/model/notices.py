"""What every kind of run tells: the base of all events, and notices.

Invariant: an event is a value: frozen, complete in itself, and free of secrets.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from slotferry.redaction import redact

_TEXTS = ("message", "reason")


@dataclass(frozen=True)
class Event:
    """The base of all; `type` names it in JSON."""

    type: ClassVar[str] = "event"

    def __post_init__(self) -> None:
        # What a server said may quote what it was sent.
        for name in _TEXTS:
            if name in self.__dict__:
                object.__setattr__(self, name, redact(self.__dict__[name]))

    def to_dict(self) -> dict[str, Any]:
        """Return the event as a JSON object."""
        return {"type": self.type, **asdict(self)}


@dataclass(frozen=True)
class Notice(Event):
    """Something that the operator has to know: a decision that was taken, or a problem that was met."""

    type: ClassVar[str] = "notice"

    message: str
