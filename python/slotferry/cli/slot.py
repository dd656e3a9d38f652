"""`slotferry slot`: which slot a key belongs to, and why.

Invariant: keys are bytes: what the shell gives is hashed as it is, and what stdin gives as of `read_names`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator

import click

from slotferry._core import key_slot
from slotferry.cli.common.command import Command
from slotferry.text import show_key, show_part

_EXAMPLES = """\
\b
Examples:
  slotferry slot user:1000
  slotferry slot '{user:1000}.following' '{user:1000}.followers'
  redis-cli --scan | slotferry slot --json -
"""


@click.command(cls=Command, epilog=_EXAMPLES)
@click.argument("keys", nargs=-1, required=True, metavar="KEY...")
@click.option("--json", "as_json", is_flag=True, envvar="SLOTFERRY_JSON", help="One JSON object a line.")
def slot(keys: tuple[str, ...], as_json: bool) -> None:
    """Print the hash slot of each KEY.

    KEY - reads keys from stdin, one a line, written as --keys-from takes them. Where a key has a hash tag
    (what is between its first { and the next }, if not empty) only that is hashed.
    """
    for key in _read(keys):
        tag, number = hash_tag(key), key_slot(key)
        if as_json:
            shown = None if tag is None else show_part(tag)
            click.echo(json.dumps({"type": "slot", "key": show_key(key), "slot": number, "hash_tag": shown}))
        else:
            suffix = "" if tag is None else f"  (hash tag {show_part(tag)})"
            click.echo(f"{number:5}  {show_key(key)}{suffix}")


def hash_tag(key: bytes) -> bytes | None:
    """Return the part of `key` that is hashed instead of it (Redis Cluster specification), or None."""
    _, opened, rest = key.partition(b"{")
    tag, closed, _ = rest.partition(b"}")
    return tag if opened and closed and tag else None


def _read(arguments: tuple[str, ...]) -> Iterator[bytes]:
    for argument in arguments:
        if argument == "-":
            from slotferry.migrate.key_list import read_names

            yield from read_names(sys.stdin.buffer, "stdin")
        else:
            yield os.fsencode(argument)
