"""Whether the target can load what the source has: versions, modules, functions, databases.

Invariant: what a primary takes is what it said when it was asked (rdb_versions.py); the table here, from the
protocol's description of DUMP and RESTORE, is for the source, and for a primary that does not tell.
"""

from __future__ import annotations

from slotferry.preflight.rows import Row, ok, warning
from slotferry.preflight.survey import ServerView, Survey
from slotferry.text import count_of

_REDIS_RDB = (((8, 8), 14), ((8, 6), 13), ((7, 4), 12), ((7, 2), 11), ((7, 0), 10), ((0,), 9))
_VALKEY_RDB = (((9, 0), 80), ((0,), 11))
_NEUTRAL_RDB = 11


def rdb_version(view: ServerView) -> int:
    """Return the RDB version that the server writes."""
    table = _VALKEY_RDB if view.product.family == "valkey" else _REDIS_RDB
    return next(version for since, version in table if view.product.version >= since)


def takes_rdb(view: ServerView, version: int) -> bool:
    """Whether the server's RESTORE takes a footer of this version."""
    if view.rdb_versions is not None:
        return version in view.rdb_versions
    own = rdb_version(view)
    return version == own or version <= (_NEUTRAL_RDB if view.product.family == "valkey" else own)


def judge_compatibility(survey: Survey) -> list[Row]:
    """Return a row for each check that needs no look at the data."""
    return [_versions(survey), _modules(survey), _functions(survey), _databases(survey)]


def _versions(survey: Survey) -> Row:
    source, written = survey.source, rdb_version(survey.source)
    products = sorted({str(view.product) for view in survey.primaries})
    refusing = [view for view in survey.primaries if not takes_rdb(view, written)]
    if len(products) > 1:
        return warning(
            "versions",
            f"the target's primaries run different versions: {', '.join(products)}",
            "bring them to one version first: a key that one of them loads may be refused by another",
        )
    if refusing:
        return ok(
            "versions",
            f"{source.product} writes RDB version {written}, which {products[0]} does not take: payloads are "
            "translated on the way",
        )
    return ok("versions", f"{source.product} (RDB {written}) to {', '.join(products)}, which takes it")


def _modules(survey: Survey) -> Row:
    have = survey.source.modules
    missing = {view.node: sorted(have - view.modules) for view in survey.primaries if have - view.modules}
    if missing:
        names = sorted({name for lacking in missing.values() for name in lacking})
        return warning(
            "modules",
            f"the source has modules that are missing at {', '.join(missing)}: {', '.join(names)}",
            "load them there: keys of their types can't be restored without, and their commands are missing",
        )
    return ok("modules", f"the target has them: {', '.join(sorted(have))}" if have else "the source has none")


def _functions(survey: Survey) -> Row:
    libraries = survey.source.number("number_of_libraries")
    lacking = [view.node for view in survey.primaries if view.number("number_of_libraries") < libraries]
    scripts = survey.source.number("number_of_cached_scripts")
    note = f"; cached scripts ({scripts:,}) are not data: the application loads them anew" if scripts else ""
    if lacking:
        return ok(
            "functions",
            f"'slotferry migrate' copies the source's {libraries:,} function "
            f"{'library' if libraries == 1 else 'libraries'} to {', '.join(lacking)}{note}",
        )
    return ok(
        "functions", ("the target has as many function libraries" if libraries else "no functions") + note
    )


def _databases(survey: Survey) -> Row:
    others = {
        database: count
        for database, count in survey.source.keys.items()
        if database not in survey.source_databases
    }
    if others:
        parts = ", ".join(
            f"{database} ({count_of(count, 'key')})" for database, count in sorted(others.items())
        )
        return warning(
            "databases",
            f"the source has keys in other databases, which are not part of this: {parts}",
            "'slotferry migrate --all-dbs' copies them as well; --map-db says how where the target has one",
        )
    chosen = sorted(survey.source_databases)
    noun = "database" if len(chosen) == 1 else "databases"
    return ok("databases", f"all keys are in {noun} {', '.join(map(str, chosen))}")
