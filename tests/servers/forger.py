"""A server that lies on demand: a real one behind a proxy that knows commands and replies, and forges some.

Invariant: what is not forged passes as it is and in order, so that every phase of a run gets as far as with
the real server alone; what the real server holds at the end is known, since it can be asked directly.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

Arguments = tuple[bytes, ...]


@dataclass(frozen=True)
class Forgery:
    """What becomes of one command.

    reply: what is sent in place of the reply; None: the server's own. change: what is made of the reply
    before it is sent. become: what to do instead, made of the server's own reply (empty where withheld).
    withheld: the command does not reach the server. drip: seconds between two bytes. close: hang up behind
    it; deaf: say nothing more on this connection.
    """

    reply: bytes | None = None
    change: Callable[[bytes], bytes] | None = None
    become: Callable[[bytes], Forgery] | None = None
    withheld: bool = False
    drip: float = 0.0
    close: bool = False
    deaf: bool = False


Forge = Callable[[Arguments], Forgery | None]
"""Says what becomes of a command, in the order in which they come; None lets it pass."""


class Forger:
    """Forwards connections to `host:port`; a context manager. `forge` may be changed at any time.

    `calls` counts the commands by name. It runs in a thread with an event loop of its own.
    """

    host = "127.0.0.1"

    def __init__(self, host: str, port: int, forge: Forge | None = None) -> None:
        self.server = (host, port)
        self.forge = forge or (lambda _: None)
        self.port = 0
        self.calls: Counter[bytes] = Counter()
        self.connections = 0
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, name="forger", daemon=True)

    def __enter__(self) -> Forger:
        self._thread.start()
        self._run(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        return f"redis://{self.address}"

    def cut(self) -> None:
        """Close every connection now; new ones are accepted."""
        self._run(self._cut())

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _listen(self) -> None:
        self._listener = await asyncio.start_server(self._accept, self.host, 0, limit=1 << 20)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def _end(self) -> None:
        if self._listener is not None:
            self._listener.close()
        await self._cut()

    async def _cut(self) -> None:
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await _Conversation(self, reader, writer).hold()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # one of the two has hung up, or the test has ended
        finally:
            self._tasks.discard(task)
            writer.transport.abort()


class _Conversation:
    """One connection of a client, and ours to the server."""

    def __init__(self, forger: Forger, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._forger = forger
        self._commands = _Frames(reader)
        self._writer = writer

    async def hold(self) -> None:
        reader, server = await asyncio.open_connection(*self._forger.server, limit=1 << 20)
        replies = _Frames(reader)
        try:
            while True:
                passing: list[bytes] = []
                for frame, arguments in await self._commands.commands():
                    self._forger.calls[arguments[0].upper() if arguments else b""] += 1
                    forgery = self._forger.forge(arguments)
                    if forgery is None:
                        passing.append(frame)
                        continue
                    await self._pass_on(passing, replies, server)
                    passing = []
                    if not await self._tell(forgery, frame, replies, server):
                        return
                await self._pass_on(passing, replies, server)
        finally:
            server.transport.abort()

    async def _pass_on(self, commands: list[bytes], replies: _Frames, server: asyncio.StreamWriter) -> None:
        server.write(b"".join(commands))
        left = len(commands)
        while left:
            data, count = await replies.up_to(left)
            self._writer.write(data)
            left -= count
        await self._writer.drain()

    async def _tell(
        self, forgery: Forgery, frame: bytes, replies: _Frames, server: asyncio.StreamWriter
    ) -> bool:
        """Do as the forgery says; whether the connection goes on."""
        reply = forgery.reply
        if not forgery.withheld:
            server.write(frame)
            own = await replies.one()
            reply = own if reply is None else reply
        reply = reply or b""
        if forgery.become is not None:
            forgery = forgery.become(reply)
            reply = forgery.reply or b""
        if forgery.change is not None:
            reply = forgery.change(reply)
        if forgery.drip:
            for byte in reply:
                self._writer.write(bytes([byte]))
                await asyncio.sleep(forgery.drip)
        else:
            self._writer.write(reply)
            await self._writer.drain()
        if forgery.deaf:
            await asyncio.sleep(3600)
        return not forgery.close


class _Frames:
    """RESP values as they come, unparsed."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self._buffer = b""
        self._at = 0

    async def one(self) -> bytes:
        while (frame := self._next()) is None:
            data = await self._reader.read(1 << 18)
            if not data:
                raise asyncio.IncompleteReadError(b"", None)
            self._buffer, self._at = self._buffer[self._at :] + data, 0
        return frame

    async def up_to(self, count: int) -> tuple[bytes, int]:
        """Return several that are here, one at least and `count` at most, and how many they are."""
        lines = _LINES.match(self._buffer, self._at)
        if lines is None:
            return await self.one(), 1
        data = lines[0]
        here = data.count(b"\r\n")
        if here > count:
            here = count
            data = b"".join(data.splitlines(keepends=True)[:count])
        self._at += len(data)
        return data, here

    async def commands(self) -> list[tuple[bytes, Arguments]]:
        """Return all commands that are here, one at least: as they came, and their arguments."""
        frame = await self.one()
        found = [(frame, parse_command(frame))]
        while True:
            plain = _PLAIN.match(self._buffer, self._at)
            if plain is not None and all(int(plain[i]) == len(plain[i + 1]) for i in (1, 3, 5)):
                self._at = plain.end()
                found.append((plain[0], plain.group(2, 4, 6)))
            elif (frame_or_none := self._next()) is not None:
                found.append((frame_or_none, parse_command(frame_or_none)))
            else:
                return found

    def _next(self) -> bytes | None:
        end = frame_end(self._buffer, self._at)
        if end is None:
            return None
        frame, self._at = self._buffer[self._at : end], end
        return frame


# What comes by ten thousands (COUNTKEYSINSLOT of every slot): replies of one line, commands of three words.
_LINES = re.compile(rb"(?:[+:-][^\r\n]*\r\n)+")
_PLAIN = re.compile(rb"\*3\r\n\$(\d+)\r\n([^\r\n]*)\r\n\$(\d+)\r\n([^\r\n]*)\r\n\$(\d+)\r\n([^\r\n]*)\r\n")


def frame_end(data: bytes, at: int) -> int | None:
    """Return where the RESP value that begins at `at` ends; None where it is not all there."""
    missing = 1
    while missing:
        line_end = data.find(b"\r\n", at)
        if line_end < 0:
            return None
        kind, at_value = data[at : at + 1], line_end + 2
        if kind == b"$" and (length := int(data[at + 1 : line_end])) >= 0:
            at_value += length + 2
            if at_value > len(data):
                return None
        if kind == b"*":
            missing += max(0, int(data[at + 1 : line_end]))
        missing -= 1
        at = at_value
    return at


def parse_command(frame: bytes) -> Arguments:
    """Return the arguments of a command as clients send it: an array of bulk strings."""
    arguments, at = [], frame.index(b"\r\n") + 2
    while at < len(frame):
        line_end = frame.index(b"\r\n", at)
        length = int(frame[at + 1 : line_end])
        arguments.append(frame[line_end + 2 : line_end + 2 + length])
        at = line_end + length + 4
    return tuple(arguments)


def answering(
    reply: bytes, *names: str, times: int | None = None, withheld: bool = True, **how: Any
) -> Forge:
    """Answer commands that begin with these words with `reply`, `times` times or always."""
    wanted = tuple(name.upper().encode() for name in names)
    left = [times]

    def forge(arguments: Arguments) -> Forgery | None:
        if tuple(part.upper() for part in arguments[: len(wanted)]) != wanted or left[0] == 0:
            return None
        if left[0] is not None:
            left[0] -= 1
        return Forgery(reply, withheld=withheld, **how)

    return forge


@contextlib.contextmanager
def forged(host: str, port: int, forge: Forge | None = None) -> Iterator[Forger]:
    """Yield a forger before one server."""
    with Forger(host, port, forge) as forger:
        yield forger
