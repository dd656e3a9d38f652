"""A cut-over as values: what is asked for, the steps it goes through, and what came of it.

Invariant: a report says whether the target holds what the source held at the fence (`cut_over`), or why the
application stays at the source. No other outcome exists.
"""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from slotferry.errors import ExitCode, OptionError
from slotferry.model.notices import Event
from slotferry.text import shorten_key

StopWrites = Literal["pause", "refuse", "none"]
CheckDepth = Literal["touched", "sample", "full", "none"]
StepName = Literal["lag", "stop", "fence", "clean", "check", "run", "go", "hold"]
Outcome = Literal["cut_over", "abandoned", "not_ready"]
"""`not_ready`: the lag stayed too high, so that no write was ever stopped."""

STEPS: tuple[StepName, ...] = get_args(StepName)


@dataclass(frozen=True)
class CutoverOptions:
    """What a cut-over is asked for. Times are in seconds. Raises `OptionError` for what makes no sense."""

    stop_writes: StopWrites = "pause"
    within: float = 10.0
    """How long the lag is waited for, and again how long the writes are stopped before *go*."""
    max_lag: float = 1.0
    check: CheckDepth = "touched"
    hold: float = 60.0
    """How long after *go* a pause is renewed, and writes at the source are counted."""
    run: str = ""
    """The command that switches the application; empty: none."""
    shell: bool = False
    """Whether a shell runs it."""

    def __post_init__(self) -> None:
        for name, value, least in (
            ("within", self.within, 0.1),
            ("max_lag", self.max_lag, 0.0),
            ("hold", self.hold, 0.0),
        ):
            if not (math.isfinite(value) and least <= value <= 86_400):
                raise OptionError(
                    "{" + name + "} is {value} s", hint=f"give {least:g} s to one day", value=value
                )
        for name, chosen, known in (
            ("stop_writes", self.stop_writes, get_args(StopWrites)),
            ("check", self.check, get_args(CheckDepth)),
        ):
            if chosen not in known:
                raise OptionError(
                    "{" + name + "} is {chosen!r}", hint=f"give one of {', '.join(known)}", chosen=chosen
                )
        self.words()

    def words(self) -> list[str]:
        """Return the command's words. Raises `OptionError` where its quotation marks make no sense."""
        if self.shell:
            return ["/bin/sh", "-c", self.run] if self.run.strip() else []
        try:
            return shlex.split(self.run)
        except ValueError as error:
            raise OptionError(
                "{run} can't be taken apart: {reason}", hint="check its quotation marks", reason=error
            ) from None


@dataclass(frozen=True)
class CutoverStep(Event):
    """A step has begun, is done or has failed; `seconds` is the time since the attempt began."""

    type: ClassVar[str] = "cutover_step"

    step: StepName
    state: Literal["begun", "done", "failed"]
    message: str
    seconds: float


@dataclass(frozen=True)
class Checked:
    """What a comparison at the fence found: how many keys it looked at and which of them differ."""

    keys: int
    differences: int
    examples: tuple[bytes, ...] = ()
    copied_again: int = 0
    """Keys that differed by what the source does not tell its replicas, and were copied once more."""


@dataclass(frozen=True)
class Written:
    """Keys that were written at the source after *go*: the target lacks these writes."""

    keys: int = 0
    names: tuple[bytes, ...] = ()
    """The first of them."""
    is_complete: bool = True
    """Whether the source's stream was read to the end of the hold; else there may be more."""

    def describe(self) -> str:
        """Return it as a sentence."""
        if not self.keys:
            return "no key was written at the source after the fence"
        named = ", ".join(shorten_key(key) for key in self.names)
        more = "" if self.is_complete else " or more"
        return f"lost: {self.keys:,} keys{more} were written at the source after the fence: {named}"


@dataclass(frozen=True)
class CutoverReport:
    """What became of one attempt."""

    outcome: Outcome
    reason: str
    """Why it was not done; empty after *go*."""
    step: StepName
    """The last one that was begun."""
    fence: int | None
    write_stop_ms: float | None
    """From before the first command that stops writes to *go*, or until writes flowed again."""
    checked: int
    differences: int
    attempts: int
    written: Written = Written()
    warning: str = ""
    """What the operator has still to do."""
    may_be_switched: bool = False
    """Whether it was not done, and yet its command may have switched the application."""

    @property
    def exit_code(self) -> ExitCode:
        """What the command line exits with."""
        return ExitCode.OK if self.is_done else ExitCode.INCOMPLETE

    @property
    def is_done(self) -> bool:
        """Whether the application belongs to the target now."""
        return self.outcome == "cut_over"

    def to_dict(self) -> dict[str, Any]:
        """Return the report as a JSON object, names of keys left out."""
        return {
            "outcome": self.outcome,
            "reason": self.reason or None,
            "step": self.step,
            "fence": self.fence,
            "write_stop_ms": self.write_stop_ms,
            "checked": self.checked,
            "differences": self.differences,
            "attempts": self.attempts,
            "written_afterwards": self.written.keys,
            "warning": self.warning or None,
            "may_be_switched": self.may_be_switched,
        }
