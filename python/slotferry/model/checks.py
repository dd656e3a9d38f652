"""The names of all checks of a preflight, and which of them may be skipped.

Invariant: the names are written down here and nowhere else, so that `--skip-check`, the JSON and the
documentation speak of the same.
"""

from __future__ import annotations

from collections.abc import Iterable

from slotferry.errors import UsageError

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
    "following": {
        "psync": "the source lets itself be followed",
        "snapshot": "the source begins its stream without a snapshot",
        "backlog": "the source's backlog holds a minute of its writes",
        "output-buffer": "the source's output buffer for a replica holds ten seconds of its writes",
        "acknowledgements": "nothing counts the follower as a replica that keeps a copy",
    },
    "snapshot": {
        "rdb-only": "the source sends a snapshot alone",
        "fork": "the source's machine has memory for a fork",
    },
    "data": {
        "sample": "what the keyspace consists of",
        "keys": "some of the keys looked at are chosen by the filters",
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

GROUP_OF = {name: group for group, checks in CHECKS.items() for name in checks}
"""The group that each check belongs to."""

# Without these a migration can't even begin: skipping them would only hide why it fails.
_NOT_SKIPPABLE = frozenset({"source-reach", "target-reach", "servers"})


def skippable() -> list[str]:
    """Return the names of the checks that `--skip-check` takes, sorted."""
    return sorted(GROUP_OF.keys() - _NOT_SKIPPABLE)


def check_skips(names: Iterable[str]) -> frozenset[str]:
    """Return `names` as a set. Raises `UsageError` for one that is no check or can't be skipped."""
    skips = frozenset(names)
    for name in sorted(skips):
        if name not in GROUP_OF:
            known = ", ".join(skippable())
            raise UsageError(f"there is no check {name!r} to skip", hint=f"checks are {known}")
        if name in _NOT_SKIPPABLE:
            raise UsageError(
                f"the check {name!r} can't be skipped", hint="nothing can be migrated while it fails"
            )
    return skips
