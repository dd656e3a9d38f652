"""What a migration from an RDB file, or from a snapshot, can't be asked for.

Invariant: what an RDB can't give, or not yet, is refused before anything is opened, in one sentence.
"""

from __future__ import annotations

from slotferry.errors import OptionError
from slotferry.jobs.options import Options
from slotferry.net.endpoints import Endpoint

_SCAN_HINT = "leave it out, or give {read} scan"
_SERVER_HINT = "leave it out, or load the file into a server and copy from that"


def check_file_options(source: Endpoint, options: Options) -> None:
    """Raise `OptionError` for options that don't go together with the source, file or server."""
    if not source.is_file:
        if options.ignore_checksum:
            raise OptionError(
                "{ignore_checksum} is given, and the source is a server",
                hint="leave it out: only a file has one",
            )
        if options.read == "snapshot":
            _check_snapshot(options)
        return
    selection = options.selection
    if source.is_stdin and options.verify:
        raise OptionError(
            "{verify} is given, and the RDB file comes from stdin, which can't be read twice",
            hint="leave it out, or save it in a file",
        )
    for given, what in (
        (options.read == "snapshot", "{read} snapshot"),
        (options.follow, "{follow}"),
        (options.keys_from is not None, "{keys_from}"),
        (options.keep_eviction_metadata, "{keep_eviction_metadata}"),
        (options.parallel_scans is not None, "{parallel_scans}"),
        (selection.min_size is not None, "{min_size}"),
        (selection.max_size is not None, "{max_size}"),
        (bool(options.map_db), "{map_db}"),
        (options.db == "all" or len(options.db or ()) > 1, "more than one database"),
    ):
        if given:
            raise OptionError(what + " is given, and the source is an RDB file", hint=_SERVER_HINT)
    if source.is_stdin and selection.renames and options.on_collision != "unchecked":
        raise OptionError(
            "keys are renamed and the RDB file comes from stdin, which can't be read twice to see whether "
            "two get one name",
            hint="give {on_collision} unchecked, or save it in a file",
        )


def _check_snapshot(options: Options) -> None:
    """Raise `OptionError` for options that a snapshot of a live source does not take."""
    for given, what in (
        (options.keys_from is not None, "{keys_from}"),
        (options.keep_eviction_metadata, "{keep_eviction_metadata}"),
        (options.parallel_scans is not None, "{parallel_scans}"),
        (options.selection.min_size is not None, "{min_size}"),
        (options.selection.max_size is not None, "{max_size}"),
        (options.db == "all" or len(options.db or ()) > 1, "more than one database"),
    ):
        if given:
            raise OptionError("{read} snapshot is given together with " + what, hint=_SCAN_HINT)
