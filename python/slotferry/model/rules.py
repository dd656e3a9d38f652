r"""Rules that rewrite keys: how they are written on the command line and in TOML.

Invariant: a rule file is refused whole for anything in it that is not understood, and what `rules_to_toml`
writes, `load_rules` reads back as the same rules. Whether a pattern compiles is for the engine to say.

    [[rule]]
    match = '^user:(\d+):(.*)$'   # a regular expression of Rust's regex crate, on bytes
    to = 'user:{$1}:$2'           # $1, $name, ${1}: groups; $$: a dollar; braces alone are text
    last = true                   # optional: a key that it matches takes no further rule
    note = "keeps a user's keys together"   # optional, for people

    [[rule]]
    strip-prefix = "old:"

    [[rule]]
    add-prefix = "new:"
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slotferry.errors import UsageError
from slotferry.text import escape_key

ARROW = " => "
_HINT = "write it like '^user:(\\d+):(.*)$ => user:{$1}:$2'"
_KEYS = {
    frozenset({"match", "to"}): frozenset({"last", "note"}),
    frozenset({"add-prefix"}): frozenset({"note"}),
    frozenset({"strip-prefix"}): frozenset({"note"}),
}


@dataclass(frozen=True)
class Rewrite:
    r"""What `match` finds first in a key is replaced by `to`; keys without it stay as they are.

    match: a regular expression of Rust's regex crate, on bytes: `.` is any byte, `\d` and `\w` are ASCII.
    to: text (as bytes, or str as UTF-8) with `$1`, `$name`, `${1}` or `${name}` for groups, `$$` for `$`.
    last: a key that it matches takes no further rule. note: a remark for people.
    """

    match: str
    to: bytes | str
    last: bool = False
    note: str = ""

    @classmethod
    def parse(cls, text: str) -> Rewrite:
        """Take `PATTERN => TEMPLATE` apart. Raises `UsageError` where there is no arrow or more than one."""
        pattern, arrow, template = text.partition(ARROW)
        if not arrow:
            raise UsageError(f"the rewrite rule {text!r} has no '{ARROW}'", hint=_HINT)
        if ARROW in template:
            raise UsageError(
                f"the rewrite rule {text!r} has more than one '{ARROW}'",
                hint="write it into a rule file, with 'match' and 'to' (--rules)",
            )
        if not pattern:
            raise UsageError(f"the rewrite rule {text!r} has no pattern", hint=_HINT)
        try:
            pattern.encode()
        except UnicodeEncodeError:
            raise UsageError(
                f"the pattern of the rewrite rule {text!r} is not UTF-8", hint=r"write such a byte as \xff"
            ) from None
        return cls(pattern, template)

    def __str__(self) -> str:
        return f"{self.match}{ARROW}{escape_key(as_bytes(self.to))}{' (last)' if self.last else ''}"


@dataclass(frozen=True)
class AddPrefix:
    """Every key gets `prefix`."""

    prefix: bytes | str
    note: str = ""

    def __str__(self) -> str:
        return f"add prefix {escape_key(as_bytes(self.prefix))}"


@dataclass(frozen=True)
class StripPrefix:
    """Keys that begin with `prefix` lose it; the others stay as they are."""

    prefix: bytes | str
    note: str = ""

    def __str__(self) -> str:
        return f"strip prefix {escape_key(as_bytes(self.prefix))}"


Rule = Rewrite | AddPrefix | StripPrefix


def as_bytes(text: bytes | str) -> bytes:
    """Return what a key, prefix or template is in bytes: UTF-8, or the bytes that the shell gave."""
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")


def load_rules(path: Path) -> tuple[Rule, ...]:
    """Return the rules of the TOML file at `path`, in order.

    Raises `UsageError`, which names the rule, for a file that can't be read, is not TOML or holds anything
    but rules.
    """
    from slotferry.toml_file import read_toml

    hint = "correct that place; patterns are best written in single quotes"
    content = read_toml(path, "rule file", hint)
    tables = content.get("rule")
    if not isinstance(tables, list) or content.keys() != {"rule"}:
        raise UsageError(
            f"the rule file {path} holds something else than [[rule]] tables",
            hint="write each rule as a table [[rule]] with 'match' and 'to', 'add-prefix' or 'strip-prefix'",
        )
    return tuple(_rule(path, number, table) for number, table in enumerate(tables, 1))


def rules_to_toml(rules: Iterable[Rule], heading: str = "") -> str:
    """Return the rules as the text of a rule file, below `heading` as comments.

    Raises `UsageError` for a prefix or template that is not UTF-8, which TOML can't hold.
    """
    lines = [f"# {line}".rstrip() for line in heading.splitlines()]
    for rule in rules:
        lines += ["", "[[rule]]"] if lines else ["[[rule]]"]
        if isinstance(rule, Rewrite):
            lines += [f"match = {_toml(rule.match)}", f"to = {_toml(rule.to)}"]
            lines += ["last = true"] if rule.last else []
        else:
            kind = "add-prefix" if isinstance(rule, AddPrefix) else "strip-prefix"
            lines.append(f"{kind} = {_toml(rule.prefix)}")
        lines += [f"note = {_toml(rule.note)}"] if rule.note else []
    return "\n".join(lines) + "\n"


def _rule(path: Path, number: int, table: Any) -> Rule:
    def wrong(what: str, hint: str) -> UsageError:
        return UsageError(f"rule {number} of the rule file {path} {what}", hint=hint)

    names = table.keys() if isinstance(table, dict) else set()
    needed = next((needed for needed in _KEYS if needed <= names), None)
    if needed is None:
        raise wrong("says nothing to do", "give it 'match' and 'to', or 'add-prefix', or 'strip-prefix'")
    if unknown := names - needed - _KEYS[needed]:
        raise wrong(
            f"has {', '.join(map(repr, sorted(unknown)))} beside {' and '.join(map(repr, sorted(needed)))}",
            "one rule does one thing: leave it out or make another [[rule]] of it",
        )
    for name, value in table.items():
        expected = bool if name == "last" else str
        if not isinstance(value, expected):
            raise wrong(
                f"has a {name!r} that is not a {'truth value' if expected is bool else 'text'}", _HINT
            )
    note = table.get("note", "")
    if "match" in table:
        return Rewrite(table["match"], table["to"], table.get("last", False), note)
    if "add-prefix" in table:
        return AddPrefix(table["add-prefix"], note)
    return StripPrefix(table["strip-prefix"], note)


def _toml(text: bytes | str) -> str:
    try:
        plain = text if isinstance(text, str) else text.decode()
        plain.encode()
    except UnicodeError:
        raise UsageError(
            f"{escape_key(as_bytes(text))} is not UTF-8, which a rule file has to be",
            hint="give this rule on the command line",
        ) from None
    if "'" not in plain and plain.isprintable():
        return f"'{plain}'"
    # A JSON string is a TOML basic string, but for DEL, which TOML wants escaped.
    return json.dumps(plain, ensure_ascii=False).replace("\x7f", "\\u007f")


def describe_rules(rules: Sequence[Rule]) -> str | None:
    """Return the rules as one line, for the journal and for people; None without any."""
    return "; ".join(map(str, rules)) or None
