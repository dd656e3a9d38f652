"""Which keys and databases a command is about: the fields that `Options` and `CheckOptions` share.

Invariant: what stands here means the same for every command that takes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from slotferry.model.rules import Rule, as_bytes

if TYPE_CHECKING:
    from slotferry.model.key_filter import Selection
    from slotferry.topology.databases import Databases


@dataclass(frozen=True)
class KeyChoice:
    """The keys, what they are called at the target, and their databases; see `Options` for each field."""

    match: bytes | str | Sequence[bytes | str] | None = None
    match_regex: Sequence[str] = ()
    exclude: Sequence[bytes | str] = ()
    exclude_regex: Sequence[str] = ()
    type: str | Sequence[str] | None = None
    exclude_type: Sequence[str] = ()
    min_size: int | None = None
    max_size: int | None = None
    without_ttl: bool = False
    min_ttl: float | None = None
    slots: Sequence[tuple[int, int]] = ()
    rules: Sequence[Rule] = ()
    db: Databases = None
    map_db: Sequence[str] = ()

    @property
    def selection(self) -> Selection:
        """Which keys are taken, and what they are called. Raises `UsageError` where that makes no sense."""
        from slotferry.model.key_filter import Selection

        def texts(value: bytes | str | Sequence[bytes | str] | None) -> tuple[bytes, ...]:
            several = () if value is None else [value] if isinstance(value, (bytes, str)) else value
            return tuple(as_bytes(text) for text in several)

        return Selection(
            globs=texts(self.match),
            patterns=tuple(self.match_regex),
            excluded_globs=texts(self.exclude),
            excluded_patterns=tuple(self.exclude_regex),
            slots=tuple(self.slots),
            types=tuple(text.decode() for text in texts(self.type)),
            excluded_types=tuple(self.exclude_type),
            min_size=self.min_size,
            max_size=self.max_size,
            without_ttl=self.without_ttl,
            min_ttl=self.min_ttl,
            rules=tuple(self.rules),
        )

    def check_choice(self) -> None:
        """Raise `UsageError` for filters, rules or databases that make no sense."""
        _ = self.selection
        if self.db is not None or self.map_db:
            from slotferry.topology.databases import check_databases

            check_databases(self.db, self.map_db)
