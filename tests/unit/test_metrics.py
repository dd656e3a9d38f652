"""Metrics: what events become, by the parser of the library that Prometheus' own client has."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from slotferry.cli.options.metrics import JobsMetrics, Metrics
from slotferry.errors import JobLockedError, TargetLostError, UsageError
from slotferry.model.counts import Keys, Totals
from slotferry.model.events import (
    CheckpointSaved,
    CutoverStep,
    EngineNews,
    FollowProgress,
    Notice,
    Progress,
    RunEnded,
    RunStarted,
    TopologyChanged,
)
from slotferry.model.report import Report
from slotferry.report.metrics.families import Figures
from slotferry.report.metrics.migration import RETRY_REASONS, MigrationFigures
from slotferry.report.metrics.outputs import MetricsOutput
from slotferry.report.metrics.resharding import JobsFigures, ReshardFigures
from slotferry.reshard import events as reshard
from slotferry.reshard.report import Report as ReshardReport

_DOCS = Path(__file__).parents[2] / "docs"
_SOURCE, _CLUSTER = 'redis://o"ld\\:6379/0', "redis+cluster://new:7000/0"
_ONE = "new:7000"


def progress(state: str = "running", **more: Any) -> Progress:
    return Progress(
        state=state,
        reason="",
        keys=Keys(scanned=100, migrated=80, unchanged=5, pending=4, failed=1),
        expected_keys=200,
        bytes=5000,
        keys_per_second=10.0,
        elapsed_seconds=1.0,
        buffered_bytes=77,
        moved=3,
        ask=2,
        retries=6,
        done_keys=90,
        **more,
    )


def started() -> RunStarted:
    return RunStarted("nightly", 2, True, _SOURCE, _CLUSTER, "old", None, "Redis 7", (_ONE,), 4, 200, False)


def migrated() -> MigrationFigures:
    figures = MigrationFigures()
    follow = FollowProgress(500, 1.5, 9, 33, 1, 2, connected=True, in_doubt=False)
    for event in (
        started(),
        Notice("something"),
        EngineNews("node_lost", "a node is away", _ONE, None),
        TopologyChanged((_ONE, "new:7001"), 7),
        CheckpointSaved(Keys(), 1, 4),
        CutoverStep("lag", "done", "", 1.0),
        progress("paused", keys_by_primary=((_ONE, 80),), engine_cpu_seconds=1.25, paused_by="latency"),
        progress(
            "following",
            keys_by_primary=((_ONE, 81),),
            retries_by_reason=(("full", 4), ("unavailable", 2)),
            engine_cpu_seconds=1.5,
            follow=follow,
        ),
    ):
        figures.handle(event)
    return figures


def samples(figures: Figures) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Return the samples by name, as a parser of the text format reads them."""
    output = MetricsOutput(figures, None, None)
    with closing(output):
        found: dict[str, list[tuple[dict[str, str], float]]] = {}
        for family in text_string_to_metric_families(output.text()):
            for sample in family.samples:
                found.setdefault(sample.name, []).append((dict(sample.labels), sample.value))
        return found


def value(figures: Figures, metric: str, /, **labels: str) -> float:
    (found,) = [number for had, number in samples(figures)[metric] if labels.items() <= had.items()]
    return found


def test_keys_add_up_with_those_in_hand() -> None:
    figures = migrated()
    settled = sum(number for _, number in samples(figures)["slotferry_keys_total"])
    unsettled = value(figures, "slotferry_pending_keys") + value(figures, "slotferry_failed_keys")
    assert (settled, unsettled) == (85, 5)
    assert value(figures, "slotferry_scanned_keys_total", purpose="migrate", side="source") == 100


def test_what_a_run_is_and_how_it_is() -> None:
    figures = migrated()
    info = value(figures, "slotferry_info", name="nightly", run="2", source=_SOURCE, target=_CLUSTER)
    assert info == 1
    assert value(figures, "slotferry_state", state="following") == 1
    assert value(figures, "slotferry_state", state="running") == 0
    assert value(figures, "slotferry_primary_keys_total", primary=_ONE) == 81
    assert value(figures, "slotferry_redirects_total", kind="ask") == 2
    retries = {reason: value(figures, "slotferry_retries_total", reason=reason) for reason in RETRY_REASONS}
    assert retries == {"unavailable": 2, "full": 4, "connection_lost": 0}
    assert value(figures, "slotferry_lag_seconds") == 1.5
    assert value(figures, "slotferry_missing_slots") == 7
    assert value(figures, "slotferry_engine_events_total", kind="node_lost") == 1
    assert value(figures, "slotferry_paused_seconds_total", reason="latency") > 0
    assert value(figures, "slotferry_paused_seconds_total", reason="operator") == 0
    assert "slotferry_succeeded" not in samples(figures)


def test_both_sides_of_a_verification_are_told_apart() -> None:
    figures = migrated()
    figures.handle(progress(purpose="verify"))
    figures.handle(progress(purpose="verify", side="target"))
    for purpose, side in (("migrate", "source"), ("verify", "source"), ("verify", "target")):
        assert value(figures, "slotferry_scanned_keys_total", purpose=purpose, side=side) == 100


def test_the_end_says_how_it_was() -> None:
    figures = migrated()
    figures.handle(RunEnded(Report("nightly", "completed_with_failures", Totals(), 1.0, 1.0, 1, False)))
    assert value(figures, "slotferry_succeeded") == 0
    assert value(figures, "slotferry_exit_code") == 3
    assert value(figures, "slotferry_state", state="finished") == 1


def resharded() -> ReshardFigures:
    figures = ReshardFigures()
    figures.handle(reshard.ReshardStarted("nightly", 1, False, _CLUSTER, "atomic", 10, 1000, 0))
    figures.handle(reshard.ReshardProgress("paused", "", 4, 10, 300, 1000, 99, 1.0, 1.0, 1, "operator"))
    return figures


def test_slots_of_a_reshard_add_up() -> None:
    figures = resharded()
    assert {had["state"]: number for had, number in samples(figures)["slotferry_slots"]} == {
        "moved": 4,
        "left": 1,
        "remaining": 5,
    }
    assert value(figures, "slotferry_keys_total", purpose="reshard", outcome="moved") == 300
    figures.handle(reshard.ReshardEnded(ReshardReport("nightly", "completed", moved=10)))
    assert value(figures, "slotferry_slots", state="moved") == 10
    assert value(figures, "slotferry_succeeded") == 1


def all_names() -> set[str]:
    """Return every metric that there can be, with and without samples."""
    ended = migrated()
    ended.handle(RunEnded(Report("nightly", "completed", Totals(), 1.0, 1.0, 1, False)))
    return {
        f"{family.name}{'_total' if family.kind == 'counter' else ''}"
        for figures in (ended, resharded(), JobsFigures())
        for family in figures.families()
    }


@pytest.mark.parametrize("page", ["metrics.md", "alerts.yml", "grafana-dashboard.json"])
def test_every_metric_that_is_named_exists(page: str) -> None:
    named = set(re.findall(r"\bslotferry_[a-z_]+\b", (_DOCS / page).read_text()))
    assert named
    assert named - all_names() == set()


def test_every_metric_is_explained() -> None:
    page = (_DOCS / "metrics.md").read_text()
    assert sorted(name for name in all_names() if f"`{name}`" not in page) == []


def test_the_dashboard_is_one_that_grafana_imports() -> None:
    dashboard = json.loads((_DOCS / "grafana-dashboard.json").read_text())
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels)
    assert all(target["expr"] for panel in panels for target in panel["targets"])


@pytest.mark.skipif(shutil.which("promtool") is None, reason="there is no promtool")
@pytest.mark.parametrize("figures", [migrated, resharded])
def test_prometheus_finds_nothing_wrong_with_metrics_and_rules(figures: Callable[[], Figures]) -> None:
    with closing(MetricsOutput(figures(), None, None)) as output:
        promtool = ("promtool", "check", "metrics")
        found = subprocess.run(promtool, input=output.text(), capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout + found.stderr) == (0, "")
    rules = str(_DOCS / "alerts.yml")
    checked = subprocess.run(
        ("promtool", "check", "rules", rules), capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr


@pytest.fixture
def served() -> Iterator[tuple[int, MetricsOutput]]:
    port = free_port()
    output = MetricsOutput(migrated(), ("127.0.0.1", port), None)
    with closing(output):
        yield port, output


def free_port() -> int:
    import socket

    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


def test_metrics_are_served_until_the_end(served: tuple[int, MetricsOutput]) -> None:
    port, output = served
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as reply:
        text = reply.read().decode()
    assert 'slotferry_buffered_bytes{job_name="nightly"} 77.0' in text
    assert "process_resident_memory_bytes" in text
    output.close()
    MetricsOutput(migrated(), ("127.0.0.1", port), None).close()  # the port is given back


def test_a_port_in_use_is_told(served: tuple[int, MetricsOutput]) -> None:
    port, _ = served
    with pytest.raises(UsageError, match=rf"can't be served at 127.0.0.1:{port}: the port is in use"):
        MetricsOutput(migrated(), ("127.0.0.1", port), None)


def test_an_address_of_another_machine_is_told() -> None:
    with pytest.raises(UsageError, match=r"can't be served at 192\.0\.2\.1:9464"):
        MetricsOutput(migrated(), ("192.0.2.1", 9464), None)


def test_the_file_is_whole_at_every_time(tmp_path: Path) -> None:
    path = tmp_path / "slotferry.prom"
    output = MetricsOutput(MigrationFigures(), None, path)
    with closing(output):
        output.handle(started())
        first = path.read_text()
        assert 'name="nightly"' in first
        output.handle(progress())
    assert 'slotferry_buffered_bytes{job_name="nightly"} 77.0' in path.read_text()
    assert list(tmp_path.iterdir()) == [path]
    assert output.lost is None


def test_a_file_that_can_not_be_written_any_more_ends_no_run(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / "slotferry.prom"
    output = MetricsOutput(MigrationFigures(), None, path)
    folder.rmdir()
    output.handle(started())
    output.close()
    assert output.lost is not None
    assert "the metrics can't be written" in output.lost.message


def test_counters_never_fall() -> None:
    figures = MigrationFigures()
    figures.handle(progress())
    fallen = replace(progress(), keys=Keys(scanned=100, migrated=70, unchanged=5, pending=14, failed=1))
    figures.handle(fallen)
    assert value(figures, "slotferry_keys_total", outcome="migrated") == 80
    assert value(figures, "slotferry_pending_keys") == 14


def test_every_sample_has_the_name_of_its_job() -> None:
    for figures in (migrated(), resharded()):
        for name, found in samples(figures).items():
            assert {had["job_name"] for had, _ in found} == {"nightly"}, name


def test_a_file_has_no_figures_of_the_process(tmp_path: Path) -> None:
    with closing(MetricsOutput(migrated(), None, tmp_path / "slotferry.prom")):
        pass
    assert "\nprocess_" not in (tmp_path / "slotferry.prom").read_text()


def jobs(path: Path) -> JobsMetrics:
    return JobsMetrics({"metrics": None, "metrics_file": path})


def ended(path: Path) -> dict[str, float]:
    """Return each job's exit code in a file, and the command's as that of no job."""
    return {
        sample.labels.get("job_name", ""): sample.value
        for family in text_string_to_metric_families(path.read_text())
        for sample in family.samples
        if sample.name in ("slotferry_exit_code", "slotferry_command_exit_code")
    }


def test_each_job_of_a_run_has_its_own_end(tmp_path: Path) -> None:
    path = tmp_path / "slotferry.prom"
    with jobs(path) as metrics:
        metrics.begin_job("away")
        metrics.end_job(TargetLostError("no node answers"))
        metrics.begin_job("nightly")
        metrics.handle(reshard.ReshardEnded(ReshardReport("nightly", "balanced")))
        metrics.end(6)
    assert ended(path) == {"away": 6, "nightly": 0, "": 6}


@pytest.mark.parametrize("reshards", [False, True])
def test_a_job_of_another_process_keeps_its_file(tmp_path: Path, reshards: bool) -> None:
    path = tmp_path / "slotferry.prom"
    path.write_text("of the other\n")
    busy = JobLockedError("the job is at work")
    refused = Metrics({"metrics": None, "metrics_file": path}, reshards=reshards)
    with pytest.raises(JobLockedError), refused:
        raise busy
    with Metrics({"metrics": None, "metrics_file": path}) as one:
        one.handle(Notice("something"))
        one.handle(RunEnded(Report("nightly", "failed", Totals(), 1.0, 1.0, 1, False, error=busy)))
    with jobs(path) as several:
        several.begin_job("nightly")
        several.end_job(busy)
        several.end(75)
    assert path.read_text() == "of the other\n"


def test_a_run_that_was_refused_has_an_end(tmp_path: Path) -> None:
    path = tmp_path / "slotferry.prom"
    metrics = Metrics({"metrics": None, "metrics_file": path}, reshards=True)
    with pytest.raises(TargetLostError), metrics:
        raise TargetLostError("no node answers")
    assert ended(path)[""] == 6


@pytest.mark.parametrize("alert", ["SlotferryStandsStill", "SlotferryNoCheckpoint"])
def test_alerts_are_of_one_job_and_look_at_what_is_acknowledged(alert: str) -> None:
    text = (_DOCS / "alerts.yml").read_text()
    (rule,) = [part for part in text.split("- alert: ") if part.startswith(alert)]
    assert "slotferry_primary_keys_total" in rule
    assert "(instance)" not in rule


def test_a_run_that_lost_its_lock_later_on_ended_here(tmp_path: Path) -> None:
    path = tmp_path / "slotferry.prom"
    with jobs(path) as metrics:
        metrics.begin_job("nightly")
        metrics.handle(reshard.ReshardStarted("nightly", 1, False, _CLUSTER, "atomic", 10, 1000, 0))
        metrics.end_job(JobLockedError("another one works on the cluster"))
        metrics.end(75)
    assert ended(path) == {"nightly": 4, "": 75}
