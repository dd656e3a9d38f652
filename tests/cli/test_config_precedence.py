"""Where an option's value comes from: command line, then environment, then config file, then default."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest

from slotferry.cli.migrate import migrate
from slotferry.cli.options.types import duration, partition_count, size
from slotferry.errors import UsageError


def parse(*arguments: str) -> dict[str, Any]:
    """The parameters that the command would run with."""
    return migrate.make_context("migrate", list(arguments)).params


@pytest.fixture
def config(tmp_path: Path) -> str:
    file = tmp_path / "slotferry.toml"
    file.write_text(
        '[migrate]\nsource = "redis://config"\ntarget = "redis://config"\non-conflict = "skip"\n'
        'memory_limit = 9000000\nretry-for = "2m"\njson = true\ntype = "hash"\nsource-insecure = true\n'
    )
    return str(file)


def test_the_config_file_goes_before_the_defaults(config: str) -> None:
    values = parse("--config", config)
    assert (values["source"], values["target"]) == ("redis://config", "redis://config")
    assert (values["on_conflict"], values["memory_limit"], values["retry_for"]) == ("skip", 9_000_000, 120.0)
    assert (values["as_json"], values["type_"], values["source_insecure"]) == (True, ("hash",), True)
    assert values["progress"] == "auto"


def test_the_environment_goes_before_the_config_file(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLOTFERRY_ON_CONFLICT", "replace")
    monkeypatch.setenv("SLOTFERRY_SOURCE", "redis://environment")
    monkeypatch.setenv("SLOTFERRY_TYPE", "list")
    monkeypatch.setenv("SLOTFERRY_JSON", "0")
    monkeypatch.setenv("SLOTFERRY_CONFIG", config)
    values = parse()
    assert (values["source"], values["target"]) == ("redis://environment", "redis://config")
    assert (values["on_conflict"], values["type_"], values["as_json"]) == ("replace", ("list",), False)
    assert values["memory_limit"] == 9_000_000


def test_the_command_line_goes_before_all(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLOTFERRY_ON_CONFLICT", "replace")
    monkeypatch.setenv("SLOTFERRY_SOURCE", "redis://environment")
    values = parse("redis://line", "redis://line", "--on-conflict", "error", "--config", config)
    assert (values["source"], values["target"], values["on_conflict"]) == (
        "redis://line",
        "redis://line",
        "error",
    )


def test_every_option_has_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = {
        "integer range": "5",
        "size": "5MB",
        "duration": "3s",
        "partition_count": "8",
        "byte_count": "4KB",
    }
    samples |= {"big_key_size": "9MB", "key_rate": "9", "byte_rate": "9MB", "milliseconds": "9"}
    samples |= {"host_and_port": "127.0.0.1:9464"}
    samples |= {"databases": "0,2", "slot_ranges": "0-5460", "type_names": "hash"}
    for parameter in migrate.params:
        if not isinstance(parameter, click.Option) or parameter.name in ("config", "help"):
            continue
        name = max(parameter.opts, key=len).lstrip("-").replace("-", "_").upper()
        kind = parameter.type
        value = "1" if parameter.is_flag else kind.choices[0] if isinstance(kind, click.Choice) else "text"
        value = samples.get(getattr(kind, "name", ""), value)
        assert isinstance(value, str)
        with monkeypatch.context() as patch:
            patch.setenv(f"SLOTFERRY_{name}", value)
            context = migrate.make_context("migrate", ["redis://a", "redis://b"])
        assert context.get_parameter_source(str(parameter.name)) is click.core.ParameterSource.ENVIRONMENT, (
            name
        )


def test_an_unknown_key_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    file = tmp_path / "slotferry.toml"
    for key, nearest in (
        ("on-conflct", "on-conflict"),
        ("jsn", "json"),
        ("as-json", "json"),
        ("typ", "type"),
    ):
        file.write_text(f'[migrate]\n{key} = "x"\n')
        with pytest.raises(UsageError, match=f"unknown option '{key}'") as caught:
            parse("--config", str(file), "redis://a", "redis://b")
        assert nearest in caught.value.hint


def test_a_value_of_the_config_file_is_checked_like_any_other(tmp_path: Path) -> None:
    file = tmp_path / "slotferry.toml"
    file.write_text("[migrate]\nparallel-scans = 3\n")
    with pytest.raises(click.BadParameter, match="not a power of two"):
        parse("--config", str(file), "redis://a", "redis://b")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("64MB", 64_000_000),
        ("64MiB", 67_108_864),
        ("64 mib", 67_108_864),
        ("0.5GiB", 536_870_912),
        ("2m", 2_000_000),
        ("1048576", 1_048_576),
        (1_048_576, 1_048_576),
        ("1048576B", 1_048_576),
    ],
)
def test_sizes(text: str | int, number: int) -> None:
    assert size(text) == number


@pytest.mark.parametrize("text", ["", "MB", "-1MB", "1TB", "1 M B", "1e9", "64MBs"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not a size"):
        size(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5m", 300),
        ("90", 90),
        ("2.5", 2.5),
        ("1h30m", 5400),
        ("250ms", 0.25),
        ("1d", 86400),
        (0, 0),
        ("1m 30s", None),
    ],
)
def test_durations(text: str | int, seconds: float | None) -> None:
    if seconds is None:
        with pytest.raises(click.BadParameter, match="is not a duration"):
            duration(text)
    else:
        assert duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(("text", "number"), [("1", 1), ("64", 64), (1024, 1024)])
def test_partition_counts(text: str | int, number: int) -> None:
    assert partition_count(text) == number


@pytest.mark.parametrize("text", ["0", "3", "-4", "2048", "4.0", "four"])
def test_what_is_no_partition_count(text: str) -> None:
    with pytest.raises(click.BadParameter, match="not a power of two"):
        partition_count(text)
