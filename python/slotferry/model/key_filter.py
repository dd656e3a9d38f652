"""Which keys of the source are taken, and what they are called at the target.

Invariant: a `Selection` that exists compiles; what is wrong with it is a `UsageError` that names the pattern,
rule or value. The engine alone matches and renames: this only hands over what was asked for.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Any

from slotferry._core import SLOTS, EngineError, KeyMap, ValueFilter
from slotferry.errors import OptionError, UsageError
from slotferry.model.rules import AddPrefix, Rewrite, Rule, as_bytes, describe_rules
from slotferry.text import escape_key, format_slots

_TYPE_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_TYPES = ("string", "list", "set", "zset", "hash", "stream", "vectorset", "array")
_PATTERN_HINT = "patterns are those of Rust's regex crate, on bytes: no look-around, no back references"


@dataclass(frozen=True)
class Selection:
    r"""What `Options` says about keys; every field may be left empty.

    globs, patterns: a key is taken if one of these matches. excluded_globs, excluded_patterns: and none of
    these. slots: ranges, both ends included, one of which the target's key has to be in.
    types, excluded_types: as TYPE names them. min_size, max_size: bytes as MEMORY USAGE counts them.
    without_ttl: only keys without a TTL. min_ttl: only keys with at least so many seconds left, or no TTL.
    rules: how keys are rewritten, in order.
    """

    globs: tuple[bytes, ...] = ()
    patterns: tuple[str, ...] = ()
    excluded_globs: tuple[bytes, ...] = ()
    excluded_patterns: tuple[str, ...] = ()
    slots: tuple[tuple[int, int], ...] = ()
    types: tuple[str, ...] = ()
    excluded_types: tuple[str, ...] = ()
    min_size: int | None = None
    max_size: int | None = None
    without_ttl: bool = False
    min_ttl: float | None = None
    rules: tuple[Rule, ...] = ()

    def __post_init__(self) -> None:
        for field, option in (("types", "type"), ("excluded_types", "exclude_type")):
            names = tuple(_known_type(name, option) for name in getattr(self, field))
            object.__setattr__(self, field, names)
        for first, last in self.slots:
            if not 0 <= first <= last < SLOTS:
                raise OptionError(
                    "{slots}: {first}-{last} is no range of slots",
                    hint=f"slots are 0 to {SLOTS - 1}: write 0-5460",
                    first=first,
                    last=last,
                )
        for name, size in (("{min_size}", self.min_size), ("{max_size}", self.max_size)):
            if size is not None and size < 0:
                raise OptionError(name + " is {size}", hint="give it in bytes, 0 or more", size=size)
        if None not in (self.min_size, self.max_size) and (self.min_size or 0) > (self.max_size or 0):
            raise OptionError(
                f"no key has {self.min_size} bytes or more and {self.max_size} or less",
                hint="exchange {min_size} and {max_size}",
            )
        if self.min_ttl is not None and not 0 <= self.min_ttl < float("inf"):
            raise OptionError(
                "{min_ttl} is {value}", hint="give it in seconds, 0 or more", value=self.min_ttl
            )
        if self.without_ttl and self.min_ttl is not None:
            raise OptionError(
                "{without_ttl} and {min_ttl} are both given", hint="keys without a TTL pass {min_ttl} as well"
            )
        if self._names_matter:
            self.key_map()

    @property
    def scan_match(self) -> bytes | None:
        """The glob that SCAN itself can look at: the only one, and no pattern beside it."""
        return self.globs[0] if len(self.globs) == 1 and not self.patterns else None

    @property
    def scan_type(self) -> str | None:
        """The type that SCAN itself can look at."""
        return self.types[0] if len(self.types) == 1 and not self.excluded_types else None

    @property
    def filtered(self) -> bool:
        """Whether some keys of the source may be left out."""
        return self != Selection(rules=self.rules)

    @property
    def probes(self) -> bool:
        """Whether the source has to be asked about each key before it is read."""
        several = self.types if self.scan_type is None else ()
        sizes = (self.min_size, self.max_size, self.min_ttl)
        return bool(several or self.excluded_types or self.without_ttl) or any(s is not None for s in sizes)

    @property
    def renames(self) -> bool:
        """Whether keys may get other names."""
        return bool(self.rules)

    @property
    def _names_matter(self) -> bool:
        patterns = (self.patterns, self.excluded_globs, self.excluded_patterns, self.slots, self.rules)
        return any(patterns) or len(self.globs) > 1

    def key_map(self, prefix: bytes = b"", *, whole: bool = False) -> KeyMap | None:
        """Return what the engine names keys by, `prefix` put before all; None where nothing is to be done.

        The glob of `scan_match` is part of it only with `whole`: SCAN looks at it.
        """
        if not self._names_matter and not prefix and not (whole and self.globs):
            return None
        try:
            return KeyMap(
                rules=[_engine_rule(rule) for rule in self.rules],
                prefix=prefix,
                globs=() if self.scan_match is not None and not whole else self.globs,
                patterns=self.patterns,
                excluded_globs=self.excluded_globs,
                excluded_patterns=self.excluded_patterns,
                slots=self.slots,
            )
        except EngineError as error:
            raise UsageError(error.args[1], hint=_PATTERN_HINT) from None

    def value_filter(self) -> ValueFilter | None:
        """Return what the source has to be asked about each key; None where that is nothing."""
        if not self.probes:
            return None
        return ValueFilter(
            types=self.types if self.scan_type is None else (),
            excluded_types=self.excluded_types,
            min_size=self.min_size,
            max_size=self.max_size,
            without_ttl=self.without_ttl,
            min_ttl_ms=None if self.min_ttl is None else round(self.min_ttl * 1000),
        )

    def describe_names(self) -> str | None:
        """Return the globs and patterns that take keys, as one line; None without any."""
        return " | ".join([*map(escape_key, self.globs), *(f"/{p}/" for p in self.patterns)]) or None

    def describe_types(self) -> str | None:
        """Return the types that are taken, as one line; None for all of them."""
        return ",".join(self.types) or None

    def describe_others(self) -> str | None:
        """Return every other filter, as one line; None without any."""
        parts = [
            *(f"exclude {escape_key(glob)}" for glob in self.excluded_globs),
            *(f"exclude /{pattern}/" for pattern in self.excluded_patterns),
            *([f"exclude type {','.join(self.excluded_types)}"] if self.excluded_types else []),
            *([f"slots {format_slots(self.slots)}"] if self.slots else []),
            *([f"min-size {self.min_size}"] if self.min_size is not None else []),
            *([f"max-size {self.max_size}"] if self.max_size is not None else []),
            *(["without-ttl"] if self.without_ttl else []),
            *([f"min-ttl {self.min_ttl:g} s"] if self.min_ttl is not None else []),
        ]
        return "; ".join(parts) or None

    def describe_filters(self) -> str | None:
        """Return every filter, as one line; None without any."""
        names, types = self.describe_names(), self.describe_types()
        parts = [names and f"match {names}", types and f"type {types}", self.describe_others()]
        return "; ".join(part for part in parts if part) or None

    def describe_rules(self) -> str | None:
        """Return the rules as one line; None without any."""
        return describe_rules(self.rules)


def _known_type(name: str, option: str) -> str:
    """Return the type as TYPE names it. Raises `UsageError` for one that no server has.

    The names of modules' types have nine letters, as a rule a `-` among them, such as ReJSON-RL.
    """
    if name.lower() in _TYPES:
        return name.lower()
    if _TYPE_NAME.fullmatch(name) and ("-" in name or len(name) == 9):
        return name
    near = difflib.get_close_matches(name.lower(), _TYPES, n=1)
    raise OptionError(
        "{" + option + "}: no server has a type {value!r}",
        hint=f"{f'did you mean {near[0]}? ' if near else ''}types are {', '.join(_TYPES)}, and those of "
        "modules as TYPE names them, such as ReJSON-RL",
        value=name,
    )


def _engine_rule(rule: Rule) -> Any:
    if isinstance(rule, Rewrite):
        return ("rewrite", rule.match, as_bytes(rule.to), rule.last)
    kind = "add_prefix" if isinstance(rule, AddPrefix) else "strip_prefix"
    return (kind, "", as_bytes(rule.prefix), False)
