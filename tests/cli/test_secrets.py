"""No secret in anything that the program ever wrote: outputs, journal, reports, folders of its own.

Invariant: what is searched is everything there is after many runs that succeed, fail and are killed, and each
secret is searched for in every spelling that a program might give it.
"""

from __future__ import annotations

import base64
import json
import traceback
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

import pytest
import trustme

from slotferry import Migration, Options
from slotferry.errors import SlotferryError
from slotferry.testing.servers import LocalCluster, LocalSentinelService, LocalServer, free_port, wait_until
from tests.command import Outcome, Running, run
from tests.servers.dataset import fill_strings
from tests.servers.fake import saying_peer
from tests.servers.kinds import ServerKind, available
from tests.servers.raw import connect

_SOURCE, _TARGET, _SENTINEL = "s0urce:p@ss/w%rd", "t4rget p\"ss'word", "s3ntinel#pässword"
_WRONG = "wr0ng-but-secret-t00"


def _spellings(secret: str) -> set[bytes]:
    texts = {secret, quote(secret), quote(secret, safe=""), repr(secret)[1:-1], json.dumps(secret)[1:-1]}
    raw = {text.encode() for text in texts}
    return raw | {base64.b64encode(secret.encode()).rstrip(b"=")[:-1], secret.encode().hex().encode()}


class Wardrobe:
    """Runs the command in folders of its own and keeps what it printed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.outputs: list[str] = []
        self.env = {
            "HOME": str(folder),
            "TMPDIR": str(folder),
            "XDG_STATE_HOME": str(folder / "state"),
            "SLOTFERRY_DEBUG": "1",
            "RUST_BACKTRACE": "full",
            "RUST_LOG": "trace",
        }

    def run(self, *arguments: str, code: int | None = None, **env: str) -> Outcome:
        done = run(*arguments, env={**self.env, **env})
        self.keep(done)
        assert code is None or done.code == code, done.stderr
        return done

    def keep(self, done: Outcome) -> None:
        self.outputs += [done.stdout, done.stderr]

    def everything(self) -> Iterator[tuple[str, bytes]]:
        """Yield where it is and what it is, for all that was written."""
        for number, output in enumerate(self.outputs):
            yield f"output {number}", output.encode()
        for path in self.folder.rglob("*"):
            yield f"the name of {path}", str(path).encode()
            if path.is_file():
                yield str(path), path.read_bytes()


@pytest.fixture
def wardrobe(tmp_path: Path) -> Wardrobe:
    folder = tmp_path / "wardrobe"
    folder.mkdir()
    return Wardrobe(folder)


def _login(url: str, password: str, user: str = "") -> str:
    return url.replace("://", f"://{user}:{quote(password, safe='')}@")


def test_nothing_that_was_ever_written_holds_a_secret(
    kind: ServerKind, stack: ExitStack, tmp_path: Path, wardrobe: Wardrobe
) -> None:
    service = stack.enter_context(
        LocalSentinelService(kind.binary, sentinels=1, password=_SOURCE, sentinel_password=_SENTINEL)
    )
    cluster = stack.enter_context(LocalCluster(kind.binary, primaries=2, password=_TARGET))
    source = service.primary
    with connect(source) as connection:
        fill_strings(connection, 20_000)
    (key_file := tmp_path / "client.key").write_bytes(
        trustme.CA().issue_cert("operator").private_key_pem.bytes()
    )
    (cert_file := tmp_path / "client.pem").write_bytes(trustme.CA().cert_pem.bytes())
    (password_file := tmp_path / "password").write_text(_SOURCE)
    (config := tmp_path / "config.toml").write_text(
        f"[migrate]\nsource = {json.dumps(_login(source.url, _SOURCE))}\n"
        f"target = {json.dumps(_login(cluster.url, _TARGET))}\n"
    )
    urls = _login(source.url, _SOURCE), _login(cluster.url, _TARGET)
    environment = {"SLOTFERRY_TARGET_PASSWORD": _TARGET, "SLOTFERRY_SENTINEL_PASSWORD": _SENTINEL}
    sentinel = _login(service.url, _SOURCE) + f"?sentinel_password={quote(_SENTINEL)}"
    file = ("--source-password-file", str(password_file))
    report = str(wardrobe.folder / "report.json")

    with Running("migrate", *urls, "--max-keys-per-second", "3000", env=wardrobe.env) as running:
        wait_until(lambda: "RUNS" in wardrobe.run("jobs", "list").stdout, "the job to be in the journal")
        job = wardrobe.run("jobs", "list", "--json").lines[0]["job"]
        wardrobe.run("jobs", "show", job, "--json")
        running.kill()
    wardrobe.run("migrate", *urls, "--report", report, code=0)
    wardrobe.run("migrate", "--config", str(config), "--json", code=0)
    wardrobe.run("migrate", service.url, cluster.url, *file, code=0, **environment)
    wardrobe.run("migrate", sentinel, urls[1], "--dry-run", "--json", code=0)
    wardrobe.run("check", *urls, "--json")
    wardrobe.run("verify", *urls, "--json")
    wardrobe.run("jobs", "show", job)
    # And everything that goes wrong.
    for url in (
        _login(source.url, _WRONG),
        _login(source.url, _WRONG, "nobody"),
        sentinel.replace("s3n", _WRONG),
    ):
        wardrobe.run("migrate", url, urls[1], "--json", code=4)
        wardrobe.run("migrate", urls[0], _login(cluster.url, _WRONG), code=4)
    wardrobe.run("migrate", f"redis://:{_SOURCE}@{source.address}", urls[1], code=2)
    wardrobe.run("migrate", f"redis://:{_WRONG}@{source.address}?x={_WRONG}", urls[1], code=2)
    wardrobe.run("migrate", f"redis://127.0.0.1:{free_port()}", urls[1], SLOTFERRY_SOURCE_PASSWORD=_WRONG)
    wardrobe.run("migrate", urls[0], urls[0], code=4)
    tls = ("--source-cert", str(cert_file), "--source-key", str(key_file))
    wardrobe.run("migrate", urls[0].replace("redis:", "rediss:"), urls[1], *tls, code=2)
    wardrobe.run(
        "migrate", urls[0].replace("redis:", "rediss:"), urls[1], "--source-ca", str(key_file), code=2
    )

    secrets = [_SOURCE, _TARGET, _SENTINEL, _WRONG]
    needles = {spelling for secret in secrets for spelling in _spellings(secret)}
    needles |= {line for line in key_file.read_bytes().splitlines() if not line.startswith(b"-")}
    found = {where for where, text in wardrobe.everything() for needle in needles if needle in text}
    assert sum(b"mymaster" in text for _, text in wardrobe.everything()) > 3  # what is searched is all there
    assert found == set()


_ECHO = "ech0ed-by-the-s3rver"
_LOGINS = (
    ("migrate", "source"),
    ("migrate", "target"),
    ("verify", "target"),
    ("check", "source"),
    ("reshard plan", "cluster"),
)
_MORE_LOGINS = (
    ("migrate", "sentinel"),
    ("verify", "source"),
    ("check", "target"),
    ("reshard status", "cluster"),
    ("reshard fix", "cluster"),
)


@pytest.mark.parametrize("name", sorted(available()))
def test_a_server_that_quotes_the_arguments_of_auth(
    name: str, kind: ServerKind, stack: ExitStack, wardrobe: Wardrobe
) -> None:
    """Without AUTH the server says: unknown command 'AUTH', with args beginning with: ...; all of them do."""
    whole = name == kind.name
    renamed = "LOGIN" if whole else '""'
    deaf = LocalServer(available()[name].binary, config={"rename-command": f"AUTH {renamed}"})
    bare = stack.enter_context(deaf).url.removeprefix("redis://")
    login, plain = f"redis://:{_ECHO}@{bare}", f"redis://{bare}"
    for command, side in (*_LOGINS, *(_MORE_LOGINS if whole else ())):
        urls = {
            "source": (login, plain),
            "target": (plain, login),
            "cluster": (login,),
            "sentinel": (f"redis+sentinel://{bare}/mymaster?sentinel_password={_ECHO}", plain),
        }[side]
        done = wardrobe.run(*command.split(), *urls)
        assert done.code == 4, (command, side, done.stderr)
        assert "AUTH" in done.stdout + done.stderr, (command, side, done.stderr)
    found = {where for where, text in wardrobe.everything() if _ECHO.encode() in text}
    assert found == set()


@pytest.mark.parametrize("echo", ["-WRONGPASS {}", "-ERR {}", "-LOADING {}", "-{} {}", "+{}", "-DENIED {}"])
def test_a_server_that_quotes_in_other_ways(echo: str, wardrobe: Wardrobe) -> None:
    """A fake: what no server says today, a proxy or a later one may."""
    with saying_peer(echo.format(_ECHO, _ECHO).encode() + b"\r\n") as port:
        url = f"redis://:{_ECHO}@127.0.0.1:{port}"
        for arguments in (("migrate", url, "redis://127.0.0.1:1"), ("reshard", "plan", url)):
            done = wardrobe.run(*arguments)
            assert done.code in (2, 4, 5, 6), done.stderr
    found = {where for where, text in wardrobe.everything() if _ECHO.encode() in text}
    assert found == set()


def test_a_url_that_is_misplaced_on_the_command_line_is_not_repeated(wardrobe: Wardrobe) -> None:
    url = f"redis://:{_ECHO} with/blanks@host"
    for arguments in (
        ("migrate", url, url, url),
        (url,),
        ("migrate", "redis://a", "redis://b", "--retry-for", url),
        ("migrate", "redis://a", "redis://b", "--on-conflict", url),
        ("jobs", "show", "--kind", url, "a"),
        ("migrate", "redis://a", "redis://b", f"--{url}"),
    ):
        wardrobe.run(*arguments, code=2)
    found = {where for where, text in wardrobe.everything() if _ECHO.encode() in text}
    assert found == set()


def test_no_exception_of_the_api_holds_a_secret(source: LocalServer, cluster: LocalCluster) -> None:
    options = Options(source_password=_WRONG, target_password=lambda: _TARGET)
    migration = Migration(source.url, cluster.url, options)
    with pytest.raises(SlotferryError) as raised:
        migration.run()

    texts = ["".join(traceback.format_exception(raised.value)), repr(raised.value), repr(options)]
    texts += [json.dumps(raised.value.to_dict()), repr(migration.report), repr(migration.options)]
    for text in texts:
        for secret in (_WRONG, _TARGET):
            assert all(spelling.decode() not in text for spelling in _spellings(secret))
