"""Turning keys and figures into text for people, and keys back.

Invariant: a key becomes printable text on one line, whatever bytes it holds, and `read_key` makes the same
key of it again. What the journal compares is the ASCII form, which never changes.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence

_NAMED = {0x5C: "\\\\", 0x09: "\\t", 0x0A: "\\n", 0x0D: "\\r"}
_ESCAPES = [_NAMED.get(b, chr(b) if 0x20 <= b < 0x7F else f"\\x{b:02x}") for b in range(256)]
_EMPTY = '""'
_ESCAPED = re.compile(rb"\\(?:([\\tnr])|x([0-9A-Fa-f]{2})|)", re.DOTALL)
_MEANINGS = {b"\\": b"\\", b"t": b"\t", b"n": b"\n", b"r": b"\r"}


def escape_key(key: bytes) -> str:
    r"""Return `key` with a backslash escape for every byte that is not printable ASCII (and for `\`)."""
    return "".join([_ESCAPES[byte] for byte in key])


def show_key(key: bytes) -> str:
    r"""Return `key` for people: UTF-8 as text, a backslash escape for what is not printable (and for `\`).

    Not printable are control and format characters too, such as those that turn the direction of a line. The
    empty key is `""`; the key of two quotation marks is escaped.
    """
    if not key:
        return _EMPTY
    if key == _EMPTY.encode():
        return r"\x22\x22"
    return show_part(key)


def show_part(part: bytes) -> str:
    """Return a part of a key as `show_key` shows it within the key; of nothing, nothing."""
    if part.isascii():
        return escape_key(part)
    return "".join(map(_show_character, part.decode("utf-8", "surrogateescape")))


def _show_character(character: str) -> str:
    if character.isascii():
        return _ESCAPES[ord(character)]
    if character.isprintable():
        return character
    return escape_key(character.encode("utf-8", "surrogateescape"))


def show_unencodable(error: UnicodeError) -> tuple[str, int]:
    """Escape what an encoding lacks; an error handler of `codecs`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    part = error.object[error.start : error.end]
    try:
        return escape_key(part.encode("utf-8", "surrogateescape")), error.end
    except UnicodeEncodeError:  # half a character, which no bytes stand for
        return part.encode("ascii", "backslashreplace").decode(), error.end


def read_key(text: bytes) -> bytes:
    r"""Return the key that `show_key` shows as `text`; bytes that are not escaped stand for themselves.

    Raises `ValueError` for a backslash that begins no escape: neither `\\`, `\t`, `\n`, `\r` nor `\x` with
    two hexadecimal digits.
    """
    if text == _EMPTY.encode():
        return b""
    return text if b"\\" not in text else _ESCAPED.sub(_meaning, text)


def _meaning(match: re.Match[bytes]) -> bytes:
    if match[1]:
        return _MEANINGS[match[1]]
    if match[2]:
        return bytes.fromhex(match[2].decode())
    raise ValueError(f"the backslash at byte {match.start() + 1} begins no escape")


def shorten_key(key: bytes, limit: int = 80) -> str:
    """Return `show_key(key)`, cut in the middle to about `limit` characters, with the length in bytes."""
    if len(key) <= 4 * limit and len(text := show_key(key)) <= limit:
        return text
    # Of a key of 512 MB only the two ends are shown; no character takes more than 4 bytes.
    head, tail = show_key(key[: 4 * limit])[: limit * 2 // 3], show_key(key[-4 * limit :])[-limit // 4 :]
    return f"{head}...{tail} ({len(key)} bytes)"


def count_of(number: int, noun: str) -> str:
    """Return a number with its noun: `1 key`, `2,000 keys`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def differing_keys(number: int) -> str:
    """Return how many keys differ: `1 key differs`, `2,000 keys differ`."""
    return f"{count_of(number, 'key')} {'differs' if number == 1 else 'differ'}"


def slot_ranges(text: str) -> list[tuple[int, int]]:
    """Return the ranges, both ends included, of `0-5460,7000` or `0-5460 7000`. Raises `ValueError`."""
    found = []
    for part in text.replace(",", " ").split():
        span = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", part)
        if span is None:
            raise ValueError(f"{part[:20]!r} is no range of slots")
        found.append((int(span[1]), int(span[2] or span[1])))
    return found


def slots_in(text: str) -> list[int]:
    """Return the slots of such ranges. Raises `ValueError`."""
    return [slot for first, last in slot_ranges(text) for slot in range(first, last + 1)]


def format_slots(ranges: Sequence[tuple[int, int]], limit: int | None = None) -> str:
    """Return ranges of slots (both ends included) as `0-99,200`; beyond `limit` of them, how many more."""
    shown = [str(first) if first == last else f"{first}-{last}" for first, last in ranges[:limit]]
    more = len(ranges) - len(shown)
    return ",".join(shown) + (f" and {count_of(more, 'more range')}" if more else "")


def ranges_of(slots: Iterable[int]) -> list[tuple[int, int]]:
    """Return the slots as ranges, first and last included."""
    ranges: list[tuple[int, int]] = []
    for slot in sorted(slots):
        if ranges and ranges[-1][1] == slot - 1:
            ranges[-1] = (ranges[-1][0], slot)
        else:
            ranges.append((slot, slot))
    return ranges


def format_bytes(number: float) -> str:
    """Return a size as a person reads it, in powers of 1000: `1.5 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def iso_time(seconds: float | None) -> str | None:
    """Return a point in time as ISO 8601 has it, in UTC: `2026-11-30T09:46:29Z`; None for None."""
    return None if seconds is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def local_time(seconds: float | None) -> str:
    """Return the same in the local zone: `2026-11-30T10:46:29+01:00`; empty for None."""
    if seconds is None:
        return ""
    text = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(seconds))
    return f"{text[:-2]}:{text[-2:]}"


def format_age(seconds: float) -> str:
    """Return how long ago something was, in its largest unit: `5 s`, `12 min`, `3 h`, `40 d`."""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size):,} {unit}"
    return f"{max(0, int(seconds))} s"


def format_duration(seconds: float) -> str:
    """Return a time as a person reads it: `0.4s`, `12s`, `3m05s`, `2h04m`."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
