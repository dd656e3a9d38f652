"""The way to a run from another terminal: a Unix socket beside the journal.

Invariant: only the owner of the journal gets in (a socket of mode 0600 in a folder of mode 0700), and who
holds a job's lock is the only one to listen for it. A request and an answer are a line of JSON each; nothing
that is asked blocks the run, and a run that can't listen goes on without.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import selectors
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from slotferry.errors import JobNotRunningError, JournalError, RefusedError, SlotferryError, UsageError
from slotferry.jobs.control.controls import Controls
from slotferry.jobs.lock import Kind, is_running, lock_folder, lock_name

Json = dict[str, Any]

_LONGEST_LINE = 64 << 10
_LONGEST_NAME = 60
_LONGEST_PATH = 100  # sun_path takes 104 bytes (macOS) or 108 (Linux), with the zero at the end
_PATIENCE = 5.0
_PAUSE = 0.1


class ControlSocket:
    """Listens for one run from `with` to its end; `status` says how the run is."""

    def __init__(
        self,
        journal: Path,
        job: str,
        controls: Controls,
        status: Callable[[], Json],
        kind: Kind = "migrate",
        answer: Callable[[str, Json], Mapping[str, Any] | None] = lambda _command, _request: None,
    ) -> None:
        """`answer` is asked what this module does not know; it returns None for what nobody knows."""
        self.path = _path(journal, lock_name(job, kind))
        self._job = job
        self._controls = controls
        self._status = status
        self._further = answer
        self._server: _Server | None = None
        self.complaint = ""
        """Why nobody can be listened to; empty while somebody can."""

    def __enter__(self) -> ControlSocket:
        try:
            with _short(self.path) as path:
                self._server = _Server(path, self._answer)
        except OSError as error:
            self.complaint = (
                f"the job {self._job} can't be controlled from another terminal: the socket {self.path} "
                f"can't be opened: {error.strerror or error}"
            )
        else:
            self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
            with contextlib.suppress(OSError):
                self.path.unlink()

    def _answer(self, line: bytes) -> Json:
        try:
            request = json.loads(line)
            added = self._do(str(request["command"]), request)
        except SlotferryError as error:
            refused = not isinstance(error, UsageError)
            return {"ok": False, "refused": refused, "message": error.message, "hint": error.hint}
        except (ValueError, KeyError, TypeError):
            return {"ok": False, "message": "this run does not know the request", "hint": ""}
        rates = self._controls.rates
        return {"ok": True, **self._status(), "paused": self._controls.paused, **asdict(rates), **added}

    def _do(self, command: str, request: Json) -> Mapping[str, Any]:
        """Do what was asked; return what is added to the answer."""
        if command == "pause":
            self._controls.paused = True
        elif command == "resume":
            self._controls.paused = False
        elif command == "rate":
            names = asdict(self._controls.rates)
            self._controls.change_rates({name: request[name] for name in names if name in request})
        elif command == "cancel":
            self._controls.cancel.ask(immediately=bool(request.get("immediately")))
        elif command != "status":
            if (added := self._further(command, request)) is not None:
                return added
            raise UsageError(f"the run knows no command {command!r}", hint="is it of an older version?")
        return {}


def ask(journal: Path, job: str, command: str, kind: Kind = "migrate", **arguments: Any) -> Json:
    """Ask the run of `job` that goes on now; return its answer, which says how the run is.

    Raises `JobNotRunningError` where none goes on, and `SlotferryError` for a request that it refuses.
    """
    if not is_running(journal, job, kind):
        raise JobNotRunningError(
            f"the job {job} is not running",
            hint="see 'slotferry jobs list'; start it with 'slotferry migrate' or 'slotferry reshard'",
        )
    path = _path(journal, lock_name(job, kind))
    try:
        line = _exchange(path, json.dumps({"command": command, **arguments}).encode())
        answer: Json = json.loads(line)
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or "no answer"
        raise JournalError(
            f"the run of {job} does not answer at {path}: {reason}",
            hint="it may be about to end, or be run by another user",
        ) from None
    if not answer.pop("ok", False):
        kind_of_error = RefusedError if answer.get("refused") else UsageError
        raise kind_of_error(str(answer.get("message")), hint=str(answer.get("hint", "")))
    return answer


def live_status(journal: Path, job: str, kind: Kind = "migrate") -> Json | None:
    """Return how the run of `job` is; None where none goes on or it does not say."""
    try:
        return ask(journal, job, "status", kind)
    except SlotferryError:
        return None


class _Server:
    """Listens in a thread of its own, and answers each client in another one, so that none keeps others off.

    Not socketserver's: its end is seen only at the next poll.
    """

    def __init__(self, path: str, answer: Callable[[bytes], Json]) -> None:
        self._answer = answer
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="slotferry-control", daemon=True)
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            # What lies there is of a run that was killed: the lock says that no other is alive.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            self._socket.bind(path)
            os.chmod(path, 0o600)  # before anybody is listened to
            self._socket.listen()
            self._socket.setblocking(False)  # a client may be gone again before it is accepted
            self._end, self._ended = socket.socketpair()
        except BaseException:
            self._socket.close()
            raise

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Listen no longer. Who is being answered is not waited for."""
        self._ending.set()
        self._end.close()
        self._thread.join()
        self._ended.close()
        self._socket.close()

    def _listen(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ)
            selector.register(self._ended, selectors.EVENT_READ)
            while selector.select() and not self._ending.is_set():
                self._take_in()

    def _take_in(self) -> None:
        try:
            client, _ = self._socket.accept()
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()
        except (OSError, RuntimeError):  # no file or thread is left, which may last
            self._ending.wait(_PAUSE)

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(Exception), client:  # a client that hangs up is no business of the run's
            client.settimeout(_PATIENCE)
            with client.makefile("rb") as request:
                line = request.readline(_LONGEST_LINE)
            if line:
                client.sendall(json.dumps(self._answer(line)).encode() + b"\n")


def _exchange(path: Path, line: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_PATIENCE)
        with _short(path) as short:
            connection.connect(short)
        connection.sendall(line + b"\n")
        with connection.makefile("rb") as answer:
            return answer.readline()


def _path(journal: Path, name: str) -> Path:
    short = name if len(name) <= _LONGEST_NAME else hashlib.sha256(name.encode()).hexdigest()[:32]
    return lock_folder(journal) / f"{short}.sock"


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """Yield a name for `path` that fits into a socket's address, as long as the context lasts."""
    if len(os.fsencode(path)) <= _LONGEST_PATH or not os.path.isdir("/proc/self/fd"):
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
