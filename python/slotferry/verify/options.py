"""How two sides are compared.

Invariant: as of `Options`: one that exists is valid. Nothing is written to the target unless `repair` says
so, and nothing deleted unless `delete_extra` and somebody's word say so.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from slotferry.errors import OptionError
from slotferry.jobs.options import Options
from slotferry.net.endpoints import Endpoint
from slotferry.verify.deletion_guard import Confirm


@dataclass(frozen=True)
class VerifyOptions(Options):
    """How to verify; the defaults are the command line's. What a migration has too means the same here.

    ttl_tolerance: by how many seconds the expiries of equal keys may differ.
    recheck: how often keys that differ are read again, a moment later each time, before they are reported.
        Keys that only the target seems to have are read again at least once.
    sample: only this part of the keys, above 0 and up to 1; chosen by their names, so always the same ones.
    quick: compare existence, type, TTL and length, not the values.
    show_values: tell with a difference what the values hold, in short; else only types, lengths and places.
        The journal keeps it as well.
    repair: send keys that are missing or different again, and compare them once more.
    delete_extra: delete from the target what the source lacks; only together with `repair`, and with `yes` or
        `confirm`. All of it is counted first; an empty source, or one without the keys that the filters ask
        for, is refused.
    max_delete: more extra keys than this are refused, and nothing is repaired then; None: a tenth of the keys
        that the target has, or 1,000 where that is more.
    yes: what is extra, and within `max_delete`, may be deleted without another question.
    confirm: is asked whether it may, with what is planned.
    dry_run: with `repair`: compare, and tell what would be sent again and deleted; the target is left alone.
    differences: write every difference to this file, a JSON object a line.
    """

    ttl_tolerance: float = 0.1
    recheck: int = 2
    sample: float | None = None
    quick: bool = False
    show_values: bool = False
    repair: bool = False
    delete_extra: bool = False
    max_delete: int | None = None
    yes: bool = False
    confirm: Confirm | None = field(default=None, repr=False, compare=False)
    differences: Path | str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.ttl_tolerance < 10**9:
            raise OptionError(
                "{ttl_tolerance} is {value}",
                hint="give it in seconds, 0 or more, such as 0.1",
                value=self.ttl_tolerance,
            )
        if not 0 <= self.recheck <= 100:
            raise OptionError(
                "{recheck} is {value}", hint="give it as a number of times from 0 to 100", value=self.recheck
            )
        if self.sample is not None and not 0 < self.sample <= 1:
            raise OptionError(
                "{sample} is {value}", hint="give it as a part above 0 and up to 1", value=self.sample
            )
        if self.delete_extra and not self.repair:
            raise OptionError(
                "{delete_extra} is given without {repair}", hint="add {repair}, or leave it out"
            )
        if self.keys_from is not None:
            raise OptionError(
                "a verification takes no list of keys", hint="choose them with {match} or {sample}"
            )
        if self.read != "scan":
            raise OptionError("a verification takes no snapshot", hint="leave out {read}")
        if self.dry_run and not self.repair:
            raise OptionError(
                "a verification without {repair} has no dry run",
                hint="it writes nothing; leave out {dry_run}",
            )
        if self.max_delete is not None and self.max_delete < 0:
            raise OptionError(
                "{max_delete} is {value}", hint="give it as a number of keys", value=self.max_delete
            )
        if self.delete_extra and not (self.yes or self.confirm or self.dry_run):
            raise OptionError(
                "{delete_extra} deletes keys of the target, and there is no terminal to ask on",
                hint="see with {dry_run} what would be deleted, then give {yes}",
            )

    @property
    def partial(self) -> float | None:
        """The part of the keys that is looked at; None for all."""
        return None if self.sample is None or self.sample >= 1 else self.sample

    @property
    def comparison(self) -> str:
        """What is compared: a resumed run has to share it, besides the filters."""
        what = "quick" if self.quick else "values"
        part = "" if self.partial is None else f", sample {self.partial:g}"
        return f"{what}, TTL within {self.ttl_tolerance:g} s{part}"

    @classmethod
    def after(cls, options: Options, job: str) -> VerifyOptions:
        """Return how a migration with these `options`, recorded as `job`, is verified."""
        shared: dict[str, Any] = {f.name: getattr(options, f.name) for f in fields(Options)}
        changed: dict[str, Any] = {
            "job": f"{job[:93]}.verify",
            "on_conflict": "error",
            "dry_run": False,
            "restart": True,
            "verify": False,
            "read": "scan",
        }
        return cls(**{name: value for name, value in {**shared, **changed}.items() if name in shared})


def check_verified_file(source: Endpoint, options: VerifyOptions) -> None:
    """Raise `OptionError` for what a comparison with an RDB file can't be asked for."""
    if source.is_stdin:
        raise OptionError(
            "the RDB file comes from stdin, and keys that differ are read a second time",
            hint="save it in a file, and name that",
        )
    for given, what in (
        (options.quick, "{quick} is given, and an RDB file does not tell lengths without values"),
        (options.delete_extra, "{delete_extra} is given, and keys that an RDB file lacks are not looked for"),
    ):
        if given:
            raise OptionError(what, hint="leave it out, or load the file into a server")
