"""What the data means for the target: rows about types, big keys, balance, hot slots and hash tags.

Invariant: judged from a `Keyspace` and a `Survey` alone. A primary's fair share is one part of as many as
there are primaries: what is in one slot can never be spread further.
"""

from __future__ import annotations

from collections.abc import Mapping

from slotferry._core import key_slot
from slotferry.preflight.fitness import slot_owners
from slotferry.preflight.keyspace.summary import Keyspace, PlacedShare
from slotferry.preflight.rows import Row, error, not_checked, ok, warning
from slotferry.preflight.survey import ServerView, Survey
from slotferry.text import format_bytes, shorten_key

_BULK_LIMIT = 512 << 20
_BIG_KEY = 64 << 20
_UNEVEN = 1.5
_PLAIN_TYPES = frozenset({"string", "hash", "list", "set", "zset", "stream"})
_MODULE_RDB = frozenset({6, 7})
_LATE_TYPES = {27: (8, 8), 28: (8, 8)} | dict.fromkeys(range(29, 33), (8, 10))  # of Redis alone
_EXPLAINED = 0.8
_FIELD_TTL_RDB = frozenset({22, 23, 24, 25})


def judge_data(keyspace: Keyspace) -> list[Row]:
    """Return the rows that need no target."""
    return [_sample(keyspace), _biggest(keyspace)]


def judge_placement(keyspace: Keyspace, survey: Survey, rdb_types: Mapping[int, bytes]) -> list[Row]:
    """Return the rows about how the data fits into this target."""
    return [
        _types(keyspace, survey, rdb_types),
        _value_size(keyspace, survey),
        _balance(keyspace),
        _hot("hot-slots", keyspace, keyspace.hot_slots),
        _hot("hash-tags", keyspace, keyspace.hot_tags),
    ]


def describe_place(tag: bytes, share: float, survey: Survey) -> str:
    """Return where a share of the data would be with one hash tag, and whether that is too much there."""
    owner = slot_owners(survey.topology).get(key_slot(tag))
    view = next((view for view in survey.primaries if view.node == owner), None)
    if owner is None or view is None:
        return ""
    fair, limit = 1 / len(survey.primaries), view.number("maxmemory")
    if limit and share * survey.source.data_bytes > limit - view.number("used_memory"):
        return f" at {owner}, which would overflow"
    return f" at {owner}" + (f", beyond its fair share of {fair:.0%}" if share > fair else "")


def _sample(keyspace: Keyspace) -> Row:
    if not keyspace.keys:
        return ok("sample", "the source's database is empty")
    scale = keyspace.scale
    by_keys = sorted(keyspace.by_type, key=lambda share: share.keys, reverse=True)
    types = ", ".join(f"{share.keys / keyspace.sampled:.0%} {share.name}" for share in by_keys[:4])
    ttl = sum(share.with_ttl for share in keyspace.by_type) / max(1, keyspace.sampled)
    size = f"about {format_bytes(keyspace.bytes * scale)}, " if keyspace.bytes_known else ""
    looked = "all" if keyspace.full else f"{keyspace.sampled:,} of {keyspace.keys:,}"
    text = f"{looked} keys looked at: {size}{types}; {ttl:.0%} have a TTL"
    if keyspace.denied:
        return warning(
            "sample",
            f"{text}; {keyspace.denied:,} more may not be read",
            "grant the source user the keys, with %R~* or ~*, or migrate only what it may read (--match)",
        )
    if not keyspace.bytes_known:
        return warning(
            "sample",
            f"{text}; sizes are unknown, as MEMORY USAGE is refused",
            "grant +memory|usage (before 7.0 +memory) to see bytes, big keys and what each primary will hold",
        )
    return ok("sample", text)


def _biggest(keyspace: Keyspace) -> Row:
    if not keyspace.biggest or not keyspace.bytes_known:
        if not keyspace.sampled:
            return ok("biggest-keys", "there are none")
        return not_checked("biggest-keys", "MEMORY USAGE is refused", "grant +memory|usage")
    first = keyspace.biggest[0]
    size = first.bytes or 0
    name = f"{shorten_key(first.key)} ({first.type}, {format_bytes(size)})"
    unseen = "" if keyspace.full else "; a sample may miss bigger ones (--full sees all)"
    if keyspace.explained is not None and not keyspace.full:
        looked = f" and {keyspace.sought:,} more" if keyspace.sought else ""
        explain = "explain" if looked else "explains"
        share = f"{keyspace.explained:.0%} of the memory that the data takes"
        unseen = f"; the sample{looked} {explain} {share}"
    if size >= _BIG_KEY:
        many = sum((facts.bytes or 0) >= _BIG_KEY for facts in keyspace.biggest)
        return warning(
            "biggest-keys",
            f"{many if many < len(keyspace.biggest) else f'{many} or more'} keys of {format_bytes(_BIG_KEY)} "
            f"or more, the biggest is {name}{unseen}",
            "moving one blocks both servers for the moment: move them at a quiet time, or split them",
        )
    if keyspace.explained is not None and keyspace.explained < _EXPLAINED and not keyspace.full:
        return warning(
            "biggest-keys",
            f"the biggest that was seen is {name}{unseen}",
            "--full looks at every key: bigger ones are likely among those that were not seen",
        )
    return ok("biggest-keys", f"the biggest is {name}{unseen}")


def _types(keyspace: Keyspace, survey: Survey, rdb_types: Mapping[int, bytes]) -> Row:
    foreign = [share for share in keyspace.by_type if share.name not in _PLAIN_TYPES]
    missing = sorted({m for view in survey.primaries for m in survey.source.modules - view.modules})
    if (foreign or _MODULE_RDB & rdb_types.keys()) and missing:
        parts = ", ".join(f"{s.name} ({s.keys:,} of {keyspace.sampled:,} keys, {s.example})" for s in foreign)
        return error(
            "types",
            "target",
            f"values of modules that the target lacks ({', '.join(missing)}): {parts or 'module types'}",
            "load the modules at every primary; or leave these keys out with --type or --match",
        )
    if foreign and {view.product.family for view in survey.primaries} != {survey.source.product.family}:
        parts = ", ".join(f"{s.name} ({s.keys:,} of {keyspace.sampled:,} keys)" for s in foreign)
        return warning(
            "types",
            f"types that are not everywhere the same: {parts}",
            "try one of them first: what the target can't load is recorded as failed",
        )
    late = sorted(rdb_types.keys() & _LATE_TYPES.keys())
    unable = [view.node for kind in late for view in survey.primaries if not _knows(view, kind)]
    if unable:
        return warning(
            "types",
            f"{', '.join(unable)} can't load values encoded as {shorten_key(rdb_types[late[-1]])} is",
            "use a newer target, or such keys are recorded as failed",
        )
    ttl_fields = [rdb_types[kind] for kind in sorted(_FIELD_TTL_RDB & rdb_types.keys())]
    if ttl_fields:
        return _field_ttls(survey, ttl_fields[0])
    if not rdb_types and keyspace.sampled:
        return not_checked("types", "no value could be looked at (DUMP)", "grant +dump and +memory|usage")
    return ok("types", f"{len(keyspace.by_type)} types of value, all of them known to the target")


def _knows(view: ServerView, kind: int) -> bool:
    return view.product.family == "redis" and view.product.version >= _LATE_TYPES[kind]


def _field_ttls(survey: Survey, example: bytes) -> Row:
    unable = [
        view.node
        for view in survey.primaries
        if view.product.version < ((9, 0) if view.product.family == "valkey" else (7, 4))
    ]
    where = f"hashes have fields with a TTL, such as {shorten_key(example)}"
    if unable:
        return warning(
            "types",
            f"{where}, which {', '.join(unable)} can't store",
            "use a target of Redis 7.4 or Valkey 9.0 on, or --field-ttl drop, which copies them without",
        )
    return ok("types", f"{where}; the target can store them")


def _value_size(keyspace: Keyspace, survey: Survey) -> Row:
    if not keyspace.bytes_known and keyspace.sampled:
        return not_checked("value-size", "MEMORY USAGE is refused", "grant +memory|usage")
    known = [view.max_value for view in survey.primaries if view.max_value is not None]
    limit = min(known, default=_BULK_LIMIT)
    said = format_bytes(limit) if known else f"{format_bytes(limit)} (assumed: CONFIG GET is refused)"
    beyond = [facts for facts in keyspace.biggest if (facts.bytes or 0) > limit]
    if beyond:
        # A string goes in one piece; the others go element by element where they have to.
        worst = next((facts for facts in beyond if facts.type == "string"), beyond[0])
        what = (
            "it can't be written"
            if worst.type == "string"
            else "it is copied in parts, and fails where one element alone is beyond that"
        )
        return warning(
            "value-size",
            f"{shorten_key(worst.key)} ({worst.type}) takes {format_bytes(worst.bytes or 0)}, more than the "
            f"target's proto-max-bulk-len of {said}: {what}",
            "raise proto-max-bulk-len at every primary for the time of the migration",
        )
    return ok("value-size", f"no value that was seen is beyond the target's proto-max-bulk-len of {said}")


def _balance(keyspace: Keyspace) -> Row:
    shares = keyspace.shares()
    if not shares:
        return ok("balance", "there is no data to balance")
    fair = 1 / len(shares)
    parts = ", ".join(f"{node} {share:.0%}" for node, share in shares.items())
    fullest = max(shares, key=lambda node: shares[node])
    if shares[fullest] > fair * _UNEVEN:
        return warning(
            "balance",
            f"{fullest} would hold {shares[fullest]:.0%} of the data, its fair share is {fair:.0%}: {parts}",
            "look at the hottest slots and tags below; give it fewer slots, or the keys another hash tag",
        )
    return ok("balance", f"expected shares: {parts}")


def _hot(name: str, keyspace: Keyspace, parts: tuple[PlacedShare, ...]) -> Row:
    noun = "slot" if name == "hot-slots" else "hash tag"
    primaries = len(keyspace.primaries)
    if not parts or not primaries or not keyspace.sampled:
        return ok(
            name,
            "no key has a hash tag" if name == "hash-tags" and keyspace.full else f"no {noun} stands out",
        )
    fair = 1 / primaries
    worst = max(parts, key=lambda part: _share(part, keyspace))
    share = _share(worst, keyspace)
    shown = worst.name if noun == "slot" else f"{{{worst.name}}}"
    what = f"{noun} {shown} holds {share:.1%} of the data"
    if share > fair and primaries > 1:
        return warning(
            name,
            f"{what}, more than a primary's fair share of {fair:.0%}: all of it goes to {worst.node}",
            "a slot can't be split: choose a finer hash tag for its keys (see the key patterns)",
        )
    return ok(name, f"the largest {what}, a primary's fair share is {fair:.0%}")


def _share(part: PlacedShare, keyspace: Keyspace) -> float:
    """Return a part's share of keys or bytes, whichever is larger."""
    by_bytes = part.bytes / keyspace.bytes if keyspace.bytes else 0.0
    return max(part.keys / keyspace.sampled, by_bytes)
