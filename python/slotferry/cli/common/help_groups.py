"""In which order `--help` lists the options of a command, and under which headings.

Invariant: every option of a command is listed once, the common ones first; one that no heading names is
listed under the last of them, so that none is ever missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import click

# Commands with fewer options than that have one list: headings would be longer than what stands below them.
_FEW = 10
_REST = "Other options"

_COMMON = (
    *("--dry-run", "--follow", "--verify", "--repair", "--quick", "--by", "--add", "--drain"),
    *("--on-conflict", "--match", "--db", "--all-dbs", "--rewrite", "--max-keys-per-second"),
    *("--sample", "--full", "--apply", "--output", "--restart", "--json", "--html", "--help"),
)
_GROUPS: dict[str, tuple[str, ...]] = {
    "Common options": _COMMON,
    "Following and cutting over": (
        *("--on-flush", "--cutover-when-ready", "--run", "--stop-writes", "--within", "--max-lag", "--check"),
        *("--hold", "--undo"),
    ),
    "Which keys": (
        *("--match-regex", "--exclude", "--exclude-regex", "--slots", "--type", "--exclude-type"),
        *("--min-size", "--max-size", "--without-ttl", "--min-ttl", "--keys-from", "--fail-if-empty"),
    ),
    "What they are called, and where they go": (
        *("--add-prefix", "--strip-prefix", "--rules", "--map-db", "--on-collision", "--save-rules"),
    ),
    "What is written, and how": (
        *("--field-ttl", "--big-key-bytes", "--keep-eviction-metadata", "--functions", "--ignore-checksum"),
        "--wait-replicas",
        "--wait-timeout",
    ),
    "What counts as equal, and repairing": (
        *("--ttl-tolerance", "--recheck", "--delete-extra", "--max-delete", "--yes"),
        *("--show-values", "--differences"),
    ),
    "What else is looked at": ("--watch", "--commands", "--strict"),
    "Which slots move, and how": (
        *("--weight", "--max-moves", "--threshold", "--method", "--max-key-size", "--conflicts", "--replan"),
        *("--keep", "--cancel-moves", "--samples"),
    ),
    "Speed and limits": (
        *("--read", "--max-bytes-per-second", "--pause-above-latency", "--pause-file", "--parallel-scans"),
        *("--scan-rate", "--memory-limit", "--retry-for", "--window", "--tz", "--max-duration"),
    ),
    "The job": ("--job", "--journal", "--skip-check", "--config"),
    "Output": (
        *("--progress", "--report", "--metrics", "--metrics-file", "--log-file", "--log-format"),
        *("--verbose", "--quiet"),
    ),
    "The source": ("--source", "--source-*", "--sentinel-*"),
    "The target": ("--target-*",),
    "The cluster": ("--cluster-*",),
    "Network": ("--address-map",),
}


def headings(options: Sequence[click.Option]) -> Iterator[tuple[str, list[click.Option]]]:
    """Yield each heading with the options below it, in the order in which they are read."""
    if len(options) < _FEW:
        yield "Options", list(options)
        return
    left = list(options)
    for title, names in _GROUPS.items():
        found = [option for name in names for option in left if _is_named(option, name)]
        left = [option for option in left if option not in found]
        if found:
            yield title, found
    if left:
        yield _REST, left


def _is_named(option: click.Option, name: str) -> bool:
    if name.endswith("*"):
        return any(given.startswith(name[:-1]) for given in option.opts)
    return name in option.opts


def write_options(command: click.Command, ctx: click.Context, formatter: click.HelpFormatter) -> None:
    """Write the options of a command under their headings."""
    shown = [option for option in command.get_params(ctx) if isinstance(option, click.Option)]
    for title, options in headings(shown):
        records = [record for option in options if (record := option.get_help_record(ctx)) is not None]
        if records:
            with formatter.section(title):
                formatter.write_dl(records)
