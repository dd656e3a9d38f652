"""Turning keys and figures into text for people.

Invariant: the result is plain printable ASCII on one line, whatever bytes a key holds.
"""

from __future__ import annotations

_NAMED = {0x5C: "\\\\", 0x09: "\\t", 0x0A: "\\n", 0x0D: "\\r"}
_ESCAPES = [_NAMED.get(b, chr(b) if 0x20 <= b < 0x7F else f"\\x{b:02x}") for b in range(256)]


def escape_key(key: bytes) -> str:
    r"""Return `key` with a backslash escape for every byte that is not printable ASCII (and for `\`)."""
    return "".join([_ESCAPES[byte] for byte in key])


def shorten_key(key: bytes, limit: int = 80) -> str:
    """Return `escape_key(key)`, cut in the middle to about `limit` characters, with the length in bytes."""
    if len(key) <= limit and len(text := escape_key(key)) <= limit:
        return text
    # Of a key of 512 MB only the two ends are escaped.
    head, tail = escape_key(key[:limit])[: limit * 2 // 3], escape_key(key[-limit:])[-limit // 4 :]
    return f"{head}...{tail} ({len(key)} bytes)"


def format_bytes(number: float) -> str:
    """Return a size as a person reads it, in powers of 1000: `1.5 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def format_duration(seconds: float) -> str:
    """Return a time as a person reads it: `0.4s`, `12s`, `3m05s`, `2h04m`."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
