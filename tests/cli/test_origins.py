"""What is wrong is blamed on where it stands: the command line, a variable, or the config file."""

from __future__ import annotations

from pathlib import Path

import pytest

from slotferry import VerifyOptions
from slotferry.errors import UsageError
from tests.cli.conftest import Invoke

URLS = ("redis://127.0.0.1:1", "redis+cluster://127.0.0.1:1")


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("SLOTFERRY_PARALLEL_SCANS", "3", "SLOTFERRY_PARALLEL_SCANS: '3' is not a power of two"),
        ("SLOTFERRY_ON_CONFLICT", "overwrite", "SLOTFERRY_ON_CONFLICT: 'overwrite' is not one of"),
        ("SLOTFERRY_TYPE", "a b", "SLOTFERRY_TYPE: no server has a type 'a b'"),
        ("SLOTFERRY_WAIT_TIMEOUT", "1d", "SLOTFERRY_WAIT_TIMEOUT is 86400000"),
        ("SLOTFERRY_JSON", "perhaps", "SLOTFERRY_JSON: 'perhaps' is not a valid boolean"),
    ],
)
def test_a_wrong_value_of_the_environment(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str
) -> None:
    monkeypatch.setenv(name, value)
    result = invoke("migrate", *URLS)
    assert result.code == 2
    assert says in result.err
    assert "--" not in result.err.splitlines()[0]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (
            "parallel-scans = 3",
            "'parallel-scans' in [migrate] of the config file {}: 3 is not a power of two",
        ),
        ("memory_limit = '1kB'", "'memory-limit' in [migrate] of the config file {}: '1kB' is too small"),
        ("type = 'a b'", "'type' in [migrate] of the config file {}: no server has a type 'a b'"),
        ("slots = '9-3'", "'slots' in [migrate] of the config file {}: 9-3 is no range of slots"),
    ],
)
def test_a_wrong_value_of_the_config_file(invoke: Invoke, tmp_path: Path, line: str, says: str) -> None:
    (path := tmp_path / "config.toml").write_text(f"[migrate]\n{line}\n")
    result = invoke("migrate", *URLS, "--config", str(path))
    assert result.code == 2
    assert says.format(path) in result.err
    assert "--" not in result.err.splitlines()[0]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ("verify", *URLS, "--delete-extra"),
            "--delete-extra is given without --repair\n  hint: add --rep",
        ),
        (("verify", *URLS, "--dry-run"), "a verification without --repair has no dry run"),
        (
            ("migrate", *URLS, "--without-ttl", "--min-ttl", "5s"),
            "--without-ttl and --min-ttl are both given",
        ),
        (
            ("migrate", *URLS, "--min-size", "5", "--max-size", "4"),
            "exchange --min-size and --max-size",
        ),
        (
            ("migrate", *URLS, "--min-ttl", "5s", "--keys-from", "x"),
            "--keys-from is given together with",
        ),
        (("migrate", *URLS, "--keys-from", "x", "--verify"), "--keys-from is given together with --verify"),
        (("migrate", *URLS, "--type", "a b"), "--type: no server has a type 'a b'"),
        (("check", *URLS, "--scan-rate", "-1"), "--scan-rate"),
        (("check", *URLS, "--sample", "x"), "--sample is 'x'"),
    ],
)
def test_options_of_the_command_line(invoke: Invoke, arguments: tuple[str, ...], says: str) -> None:
    result = invoke(*arguments)
    assert result.code == 2
    assert says in result.err


def test_python_calls_them_by_its_own_names() -> None:
    with pytest.raises(UsageError) as caught:
        VerifyOptions(delete_extra=True)
    assert caught.value.message == str(caught.value) == "delete_extra is given without repair"
    assert caught.value.hint == "add repair, or leave it out"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("SLOTFERRY_ON_CONFLCT", "did you mean SLOTFERRY_ON_CONFLICT?"),
        ("SLOTFERRY_CLUSTER_PASWORD", "did you mean SLOTFERRY_CLUSTER_PASSWORD?"),
        ("SLOTFERRY_QQQQQQQQQ", "see 'slotferry jobs list --help'"),
    ],
)
def test_a_variable_that_no_command_knows(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, name: str, hint: str
) -> None:
    monkeypatch.setenv(name, "skip")
    result = invoke("jobs", "list", "--json")
    assert (result.code, result.out) == (0, "")
    assert result.err == (
        f"slotferry: the environment variable {name} is not known and does nothing\n  hint: {hint}\n"
    )


@pytest.mark.parametrize(
    "name",
    [
        "SLOTFERRY_ON_CONFLICT",
        "SLOTFERRY_TARGET_PASSWORD",
        "SLOTFERRY_DEMO_KEEP",
        "SLOTFERRY_SERVICE_HOST",
        "SLOTFERRY_METRICS_PORT_6379_TCP_ADDR",
        "SLOTFERRY_PORT",
    ],
)
def test_variables_of_other_commands_and_of_kubernetes(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "0")
    assert invoke("slot", "foo").err == ""
