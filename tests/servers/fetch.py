"""Server binaries that neither pip nor this machine's own suite has: `python -m tests.servers.fetch`.

Debian's packages of other suites are unpacked (`dpkg -x`) into the user's cache and started through the
unpacked libc's own loader, so that a server runs whatever libraries the machine has. apt does the fetching
and the checking of signatures, with a copy of the machine's own Debian source that names the other suite,
and with lists and caches of its own.

Invariants: nothing outside the cache folder changes and no root is needed; a server stands in the cache whole
or not at all; what can't be had is said and left out, never an error.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_APT_SECONDS = 300
_OWN_SOURCES = (Path("/etc/apt/sources.list"), Path("/etc/apt/sources.list.d"))
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

_ONE_LINE = re.compile(r"^deb[ \t]+(?:\[([^\]]*)\][ \t]+)?(\S+)[ \t]+(\S+)", re.M)

_LIBRARY_SUITE = "trixie"
_LIBRARIES = (
    *("libatomic1", "libc6", "libcap2", "libgcc-s1", "libgcrypt20", "libgpg-error0", "libjemalloc2"),
    *("liblz4-1", "liblzf1", "liblzma5", "libssl3t64", "libstdc++6", "libsystemd0", "libzstd1", "zlib1g"),
)


class NotToBeHadError(Exception):
    """Why a server can't be fetched on this machine."""


@dataclass(frozen=True)
class Recipe:
    """A server: which packages of which suite hold it, and which suite its libraries come from."""

    name: str
    suite: str
    packages: tuple[str, ...]
    program: str
    libraries: str = _LIBRARY_SUITE


RECIPES = (
    Recipe("redis-7.0", "bookworm", ("redis-server", "redis-tools"), "redis-server"),
    Recipe("redis-8.0", "trixie", ("redis-server", "redis-tools"), "redis-server"),
    Recipe("redis-8.6", "experimental", ("redis-server", "redis-tools"), "redis-server", libraries="sid"),
    Recipe("valkey-8.0", "bookworm-backports", ("valkey-server", "valkey-tools"), "valkey-server"),
    Recipe("valkey-8.1", "trixie", ("valkey-server", "valkey-tools"), "valkey-server"),
)


def folder() -> Path:
    """Return where fetched servers stand: `SLOTFERRY_TEST_SERVERS`, or a folder of the user's cache."""
    named = os.environ.get("SLOTFERRY_TEST_SERVERS")
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(named) if named else Path(cache) / "slotferry" / "test-servers"


def fetched() -> list[Path]:
    """Return the programs that were fetched before."""
    programs = (folder() / recipe.name / recipe.program for recipe in RECIPES)
    return [program for program in programs if program.exists()]


def fetch(recipe: Recipe) -> Path:
    """Return the server's program, fetched now if it was not before. Raises `NotToBeHadError`."""
    program = folder() / recipe.name / recipe.program
    if not program.exists():
        _fetch_into(recipe, program)
    return program


def _fetch_into(recipe: Recipe, program: Path) -> None:
    missing = [tool for tool in ("apt-get", "dpkg") if shutil.which(tool) is None]
    if missing:
        raise NotToBeHadError(f"this machine has no {' and no '.join(missing)}")
    home = program.parent
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent, prefix=".fetching-") as scratch:
        root = Path(scratch) / home.name
        wanted = {recipe.libraries: [*_LIBRARIES]}
        wanted.setdefault(recipe.suite, []).extend(recipe.packages)
        for suite, packages in wanted.items():
            _unpack(Path(scratch) / suite, suite, packages, root / "root")
        # Run from where it will stand in the end: the loader takes absolute paths.
        script = _launcher(root / "root", home / "root", recipe.program)
        (root / recipe.program).write_text(script)
        (root / recipe.program).chmod(0o755)
        if home.exists():
            shutil.rmtree(home)
        root.rename(home)
    done = _run([str(program), "--version"])
    if done.returncode:
        shutil.rmtree(home)
        raise NotToBeHadError(f"it does not run here: {_last_line(done)}")


def _launcher(unpacked: Path, home: Path, program: str) -> str:
    loaders = sorted(path.relative_to(unpacked) for path in unpacked.glob("usr/lib/*/ld-linux*.so.*"))
    if not loaders:
        raise NotToBeHadError("libc6 holds no loader for this machine")
    libraries = ":".join(
        str(home / path.relative_to(unpacked)) for path in sorted(unpacked.glob("usr/lib/*-linux-*"))
    )
    command = [home / loaders[0], "--library-path", libraries, home / "usr/bin" / program]
    return f'#!/bin/sh\nexec {shlex.join(map(str, command))} "$@"\n'


def _unpack(scratch: Path, suite: str, packages: Sequence[str], root: Path) -> None:
    options = _apt_options(scratch, suite)
    _need(["apt-get", *options, "update"], f"apt-get update for {suite}")
    downloads = scratch / "downloads"
    downloads.mkdir()
    root.mkdir(parents=True, exist_ok=True)
    _need(["apt-get", *options, "download", *packages], f"apt-get download from {suite}", downloads)
    for package in sorted(downloads.glob("*.deb")):
        _need(["dpkg", "-x", str(package), str(root)], f"dpkg -x {package.name}")


def _apt_options(scratch: Path, suite: str) -> list[str]:
    """Make apt's folders below `scratch` and return the options that keep it to them and to `suite`."""
    for name in ("lists/partial", "cache/archives/partial"):
        (scratch / name).mkdir(parents=True)
    (scratch / "status").touch()
    sources = scratch / "suite.sources"
    uri, signed_by = _own_archive()
    sources.write_text(
        f"Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: main\nSigned-By: {signed_by}\n"
    )
    settings = {
        "Dir::Etc::sourcelist": sources,
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State::Lists": scratch / "lists",
        "Dir::State::status": scratch / "status",
        "Dir::Cache": scratch / "cache",
        "APT::Sandbox::User": "",
        "APT::Update::Error-Mode": "any",
        "Acquire::Retries": 3,
    }
    return ["-qq", *(part for name, value in settings.items() for part in ("-o", f"{name}={value}"))]


def _own_archive() -> tuple[str, str]:
    """Return the URI and keyring of this machine's Debian source. Raises `NotToBeHadError`."""
    release = Path("/etc/os-release")
    values = dict(re.findall(r'^(\w+)="?([^"\n]*)', release.read_text() if release.exists() else "", re.M))
    codename = values.get("VERSION_CODENAME")
    if values.get("ID") != "debian" or not codename:
        raise NotToBeHadError("this machine is not a Debian release, whose sources could be copied")
    for uri, suites, signed_by in _own_sources():
        if codename in suites:
            return uri, signed_by or str(_KEYRING)
    raise NotToBeHadError(f"apt has no source for {codename} on this machine")


def _own_sources() -> list[tuple[str, list[str], str | None]]:
    """Return URI, suites and keyring of every source of this machine, in either of apt's formats."""
    found: list[tuple[str, list[str], str | None]] = []
    single, parts = _OWN_SOURCES
    files = [single, *(sorted(parts.iterdir()) if parts.is_dir() else [])]
    for file in files:
        text = file.read_text(errors="replace") if file.is_file() else ""
        for stanza in re.split(r"\n\s*\n", text):
            fields = dict(re.findall(r"^([\w-]+):[ \t]*(.*)$", stanza, re.M))
            if "URIs" in fields and "Suites" in fields:
                found.append(
                    (fields["URIs"].split()[0], fields["Suites"].split(), fields.get("Signed-By") or None)
                )
        for options, uri, suite in re.findall(
            r"^deb[ \t]+(?:\[([^\]]*)\][ \t]+)?(\S+)[ \t]+(\S+)", text, re.M
        ):
            signed_by = re.search(r"signed-by=(\S+)", options)
            found.append((uri, [suite], signed_by[1] if signed_by else None))
    return found


def _need(command: list[str], what: str, cwd: Path | None = None) -> None:
    done = _run(command, cwd)
    if done.returncode:
        raise NotToBeHadError(f"{what} fails: {_last_line(done)}")


def _run(command: list[str], cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=_APT_SECONDS)
    except subprocess.TimeoutExpired:
        raise NotToBeHadError(f"{command[0]} takes more than {_APT_SECONDS} s") from None


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = (done.stderr or done.stdout).strip().splitlines()
    return lines[-1] if lines else f"exit code {done.returncode}"


def _is_installed(recipe: Recipe) -> bool:
    """Whether the PATH's program is of the recipe's version."""
    program = shutil.which(recipe.program)
    version = recipe.name.rpartition("-")[2]
    return program is not None and f"server v={version}." in _run([program, "--version"]).stdout


def main() -> int:
    """Fetch what is missing; say what the tests will have and what they will go without."""
    for recipe in RECIPES:
        if _is_installed(recipe):
            print(f"{recipe.name}: installed")
            continue
        try:
            print(f"{recipe.name}: {fetch(recipe)}")
        except NotToBeHadError as error:
            print(f"{recipe.name}: left out: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
