"""Runs the command line many times at little cost: a process that has imported everything forks for each run.

Invariant: each run is a process of its own, with its own environment, exit code, stderr and peak of memory;
one that does not end in time is killed, and says where its threads stood.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_GRACE = 5.0  # after which who has not even said where it hangs is killed


@dataclass(frozen=True)
class Ended:
    """How a run ended.

    hung: where its threads stood when its time was over, empty where it ended by itself.
    peak: of its memory, in bytes. seconds: what it took.
    """

    code: int
    seconds: float
    peak: int
    stdout: bytes
    stderr: bytes
    hung: str


class ForkingCommand:
    """A process that forks for each run; a context manager. `baseline`: its memory before, in bytes."""

    def __init__(self, reply_timeout: float) -> None:
        self._timeout = str(reply_timeout)
        self.baseline = 0

    def __enter__(self) -> ForkingCommand:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, self._timeout],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={name: value for name, value in os.environ.items() if not name.startswith("SLOTFERRY_")},
        )
        self.baseline = int(self._line(60.0) or 0)
        assert self.baseline, "the process that forks did not start"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def run(
        self, arguments: Sequence[str], folder: Path, timeout: float, env: Mapping[str, str] | None = None
    ) -> Ended:
        """Run `slotferry` with these arguments; its outputs go to files of `folder`."""
        order = {
            "arguments": list(arguments),
            "folder": str(folder),
            "timeout": timeout,
            "env": dict(env or {}),
        }
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()
        pid = int(self._line(60.0))
        line = self._line(timeout + _GRACE)
        if not line:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            line = self._line(60.0)
        ended = json.loads(line)
        hung = (folder / "hung").read_text()
        if ended["code"] == -signal.SIGKILL and not hung:
            hung = "killed: it did not even say where it stood"
        out, err = ((folder / name).read_bytes() for name in ("stdout", "stderr"))
        return Ended(ended["code"], ended["seconds"], ended["peak"], out, err, hung)

    def _line(self, timeout: float) -> bytes:
        """Return the next line; an empty one where none comes in time."""
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], timeout)
        return self._process.stdout.readline() if ready else b""


def _serve(reply_timeout: float) -> None:
    import importlib
    import pkgutil
    import resource

    link = importlib.import_module("slotferry.net.link")
    # A silent server costs 10 s else: the same path, sooner.
    link.REPLY_TIMEOUT = link.CONNECT_TIMEOUT = reply_timeout  # type: ignore[attr-defined]
    package = importlib.import_module("slotferry")
    for module in pkgutil.walk_packages(package.__path__, "slotferry."):
        importlib.import_module(module.name)
    out = os.fdopen(os.dup(1), "w")
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, file=out, flush=True)
    for line in sys.stdin.buffer:
        _fork(json.loads(line), out)


def _fork(order: dict[str, Any], out: Any) -> None:
    import time

    begun = time.monotonic()
    pid = os.fork()
    if not pid:
        _become(order)  # does not return
    print(pid, file=out, flush=True)
    _, status, usage = os.wait4(pid, 0)
    ended = {
        "code": os.waitstatus_to_exitcode(status),
        "seconds": time.monotonic() - begun,
        "peak": usage.ru_maxrss * 1024,
    }
    print(json.dumps(ended), file=out, flush=True)


def _become(order: dict[str, Any]) -> None:
    """Go on as the command does, to the end of the interpreter."""
    import faulthandler

    from slotferry.cli import main

    folder = Path(order["folder"])
    os.environ.update(order["env"])
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    hung = open(folder / "hung", "w")  # noqa: SIM115 - for the rest of the process
    faulthandler.dump_traceback_later(order["timeout"], exit=True, file=hung)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115 - likewise
    sys.argv = ["slotferry", *order["arguments"]]
    sys.exit(main())


if __name__ == "__main__":
    _serve(float(sys.argv[1]))
