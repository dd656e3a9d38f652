"""What a check finds out: one row for each question, with what to do about it.

Invariant: a row is one sentence about one named thing; the names are written down here and nowhere else, so
that `--skip-check`, the JSON and the documentation speak of the same.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from slotferry.endpoints import Side
from slotferry.errors import RefusedError, SlotferryError, SourceUnfitError, TargetUnfitError, UsageError
from slotferry.redaction import redact

Status = Literal["ok", "warning", "error"]

CHECKS: dict[str, dict[str, str]] = {
    "reach": {
        "source-reach": "the source answers",
        "target-reach": "every primary of the target answers",
        "announced-addresses": "every address that the cluster announces answers, replicas included",
        "servers": "the source is one server, the target another one's cluster",
        "clocks": "the hosts agree on the time, for TTLs",
    },
    "rights": {
        "source-rights": "the user may run what reading needs",
        "target-rights": "the user may run what writing needs, at every primary",
        "key-rights": "the target's user may write the keys that the source has",
    },
    "target": {
        "cluster-state": "every primary says cluster_state:ok",
        "slots": "all 16,384 slots are served",
        "open-slots": "no slot is on the move",
        "majority": "a majority of the primaries is alive",
        "replicas": "every primary has a replica",
        "existing-keys": "the target is empty",
        "database": "the target has the database",
        "memory": "every primary has room for its share of the data",
        "eviction": "the target evicts nothing",
        "persistence": "no server is saving, and the last save was good",
    },
    "compatibility": {
        "versions": "the target takes the source's RDB version",
        "types": "the target can load every type of value",
        "modules": "the target has the source's modules",
        "functions": "the target has the source's functions; scripts are cached anew",
        "value-size": "the largest values fit into the target's proto-max-bulk-len",
        "databases": "the source has keys in no other database",
    },
    "data": {
        "sample": "what the keyspace consists of",
        "biggest-keys": "no key is so big that moving it blocks the servers",
        "balance": "the primaries get about equal shares",
        "hot-slots": "no slot holds more than a primary's fair share",
        "hash-tags": "no hash tag holds more than a primary's fair share",
    },
    "commands": {
        "observed": "which of the application's commands were seen",
        "multi-key": "keys of a multi-key command are in one slot",
        "blocking": "keys of a blocking pop are in one slot",
        "transactions": "keys of a transaction are in one slot",
        "scripts": "keys of a script are declared, and in one slot",
        "cluster-commands": "no command is used that a cluster treats otherwise",
    },
}
"""Every check by group and name, with what holds where it is ok."""

_GROUP = {name: group for group, checks in CHECKS.items() for name in checks}

# Without these a migration can't even begin: skipping them would only hide why it fails.
_NOT_SKIPPABLE = frozenset({"source-reach", "target-reach", "servers"})


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
        return _GROUP[self.name]

    def to_dict(self) -> dict[str, Any]:
        """Return the row as `--json` prints it."""
        fields = asdict(self)
        return {"type": "check", "name": fields.pop("name"), "group": self.group, **fields}

    def error(self) -> SlotferryError:
        """Return the exception that `migrate` refuses with because of this row."""
        kinds = {"source": SourceUnfitError, "target": TargetUnfitError, None: RefusedError}
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


def check_skips(names: Iterable[str]) -> frozenset[str]:
    """Return `names` as a set. Raises `UsageError` for one that is no check or can't be skipped."""
    skips = frozenset(names)
    for name in sorted(skips):
        if name not in _GROUP:
            known = ", ".join(sorted(_GROUP.keys() - _NOT_SKIPPABLE))
            raise UsageError(f"there is no check {name!r} to skip", hint=f"checks are {known}")
        if name in _NOT_SKIPPABLE:
            raise UsageError(
                f"the check {name!r} can't be skipped", hint="nothing can be migrated while it fails"
            )
    return skips


def apply_skips(rows: Iterable[Row], skips: Collection[str]) -> list[Row]:
    """Return the rows, with the errors that `skips` names as skipped warnings."""
    return [
        replace(row, status="warning", skipped=True) if row.status == "error" and row.name in skips else row
        for row in rows
    ]
