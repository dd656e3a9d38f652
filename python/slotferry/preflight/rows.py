"""What a check finds out: one row for each question, with what to do about it.

Invariant: a row is one sentence about one named thing; its name is one of `slotferry.model.checks`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from slotferry.errors import RefusedError, SlotferryError, SourceNotReadyError, TargetNotReadyError
from slotferry.model.address import Side
from slotferry.model.checks import GROUP_OF
from slotferry.redaction import redact

Status = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Row:
    """The answer to one check: `message` says what is, `advice` what to do where it is not `ok`.

    `side` is the side that an error concerns. `skipped` marks an error that was named by `--skip-check`; its
    status is `warning` then.
    """

    name: str
    status: Status
    message: str
    advice: str = ""
    side: Side | None = None
    skipped: bool = False

    def __post_init__(self) -> None:
        for name in ("message", "advice"):
            object.__setattr__(self, name, redact(getattr(self, name)))

    @property
    def group(self) -> str:
        """What the check belongs to: reach, rights, target, compatibility, data or commands."""
        return GROUP_OF[self.name]

    def to_dict(self) -> dict[str, Any]:
        """Return the row as `--json` prints it."""
        fields = asdict(self)
        return {"type": "check", "name": fields.pop("name"), "group": self.group, **fields}

    def error(self) -> SlotferryError:
        """Return the exception that `migrate` refuses with because of this row."""
        kinds = {"source": SourceNotReadyError, "target": TargetNotReadyError, None: RefusedError}
        return kinds[self.side](self.message, hint=self.advice)


def ok(name: str, message: str) -> Row:
    """Return a row that needs nothing done."""
    return Row(name, "ok", message)


def warning(name: str, message: str, advice: str) -> Row:
    """Return a row for what a person should know before going on."""
    return Row(name, "warning", message, advice)


def error(name: str, side: Side, message: str, advice: str) -> Row:
    """Return a row for what a migration must not begin with."""
    return Row(name, "error", message, advice, side)


def not_checked(name: str, why: str, advice: str) -> Row:
    """Return the row of a check that could not be made: not knowing is a warning."""
    return Row(name, "warning", f"not checked: {why}", advice)


def apply_skips(rows: Iterable[Row], skips: Collection[str]) -> list[Row]:
    """Return the rows, with the errors that `skips` names as skipped warnings."""
    return [
        replace(row, status="warning", skipped=True) if row.status == "error" and row.name in skips else row
        for row in rows
    ]
