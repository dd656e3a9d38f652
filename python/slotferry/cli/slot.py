"""`slotferry slot`: which slot a key belongs to, and why.

Invariant: keys are bytes: what the shell or stdin gives is hashed as it is.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator

import click

from slotferry._core import key_slot
from slotferry.text import escape_key

_EXAMPLES = """\
\b
Examples:
  slotferry slot user:1000
  slotferry slot '{user:1000}.following' '{user:1000}.followers'
  redis-cli --scan | slotferry slot --json -
"""


@click.command(epilog=_EXAMPLES)
@click.argument("keys", nargs=-1, required=True, metavar="KEY...")
@click.option("--json", "as_json", is_flag=True, envvar="SLOTFERRY_JSON", help="One JSON object a line.")
def slot(keys: tuple[str, ...], as_json: bool) -> None:
    """Print the hash slot of each KEY.

    KEY - reads keys from stdin, one a line. Where a key has a hash tag (what is between its first { and the
    next }, if not empty) only that is hashed.
    """
    for key in _read(keys):
        tag, number = hash_tag(key), key_slot(key)
        if as_json:
            shown = None if tag is None else escape_key(tag)
            click.echo(
                json.dumps({"type": "slot", "key": escape_key(key), "slot": number, "hash_tag": shown})
            )
        else:
            suffix = "" if tag is None else f"  (hash tag {escape_key(tag)})"
            click.echo(f"{number:5}  {escape_key(key)}{suffix}")


def hash_tag(key: bytes) -> bytes | None:
    """Return the part of `key` that is hashed instead of it (Redis Cluster specification), or None."""
    _, opened, rest = key.partition(b"{")
    tag, closed, _ = rest.partition(b"}")
    return tag if opened and closed and tag else None


def _read(arguments: tuple[str, ...]) -> Iterator[bytes]:
    for argument in arguments:
        if argument == "-":
            yield from (line.removesuffix(b"\n") for line in sys.stdin.buffer)
        else:
            yield os.fsencode(argument)
