"""Values of options that click has no type for: sizes, durations, powers of two.

Invariant: a value that is accepted here is one that `Options` accepts, and what is refused is named.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from slotferry import text
from slotferry.jobs.limits import MIN_BIG_KEY, MIN_MEMORY
from slotferry.jobs.partitions import MAX_PARTITIONS, is_partition_count

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_SIZE_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}
_TIME_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_DURATION = rf"{_NUMBER}|({_NUMBER}(ms|s|m|h|d))+"


def size(value: str | int) -> int:
    """Return the bytes that `64MB`, `64MiB`, `0.5g` or `67108864` means; refuse less than 1 MiB."""
    number = _bytes(value)
    if number < MIN_MEMORY:
        raise click.BadParameter(f"{value!r} is too small; give it 1MiB or more")
    return number


def big_key_size(value: str | int) -> int:
    """Return the bytes that `8MB`, `64kB` or `1000000` means; 0 turns it off."""
    number = 0 if str(value) == "0" else _bytes(value)
    if number != 0 and number < MIN_BIG_KEY:
        raise click.BadParameter(f"{value!r} is too small; give it 64kB or more, or 0")
    return number


def byte_rate(value: str | int) -> int:
    """Return the bytes, 1 or more, that `50MB`, `512KiB` or `1000000` means."""
    number = _bytes(value)
    if number < 1:
        raise click.BadParameter(f"{value!r} is too small; give it 1 byte or more")
    return number


def key_rate(value: str | int) -> int:
    """Return the number of keys, 1 or more, that `value` is."""
    if not re.fullmatch(r"[0-9]{1,15}", str(value)) or int(value) < 1:
        raise click.BadParameter(f"{value!r} is not a number of keys from 1 on")
    return int(value)


def or_none(parse: Callable[[str | int], int]) -> Callable[[str | int], int]:
    """Return what parses as `parse` does, and `none` to 0."""

    def parse_or_none(value: str | int) -> int:
        return 0 if str(value).strip().lower() == "none" else parse(value)

    return parse_or_none


def milliseconds(value: str | float) -> float:
    """Return the milliseconds, more than 0, that `20`, `0.5`, `20ms` or `1s` means."""
    text = str(value).strip().lower()
    if not re.fullmatch(_DURATION, text):
        raise click.BadParameter(
            f"{value!r} is not a duration; write it like 20ms, 1s, or 20 for milliseconds"
        )
    number = float(text) if re.fullmatch(_NUMBER, text) else duration(text) * 1000
    if number <= 0:
        raise click.BadParameter(f"{value!r} is too short; give it more than 0 milliseconds")
    return number


def _bytes(value: str | int) -> int:
    match = re.fullmatch(rf"({_NUMBER}) ?([KMG]I?|)B?", str(value).strip().upper())
    if match is None:
        raise click.BadParameter(f"{value!r} is not a size; write it like 64MB or 64MiB")
    return int(float(match[1]) * _SIZE_UNITS[match[2]])


def duration(value: str | float) -> float:
    """Return the seconds that `90s`, `5m`, `1h30m` or `2.5` means."""
    text = str(value).strip().lower()
    if not re.fullmatch(_DURATION, text):
        raise click.BadParameter(f"{value!r} is not a duration; write it like 90s, 5m or 1h30m")
    parts = re.findall(rf"({_NUMBER})(ms|s|m|h|d|)", text)
    return sum(float(number) * _TIME_UNITS[unit] for number, unit in parts)


def byte_count(value: str | int) -> int:
    """Return the bytes, 0 or more, that `64MB`, `64KiB` or `4096` means."""
    return _bytes(value)


def databases(value: str | int) -> tuple[int, ...]:
    """Return the numbers of `0,2,5`."""
    if not re.fullmatch(r"[0-9]{1,9}(,[0-9]{1,9})*", str(value)):
        raise click.BadParameter(f"{value!r} names no databases; write it like 0,2,5")
    return tuple(int(number) for number in str(value).split(","))


def slot_ranges(value: str | int) -> tuple[tuple[int, int], ...]:
    """Return the ranges, both ends included, of `0-5460,12000`."""
    try:
        ranges = text.slot_ranges(str(value))
    except ValueError:
        ranges = []
    if not ranges:
        raise click.BadParameter(f"{value!r} names no slots; write it like 0-5460,12000")
    return tuple(ranges)


def type_names(value: str) -> tuple[str, ...]:
    """Return the names of `hash,set`."""
    return tuple(name.strip() for name in value.split(","))


class Lines(click.types.StringParamType):
    """Text, of which the environment holds several values one a line: they may have blanks in them."""

    envvar_list_splitter = "\n"


def partition_count(value: str | int) -> int:
    """Return the power of two from 1 to 1024 that `value` is."""
    if not re.fullmatch(r"[0-9]{1,4}", str(value)) or not is_partition_count(int(value)):
        raise click.BadParameter(f"{value!r} is not a power of two from 1 to {MAX_PARTITIONS}")
    return int(value)


def share(value: str | float) -> float:
    """Return the part, above 0 and up to 1, that `5%`, `0.5%` or `0.05` means."""
    text = str(value).strip()
    match = re.fullmatch(rf"({_NUMBER}) ?(%?)", text)
    part = float(match[1]) / (100 if match[2] else 1) if match else 0.0
    if not 0 < part <= 1:
        raise click.BadParameter(f"{value!r} is not a part of the keys; write it like 5% or 0.05, up to 100%")
    return part


def check_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001
    """Return what a shell completes as the name of a check that may be skipped."""
    from click.shell_completion import CompletionItem

    from slotferry.model.checks import CHECKS, skippable

    meanings = {name: meaning for group in CHECKS.values() for name, meaning in group.items()}
    return [CompletionItem(name, help=meanings[name]) for name in skippable() if name.startswith(incomplete)]
