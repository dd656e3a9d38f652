"""The TOML file of `slotferry reshard run`: jobs by name, with the settings of `plan` and `apply`.

Invariant: what is no setting is refused, never ignored; a file that is accepted holds only values that make
sense, of every job.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slotferry.cli.options.passwords import find_password
from slotferry.cli.options.types import byte_rate, duration, milliseconds
from slotferry.cli.reshard.options import percent
from slotferry.errors import OptionError, UsageError
from slotferry.toml_file import read_jobs

if TYPE_CHECKING:
    from slotferry.net.connector import Connector
    from slotferry.reshard.limits import Limits
    from slotferry.reshard.options import Options
    from slotferry.reshard.plan.model import Policy


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise click.BadParameter(f"{value!r} is not a text")
    return value


def _texts(value: object) -> tuple[str, ...]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(item, str) for item in values):
        raise click.BadParameter(f"{value!r} is not a list of texts")
    return tuple(values)


def _count(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise click.BadParameter(f"{value!r} is not a whole number")
    return value


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise click.BadParameter(f"{value!r} is neither true nor false")
    return value


def _weights(value: object) -> dict[str, float]:
    if not isinstance(value, dict) or not all(
        isinstance(weight, (int, float)) and not isinstance(weight, bool) for weight in value.values()
    ):
        raise click.BadParameter(f"{value!r} is not a table of numbers by node")
    return {str(node): float(weight) for node, weight in value.items()}


def _path(value: object) -> Path:
    return Path(_text(value))


_SETTINGS: dict[str, Callable[[Any], Any]] = {
    "cluster": _text,
    "cluster-password-file": _path,
    "cluster-password-command": _text,
    "cluster-ca": _path,
    "cluster-cert": _path,
    "cluster-key": _path,
    "cluster-sni": _text,
    "cluster-insecure": _flag,
    "address-map": _texts,
    "by": _text,
    "weight": _weights,
    "add": _texts,
    "drain": _texts,
    "max-moves": _count,
    "threshold": percent,
    "samples": _count,
    "window": _texts,
    "tz": _text,
    "max-duration": duration,
    "pause-above-latency": milliseconds,
    "max-bytes-per-second": byte_rate,
    "pause-file": _path,
    "max-key-size": byte_rate,
    "method": _text,
    "retry-for": duration,
}


@dataclass(frozen=True)
class JobSettings:
    """The settings of one job, read and checked."""

    policy: Policy
    limits: Limits
    login: Mapping[str, Any]
    cluster: str
    address_map: tuple[str, ...]
    method: Any
    retry_for: float

    def connector(self) -> Connector:
        """Return what opens the cluster's nodes. Raises `UsageError`."""
        from slotferry.api.resharding import connect
        from slotferry.net.endpoints import Tls

        ca, cert, key, name = (self.login.get(f"cluster-{part}") for part in ("ca", "cert", "key", "sni"))
        tls = Tls(ca, cert, key, name, self.login.get("cluster-insecure", False))
        ways = {"password_file": "cluster-password-file", "password_command": "cluster-password-command"}
        given = {way: self.login[name] for way, name in ways.items() if name in self.login}
        password = find_password("cluster", self.cluster, config=given)
        return connect(self.cluster, password=password, tls=tls, address_map=self.address_map)

    def options(self, name: str, journal: Path | None) -> Options:
        """Return the options of a run of this job."""
        from slotferry.reshard.options import Options

        return Options(job=name, journal=journal, method=self.method, retry_for=self.retry_for, replan=True)


def load_jobs(path: Path) -> dict[str, JobSettings]:
    """Return the jobs of the file at `path` by name. Raises `UsageError`."""
    defaults, jobs = read_jobs(path)
    shared = _read(path, "[defaults]", defaults)
    return {
        name: _job(path, name, {**shared, **_read(path, f"[jobs.{name}]", job)}) for name, job in jobs.items()
    }


def _read(path: Path, where: str, table: Mapping[str, Any]) -> dict[str, Any]:
    settings = {}
    for key, value in table.items():
        name = key.replace("_", "-")
        if name not in _SETTINGS:
            near = difflib.get_close_matches(name, _SETTINGS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(_SETTINGS)}"
            raise UsageError(f"the config file {path} has the unknown setting {key!r} in {where}", hint=hint)
        try:
            settings[name] = _SETTINGS[name](value)
        except click.BadParameter as error:
            raise UsageError(
                f"the config file {path} has a {key!r} in {where} that makes no sense: {error.message}",
                hint="see 'slotferry reshard apply --help'",
            ) from None
    return settings


def _job(path: Path, name: str, settings: Mapping[str, Any]) -> JobSettings:
    from slotferry.jobs.names import check_job_name
    from slotferry.net.address_map import AddressMap
    from slotferry.reshard.limits import DEFAULT_MAX_KEY, Limits
    from slotferry.reshard.plan.model import DEFAULT_SAMPLES, DEFAULT_THRESHOLD, Policy

    if "cluster" not in settings:
        raise UsageError(
            f"the job {name} in {path} names no cluster", hint='give it cluster = "redis+cluster://…"'
        )
    latency = settings.get("pause-above-latency")
    try:
        check_job_name(name)
        AddressMap.parse(settings.get("address-map", ()))
        return JobSettings(
            policy=Policy(
                by=settings.get("by", "slots"),
                weights=settings.get("weight", {}),
                add=settings.get("add", ()),
                drain=settings.get("drain", ()),
                max_moves=settings.get("max-moves"),
                threshold=settings.get("threshold", DEFAULT_THRESHOLD),
                samples=settings.get("samples", DEFAULT_SAMPLES),
            ),
            limits=Limits(
                windows=settings.get("window", ()),
                tz=settings.get("tz"),
                max_duration=settings.get("max-duration"),
                pause_above_latency=None if latency is None else latency / 1000,
                max_bytes_per_second=settings.get("max-bytes-per-second"),
                pause_file=settings.get("pause-file"),
                max_key_bytes=settings.get("max-key-size", DEFAULT_MAX_KEY),
            ),
            login={key: value for key, value in settings.items() if key.startswith("cluster-")},
            cluster=settings["cluster"],
            address_map=settings.get("address-map", ()),
            method=settings.get("method", "auto"),
            retry_for=settings.get("retry-for", 300.0),
        )
    except UsageError as error:
        if isinstance(error, OptionError):
            error = error.named(lambda option: option.replace("_", "-"))
        raise UsageError(f"the job {name} in {path}: {error.message}", hint=error.hint) from None
