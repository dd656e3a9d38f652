"""The TOML file of `--config`: the options of `slotferry migrate`, written down.

Invariant: a key that is no option is refused, never ignored. The file gives way to the environment, and that
to the command line.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection
from pathlib import Path
from typing import Any

from slotferry.errors import UsageError
from slotferry.toml_file import read_toml

TABLES = ("migrate", "verify", "check")


def load_config(
    path: Path, known: Collection[str], lists: Collection[str] = (), table: str = "migrate"
) -> dict[str, Any]:
    """Return the table `[migrate]` (or another one) of the file at `path`, by parameter name (underscores).

    Of a file without a table `[check]`, a check takes from `[migrate]` what it knows, and passes over the
    rest. `known` are the names that may occur, written with `-` or `_`; `lists` are those that may hold
    several values, and come out as lists. Raises `UsageError` for a file that can't be read, is not TOML or
    holds anything else.
    """
    content = read_toml(path, "config file")
    for name in content:
        if name not in TABLES:
            raise UsageError(
                f"the config file {path} has {name!r} outside of [{table}]",
                hint=f"put the options into a table [{table}]",
            )
    borrowed = table == "check" and table not in content
    if borrowed:
        table = "migrate"
    content = content.get(table, {})
    if not isinstance(content, dict):
        raise UsageError(f"{table!r} in the config file {path} is not a table", hint=f"write [{table}]")
    options: dict[str, Any] = {}
    for key, value in content.items():
        name = key.replace("-", "_")
        if borrowed and name not in known:
            continue
        several = value if name in lists and isinstance(value, list) else [value]
        for one in several:
            _check_entry(path, key, name, one, known)
        if name in options:
            raise UsageError(f"the config file {path} has {key!r} twice", hint="leave one of them out")
        options[name] = several if name in lists else value
    return options


def _check_entry(path: Path, key: str, name: str, value: object, known: Collection[str]) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        names = ", ".join(sorted(option.replace("_", "-") for option in known))
        hint = f"did you mean {near[0].replace('_', '-')!r}?" if near else f"known are {names}"
        raise UsageError(f"the config file {path} has the unknown option {key!r}", hint=hint)
    if not isinstance(value, (str, int, float, bool)):
        raise UsageError(
            f"{key!r} in the config file {path} is not a text, number or truth value", hint="write one value"
        )
