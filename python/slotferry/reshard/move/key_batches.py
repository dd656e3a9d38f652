"""Keys of open slots on their way by MIGRATE KEYS: listed, sized, and sent in batches.

Invariant: no more than `_DEPTH` MIGRATEs are under way, and every reply is read before it is told that the
target has no room. A batch is as large as the time it may take allows.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Container, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from slotferry.errors import SlotferryError
from slotferry.net.connector import Connector
from slotferry.net.link import encode, lost
from slotferry.reshard.cluster.methods import Moved, OnProgress, Pair
from slotferry.reshard.cluster.wire import Wire, decode_key, is_error, refused, slot_commands, text_of
from slotferry.reshard.limits import Scheduler
from slotferry.reshard.move.conflicts import ConflictFile, Keep
from slotferry.reshard.move.rollback import NoRoomError, no_room
from slotferry.reshard.plan.measure import memory_usage
from slotferry.text import format_bytes, shorten_key

_LIST_KEYS = 1_000  # of a slot at once
_DEPTH = 2  # MIGRATEs under way at one source: one at work, the next one there when it is done
_BATCH_BYTES = 1_000_000  # what one MIGRATE carries at most; a larger key goes alone
_FIRST_KEYS, _LEAST_KEYS, _MOST_KEYS = 50, 5, 400
_BATCH_SECONDS = 0.004  # what one MIGRATE should block at most, where no latency bound says less
_MIGRATE_TIMEOUT = 5.0
_SLOWEST_BYTES = 20e6  # bytes a second that a big key is given time for


@dataclass(frozen=True)
class Listed:
    """Keys of a slot, encoded, and what each takes in memory (0: gone, or not known)."""

    keys: Sequence[bytes]
    sizes: Sequence[int]

    @property
    def largest(self) -> int:
        """The size of the largest one."""
        return max(self.sizes, default=0)


class KeyBatches:
    """The keys of one mover, which go from `source` to the other node of the pair.

    MIGRATE blocks both nodes while it runs, so keys that are too large for that are known before: every key
    is sized first.
    """

    def __init__(
        self,
        connector: Connector,
        pair: Pair,
        scheduler: Scheduler,
        conflicts: ConflictFile,
        notice: Callable[[str], None],
        source: Wire,
        keep: Keep = "ask",
    ) -> None:
        """Take the connection to the source, which nobody else has replies outstanding on.

        `keep` says what becomes of a key that differs between the two nodes.
        """
        self.source = source
        self.sent: dict[int, tuple[int, int]] = {}
        """Keys and bytes by slot, since `begin`."""
        self._connector = connector
        self._pair = pair
        self._scheduler = scheduler
        self._conflicts = conflicts
        self._notice = notice
        self._keep = keep
        self._batch_keys = _FIRST_KEYS
        self._migrate = self._migrate_head()
        self._sizes_allowed = True
        self._depth = _DEPTH
        self._homeward = False
        self._shared = False
        self._last_reply = 0.0

    def begin(self, *, shared: bool = False, homeward: bool = False) -> None:
        """Begin with other slots, whose target may be shared with another mover or own them already."""
        self._shared, self._homeward = shared, homeward
        # Under a bound the source is left alone between two MIGRATEs, for the time of a round trip.
        self._depth = 1 if shared or self._scheduler.batch_seconds is not None else _DEPTH
        self.sent.clear()

    def listed(
        self, slots: Sequence[int], outcome: Moved, *, opened: Container[int] | None
    ) -> dict[int, Listed]:
        """Return some keys of each slot with their sizes; a slot with too large a key is left out.

        `opened` are slots that stay open then; None: a large key is no reason any more.
        """
        asked = slot_commands("GETKEYSINSLOT", slots, _LIST_KEYS)
        found = self.source.each_keys(asked)
        sizes = self._sizes([key for keys in found for key in keys])
        listed: dict[int, Listed] = {}
        limit = self._scheduler.limits.max_key_bytes
        at = 0
        for slot, keys in zip(slots, found, strict=True):
            sized = Listed(keys, sizes[at : at + len(keys)])
            at += len(keys)
            if sized.largest > limit and opened is not None:
                name = decode_key(keys[sized.sizes.index(sized.largest)])
                reason = (
                    f"its key {shorten_key(name)} takes {format_bytes(sized.largest)}, more than MIGRATE "
                    f"is to block for ({format_bytes(limit)}: --max-key-size)"
                )
                outcome.left[slot] = f"open: {reason}" if slot in opened else reason
            else:
                listed[slot] = sized
        return listed

    def _sizes(self, keys: Sequence[bytes]) -> list[int]:
        if self._sizes_allowed:
            try:
                return memory_usage(self.source, keys)
            except SlotferryError as error:
                if error.kind != "target_not_ready":
                    raise
                self._sizes_allowed = False
                self._notice(f"keys can't be sized, so large ones are not known before: {error.message}")
        return [0] * len(keys)

    def move(
        self,
        listed: Sequence[tuple[int, Listed]],
        outcome: Moved,
        on_progress: OnProgress,
        conflicted: set[int],
    ) -> None:
        """Send the listed keys; `conflicted` takes the slots where one differs between the two nodes.

        Raises `NoRoomError` where the target is full.
        """
        under_way: deque[tuple[int, Sequence[bytes], int, float]] = deque()
        self._last_reply = time.perf_counter()
        try:
            for slot, keys in listed:
                for batch, size in self._batches(keys):
                    self._scheduler.check_abandoned()
                    self._scheduler.wait_turn(size)
                    timeout = _MIGRATE_TIMEOUT + size / _SLOWEST_BYTES
                    under_way.append((slot, batch, size, timeout))
                    self.source.set_timeout(timeout * 2 * _DEPTH)
                    self.source.send(self._migrate(batch, timeout))
                    if len(under_way) >= self._depth:
                        self._settle(under_way.popleft(), outcome, on_progress, conflicted)
            while under_way:
                self._settle(under_way.popleft(), outcome, on_progress, conflicted)
        except NoRoomError:
            while under_way:  # so that nothing moves any more, and every reply is read
                with suppress(NoRoomError):
                    self._settle(under_way.popleft(), outcome, on_progress, conflicted)
            raise

    def _batches(self, listed: Listed) -> Iterable[tuple[Sequence[bytes], int]]:
        total = sum(listed.sizes)
        if len(listed.keys) <= self._batch_keys and total <= _BATCH_BYTES:
            if listed.keys:
                yield listed.keys, total
            return
        batch: list[bytes] = []
        held = 0
        for key, size in zip(listed.keys, listed.sizes, strict=True):
            if batch and (len(batch) >= self._batch_keys or held + size > _BATCH_BYTES):
                yield batch, held
                batch, held = [], 0
            batch.append(key)
            held += size
        yield batch, held

    def _settle(
        self,
        done: tuple[int, Sequence[bytes], int, float],
        outcome: Moved,
        on_progress: OnProgress,
        conflicted: set[int],
    ) -> None:
        slot, batch, size, _ = done
        (reply,) = self.source.lines(1)
        now = time.perf_counter()
        self._adapt(len(batch), now - self._last_reply)
        self._last_reply = now
        if reply == b"+NOKEY":
            return  # expired or deleted meanwhile
        if not is_error(reply):
            outcome.keys += len(batch)
            outcome.bytes += size
            keys, held = self.sent.get(slot, (0, 0))
            self.sent[slot] = keys + len(batch), held + size
            on_progress(len(batch), size)
            return
        text = text_of(reply)
        if "BUSYKEY" in text:
            pair, migrate, home = self._pair, self._migrate, self._homeward
            if not self._conflicts.settle(
                self._connector, pair, slot, batch, migrate, keep=self._keep, home=home
            ):
                conflicted.add(slot)
            return
        if reply.startswith((b"-NOPERM", b"-NOAUTH")) or "NOPERM" in text or "NOAUTH" in text:
            raise refused(str(self._pair.source), "MIGRATE", reply)
        if "OOM" in text:
            raise no_room(self._pair, text)
        raise lost(
            "cluster", f"could not move slot {slot} from {self._pair.source}: {text}", "see that node's log"
        )

    def _adapt(self, keys: int, seconds: float) -> None:
        """Let a batch take the time it may, not more."""
        goal = self._scheduler.batch_seconds
        goal = _BATCH_SECONDS if goal is None else min(goal, _BATCH_SECONDS)
        if self._shared:
            goal *= 2  # the other target's MIGRATEs come between ours
        if seconds > goal:
            self._batch_keys = max(_LEAST_KEYS, min(self._batch_keys, keys) * 3 // 4)
        elif seconds < goal / 2 and keys >= self._batch_keys:
            self._batch_keys = min(_MOST_KEYS, self._batch_keys * 5 // 4 + 1)

    def _migrate_head(self) -> Callable[..., bytes]:
        """Return what encodes a MIGRATE of encoded keys."""
        peer, (username, password) = self._pair.target.peer, self._connector.login.current()
        auth: list[str] = []
        if password is not None:
            auth = ["AUTH2", username, password] if username else ["AUTH", password]

        def command(keys: Sequence[bytes], timeout: float, *, replace: bool = False) -> bytes:
            options = [*(["REPLACE"] if replace else []), *auth, "KEYS"]
            head = ["MIGRATE", peer.host, str(peer.port), "", "0", str(round(timeout * 1000)), *options]
            encoded = encode(*head)
            return b"*%d%b%b" % (
                len(head) + len(keys), encoded[encoded.index(b"\r\n") :], b"".join(keys),
            )  # fmt: skip

        return command
