"""`slotferry cutover` as a user runs it: a shop that goes on writing, cut over, abandoned, undone, killed."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from redis import Redis

from slotferry import CutoverOptions, Migration, Options
from slotferry.errors import RefusedError
from slotferry.model.events import CutoverStep
from slotferry.testing.servers import LocalCluster, LocalServer, wait_until
from tests.command import Running, run
from tests.faults.followed import JOB, SOURCES, FollowedJob
from tests.integration.cutting_over import Load, takes_writes
from tests.servers.compare import assert_equal

COUNT, AGE = "min-replicas-to-write", "min-replicas-max-lag"


@dataclass
class Shop(FollowedJob):
    """The job from a source into a cluster, and what is asked of it."""

    source: LocalServer
    cluster: LocalCluster

    def wait_for(self, step: str) -> None:
        """Wait until the cut-over says that it does this."""
        wait_until(lambda: str(self.live().get("reason", "")).startswith(step), f"not {step}", timeout=60)

    def assert_counters(self, counts: dict[str, int]) -> None:
        with self.cluster.client() as target:
            assert {name: int(target.get(name) or 0) for name in counts} == counts


@pytest.fixture
def shop(source: LocalServer, cluster: LocalCluster, tmp_path: Path) -> Iterator[Shop]:
    """Return a shop with some stock; the source's settings are put back afterwards."""
    with source.client() as client:
        before = {name: client.config_get(name)[name] for name in (COUNT, AGE)}
        for number in range(500):
            client.set(f"stock:{number}", number)
        try:
            yield Shop(source.url, cluster.url, tmp_path / "journal.db", source, cluster)
        finally:
            client.client_unpause()
            for name, value in before.items():
                client.config_set(name, value)


@contextlib.contextmanager
def following(shop: Shop, *more: str) -> Iterator[Running]:
    with shop.start(*more) as running:
        shop.wait_following(running)
        yield running


def python(code: str) -> str:
    """Return a command that runs this."""
    return f'{sys.executable} -c "{code}"'


def settings(client: Redis) -> tuple[str | None, str | None]:
    return client.config_get(COUNT)[COUNT], client.config_get(AGE)[AGE]


@pytest.mark.parametrize("source", SOURCES, indirect=True)
def test_a_paused_source_under_load_is_cut_over(shop: Shop) -> None:
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(following(shop))
        load = stack.enter_context(Load(shop.source))
        load.wait_more(5000)
        with Running(*shop.cutover_words("--hold", "600s")) as asked:
            shop.wait_for("writes at the source are")
            acknowledged = dict(load.counts)
            shop.assert_counters(acknowledged)
            assert shop.live()["state"] == "cutting_over"
            assert not takes_writes(shop.source)
            running.send(signal.SIGINT)  # the hold is over
            done = running.finish()
            told = asked.finish()
    assert (done.code, done.summary["status"]) == (0, "cut_over"), done
    cutover = done.summary["cutover"]
    assert {"fence", "write_stop_ms", "checked", "differences", "attempts"} <= cutover.keys()
    assert cutover["checked"] > 0
    assert (cutover["differences"], cutover["attempts"]) == (0, 1)
    assert told.code == 0, told
    assert told.lines[-1] == {"type": "cutover", "job": JOB, **cutover}
    steps = [line["step"] for line in told.lines if line.get("state") == "done"]
    assert steps[:6] == ["lag", "stop", "fence", "clean", "check", "go"]
    assert any(line["type"] == "cutover_step" for line in done.lines)
    shop.assert_counters(acknowledged)
    wait_until(lambda: takes_writes(shop.source), "the source stays paused")


@pytest.mark.parametrize("source", SOURCES, indirect=True)
def test_a_source_that_refuses_writes_is_cut_over_and_undone(shop: Shop) -> None:
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(following(shop))
        load = stack.enter_context(Load(shop.source))
        client = stack.enter_context(shop.source.client())
        before = settings(client)
        load.wait_more(2000)
        told = shop.cut_over("--stop-writes", "refuse", "--hold", "0s")
        assert told.code == 0, told
        assert running.finish().code == 0
        wait_until(lambda: load.refused > 0, "no write is refused")
        load.stop()
        shop.assert_counters(load.counts)
        assert told.lines[-1]["written_afterwards"] == 0
        assert "--undo" in told.lines[-1]["warning"]
        refused = shop.jobs("discard")
        assert refused.code == 4
        assert "--undo" in refused.stderr
        undone = shop.undo()
        assert undone.code == 0, undone
        assert f"{COUNT} of" in undone.stdout
        assert settings(client) == before
        assert takes_writes(shop.source)
        other = shop.undo("--source", "redis://other:1")
        assert (other.code, "the source of the job" in other.stderr) == (2, True), other
        again = shop.undo()
        assert (again.code, again.stdout.strip()) == (0, f"nothing is to be undone for {JOB}")


@pytest.mark.parametrize("source", SOURCES, indirect=True)
def test_what_a_source_does_not_tell_its_replicas_is_copied_before_the_switch(shop: Shop) -> None:
    with following(shop) as running, shop.source.client() as client:
        client.xgroup_create("mail", "mailers", "0", mkstream=True)
        client.xadd("mail", {"text": "hello"})
        client.xreadgroup("mailers", "first", {"mail": ">"})
        client.xreadgroup("mailers", "idle", {"mail": ">"})  # told by Redis up to 7.0
        rehearsed = shop.cut_over("--check", "none", "--run", "false")
        assert rehearsed.lines[-1]["step"] == "run", rehearsed  # all of that is at the target
        client.xreadgroup("mailers", "first", {"mail": "0"})  # delivered once more
        told = shop.cut_over("--check", "full", "--hold", "0s")
        assert told.code == 0, told
        assert told.lines[-1]["differences"] == 0
        done = running.finish()
        assert done.code == 0
        checked = [line["message"] for line in done.lines if line.get("step") == "check"]
        assert "1 copied once more" in checked[-1]
        assert_equal(shop.source, shop.cluster)


def test_writers_that_have_stopped_are_believed_and_checked(shop: Shop) -> None:
    with following(shop) as running:
        with Load(shop.source) as load:
            load.wait_more(1000)
            told = shop.cut_over("--stop-writes", "none")
            assert told.code == 3, told  # they have not
            assert "written since the fence" in told.lines[-1]["reason"]
            load.wait_more(100)
        done = shop.cut_over("--stop-writes", "none", "--check", "full", "--hold", "0s")
        assert done.code == 0, done
        assert done.lines[-1]["attempts"] == 2
        assert done.lines[-1]["checked"] >= 500
        shop.assert_counters(load.counts)
        assert_equal(shop.source, shop.cluster)
        assert running.finish().code == 0


def test_the_command_decides(shop: Shop, tmp_path: Path) -> None:
    facts = tmp_path / "facts"
    with following(shop) as running, Load(shop.source) as load:
        load.wait_more(500)
        fails = shop.cut_over("--run", python("import sys; sys.exit('no such service')"))
        assert fails.code == 3, fails
        assert "no such service" in fails.lines[-1]["reason"]
        assert fails.lines[-1]["step"] == "run"
        assert not running.ended
        load.wait_more(500)
        writes = python(f"import os; open('{facts}', 'w').write(os.environ['SLOTFERRY_FENCE'])")
        done = shop.cut_over("--run", writes, "--hold", "0s")
        assert done.code == 0, done
        assert int(facts.read_text()) == done.lines[-1]["fence"]
        ended = running.finish()
    assert ended.code == 0, ended
    reasons = [each["message"] for each in ended.summary["history"] if each["kind"] == "cutover"]
    assert any("no such service" in reason for reason in reasons)
    shown = shop.jobs("show")
    assert "cut_over" in shown.stdout


def test_a_key_that_somebody_else_has_changed_at_the_target_is_named(shop: Shop) -> None:
    with following(shop) as running, shop.cluster.client() as target:
        target.set("stock:7", "theirs")
        target.set("theirs", 1)
        told = shop.cut_over("--check", "full")
        assert told.code == 3, told
        assert told.lines[-1]["differences"] == 2
        assert "stock:7" in told.lines[-1]["reason"]
        assert "theirs" in told.lines[-1]["reason"]
        assert takes_writes(shop.source)
        changed = [f"stock:{number}" for number in range(100)]
        for name in changed:
            target.set(name, "theirs")
        sampled = shop.cut_over("--check", "sample")  # 2,000 looks at 500 keys don't miss all of these
        assert sampled.code == 3, sampled
        assert sampled.lines[-1]["differences"] > 0
        assert "stock:" in sampled.lines[-1]["reason"]
        with shop.source.client() as client:
            for name in changed:
                client.set(name, "ours")  # touched, so it is copied again
            target.delete("theirs")
        done = shop.cut_over("--check", "full", "--hold", "0s")
        assert done.code == 0, done
        assert running.finish().code == 0


def test_ctrl_c_abandons_it(shop: Shop, tmp_path: Path) -> None:
    here = tmp_path / "here"
    waits = python(f"import threading; open('{here}', 'w'); threading.Event().wait()")
    with following(shop) as running, Load(shop.source) as load:
        load.wait_more(500)
        with Running(*shop.cutover_words("--run", waits)) as asked:
            wait_until(here.exists, "the command does not begin")
            second = shop.cut_over()
            assert second.code == 4, second
            assert "under way" in second.stderr
            asked.send(signal.SIGINT)
            told = asked.finish()
        assert told.code == 3, told
        assert told.lines[-1]["outcome"] == "abandoned"
        assert "asked" in told.lines[-1]["reason"] or "request" in told.lines[-1]["reason"]
        load.wait_more(500)
        assert not running.ended
        wait_until(lambda: shop.live()["state"] == "following", "it does not go on following")
        running.send(signal.SIGINT)
        assert running.finish().code == 130


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_end_of_the_run_abandons_it(shop: Shop, tmp_path: Path, number: signal.Signals) -> None:
    here = tmp_path / "here"
    waits = python(f"import threading; open('{here}', 'w'); threading.Event().wait()")
    with following(shop) as running, Load(shop.source) as load:
        load.wait_more(500)
        with Running(*shop.cutover_words("--run", waits, "--stop-writes", "refuse")) as asked:
            wait_until(here.exists, "the command does not begin")
            running.send(number)
            ended, told = running.finish(), asked.finish()
        assert ended.code == 128 + number
        assert ended.summary["status"] == "interrupted"
        assert ended.summary["cutover"]["outcome"] == "abandoned"
        assert told.code == 3, told
        load.wait_more(500)


def test_a_job_that_begins_anew_as_a_copy_lets_its_source_take_writes(shop: Shop) -> None:
    with following(shop) as running:
        assert shop.cut_over("--stop-writes", "refuse", "--hold", "0s").code == 0
        assert running.finish().code == 0
    assert not takes_writes(shop.source)
    urls = (shop.source.url, shop.cluster.url)
    words = ("migrate", *urls, "--journal", str(shop.journal), "--job", JOB, "--restart")
    done = run(*words, "--on-conflict", "replace", "--skip-check", "existing-keys", "--json")
    assert done.code == 0, done.stderr
    assert takes_writes(shop.source)


@pytest.mark.parametrize("stop_writes", ["pause", "refuse"])
def test_a_run_that_is_killed_leaves_no_source_stopped(shop: Shop, tmp_path: Path, stop_writes: str) -> None:
    here = tmp_path / "here"
    waits = python(f"import threading; open('{here}', 'w'); threading.Event().wait(20)")
    with shop.source.client() as client:
        before = settings(client)
        words = shop.cutover_words("--run", waits, "--stop-writes", stop_writes)
        with following(shop) as running, Running(*words) as asked:
            wait_until(here.exists, "the command does not begin")
            running.kill()
            told = asked.finish()
        assert told.code == 3, told
        assert "was killed in the step run" in told.lines[-1]["reason"]
        if stop_writes == "pause":
            wait_until(lambda: takes_writes(shop.source), "the source stays paused")
        # Whether the command has switched the application, nobody knows: the next run asks.
        refused = shop.start().finish()
        assert refused.code == 4, refused
        assert "--undo" in refused.summary["error"]["hint"]
        assert takes_writes(shop.source)
        assert settings(client) == before
        assert shop.undo().code == 0
        with following(shop) as running:
            assert shop.cut_over("--hold", "0s").code == 0
            assert running.finish().code == 0
        assert_equal(shop.source, shop.cluster)


def test_a_run_that_is_killed_while_it_compares_is_gone_on_with(shop: Shop) -> None:
    with shop.source.client() as client:
        before = settings(client)
        with following(shop, "--max-keys-per-second", "50") as running:
            client.set("late", 1)
            with Running(*shop.cutover_words("--stop-writes", "refuse", "--check", "full")) as asked:
                shop.wait_for("comparing")
                assert not takes_writes(shop.source)
                running.kill()
                told = asked.finish()
        assert "was killed in the step check" in told.lines[-1]["reason"], told
        with following(shop) as running:
            assert settings(client) == before
            assert takes_writes(shop.source)
            lines = shop.show()
            notices = [line["message"] for line in lines if line["type"] == "history"]
            assert any("killed in the step check" in notice for notice in notices)
            assert shop.cut_over("--hold", "0s").code == 0
            assert running.finish().code == 0


def test_what_can_not_be_cut_over_is_told_in_a_sentence(shop: Shop) -> None:
    unknown = shop.cut_over()
    assert unknown.code == 2
    assert "there is no job" in unknown.stderr
    with shop.start("--max-keys-per-second", "10") as running:
        wait_until(lambda: shop.live().get("keys", {}).get("scanned", 0) > 0, "it does not begin")
        copies = shop.cut_over()
        assert (copies.code, "copies still" in copies.stderr) == (4, True), copies
        assert shop.jobs("rate", "--max-keys-per-second", "none").code == 0
        shop.wait_following(running)
        assert shop.cut_over("--check", "half").code == 2
        assert shop.jobs("pause").code == 0
        paused = shop.cut_over()
        assert (paused.code, "is paused" in paused.stderr) == (4, True), paused
        assert shop.jobs("resume").code == 0
        running.send(signal.SIGINT)
        assert running.finish().code == 130
    stopped = shop.cut_over()
    assert (stopped.code, "is not running" in stopped.stderr) == (4, True), stopped
    with following(shop) as running:
        assert shop.cut_over("--hold", "0s").code == 0
        assert running.finish().code == 0
    done = shop.cut_over()
    assert (done.code, "is cut over already" in done.stderr) == (4, True), done
    again = shop.start().finish()
    assert (again.code, again.summary["error"]["kind"]) == (4, "refused")
    assert "cut over already" in again.summary["error"]["message"]


def test_a_job_that_only_copies_is_not_cut_over(shop: Shop) -> None:
    words = ("migrate", shop.source.url, shop.cluster.url, "--job", JOB, "--journal", str(shop.journal))
    with Running(*words, "--max-keys-per-second", "10") as running:
        wait_until(lambda: bool(shop.live()) or running.ended, "it does not begin")
        told = shop.cut_over()
        assert told.code == 4
        assert "does not follow its source" in told.stderr


def test_a_lag_that_stays_is_told_from_a_failure(shop: Shop) -> None:
    with following(shop) as running, shop.source.client() as client:
        assert shop.jobs("rate", "--max-keys-per-second", "1").code == 0
        for number in range(100):
            client.set(f"slow:{number}", 1)
        wait_until(lambda: shop.live()["follow"]["lag_seconds"] > 1, "there is no lag")
        words = ("cutover", JOB, "--journal", str(shop.journal), "--json", "--within", "200ms")
        told = run(*words, "--max-lag", "0.1s")
        assert told.code == 3, told
        assert told.lines[-1]["outcome"] == "not_ready"
        assert told.lines[-1]["write_stop_ms"] is None
        assert "still waiting for the lag" in told.lines[-1]["reason"]
        assert not running.ended


def test_a_command_that_switches_slots_nothing_after_go(shop: Shop) -> None:
    """What the application writes to the target after *go* stays, whatever the source says."""
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(following(shop))
        target = stack.enter_context(shop.cluster.client())
        client = stack.enter_context(shop.source.client())
        client.set("basket", "old")
        with Running(*shop.cutover_words("--stop-writes", "none", "--hold", "600s")) as asked:
            shop.wait_for("writes at the source are")
            target.set("basket", "new")
            client.set("basket", "late")
            wait_until(lambda: "lost" in shop.live().get("reason", ""), "the write is not seen")
            running.send(signal.SIGINT)
            assert running.finish().code == 0
            told = asked.finish()
        assert told.lines[-1]["written_afterwards"] == 1
        assert target.get("basket") == b"new"


def test_lines_for_people(shop: Shop) -> None:
    with following(shop) as running:
        asked = shop.cutover_words("--hold", "2s", "--run", "true 'for all'")
        words = [word for word in asked if word != "--json"]
        told = run(*words)
        assert told.code == 0, told
        assert "job moving: cut over: writes were stopped for" in told.stdout
        assert " s  fence  ok  the fence is " in told.stderr
        assert " s  run    ..  running true 'for all'\n" in told.stderr
        assert told.stderr.splitlines()[-1].endswith("no key was written at the source after the fence")
        assert running.finish().code == 0


def test_it_cuts_over_by_itself_when_it_is_ready(shop: Shop, tmp_path: Path) -> None:
    switched = tmp_path / "switched"
    switches = python(f"open('{switched}', 'x')")
    words = ("--cutover-when-ready", "--window", "00:00-24:00", "--stop-writes", "refuse", "--hold", "0s")
    with shop.start(*words, "--within", "60s", "--run", switches) as running, Load(shop.source) as load:
        done = running.finish()
        assert (done.code, done.summary["status"]) == (0, "cut_over"), done
        steps = [(line["step"], line["state"]) for line in done.lines if line["type"] == "cutover_step"]
        assert steps[-2:] == [("go", "done"), ("hold", "done")]
        assert switched.exists()
        wait_until(lambda: load.refused > 0, "no write is refused")
        load.stop()
        shop.assert_counters(load.counts)
    (listed,) = shop.jobs("list", "--json").lines
    assert listed["status"] == "cut_over"
    assert listed["cutover"]["fence"] == done.summary["cutover"]["fence"]


def test_what_fails_by_itself_is_tried_again(shop: Shop, tmp_path: Path) -> None:
    tried = tmp_path / "tried"
    fails_once = python(
        f"import os, sys; there = os.path.exists('{tried}'); open('{tried}', 'w'); sys.exit(not there)"
    )
    words = ("--cutover-when-ready", "--hold", "0s", "--within", "60s", "--run", fails_once)
    with shop.start(*words) as running:
        done = running.finish()
    assert done.code == 0, done
    assert done.summary["cutover"]["attempts"] == 2
    assert any("trying again" in line["message"] for line in done.lines if line["type"] == "notice")
    cutovers = [line for line in shop.show() if line["type"] == "cutover"]
    assert [cutover["outcome"] for cutover in cutovers] == ["abandoned", "cut_over"]
    assert "exited with 1" in cutovers[0]["reason"]


def test_jobs_list_and_show_tell_why_it_was_not_done(shop: Shop) -> None:
    with following(shop) as running:
        assert shop.cut_over("--run", "/no/such/command").code == 3
        listed = shop.jobs("list").stdout
        assert "not cut over: the command /no/such/command can't be started" in listed
        shown = shop.jobs("show").stdout
        assert "abandoned in the step run, attempt 1, writes were stopped for" in shown
        running.send(signal.SIGINT)
        running.finish()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--follow", "--run", "true"), "--run is given without --cutover-when-ready"),
        (("--cutover-when-ready",), "--follow"),
        (("--follow", "--window", "01:00-02:00"), "--window"),
        (("--follow", "--cutover-when-ready", "--window", "1-2"), "the window '1-2'"),
        (("--follow", "--cutover-when-ready", "--run", "'"), "--run"),
        (("--follow", "--cutover-when-ready", "--within", "0s"), "--within"),
    ],
)
def test_options_that_make_no_sense_for_a_run(words: tuple[str, ...], named: str) -> None:
    told = run("migrate", "redis://127.0.0.1:1", "redis://127.0.0.1:2", *words)
    assert told.code == 2, told
    assert named in told.stderr
    assert told.stderr.count("\n") == 2


def test_python_cuts_over_too(shop: Shop) -> None:
    options = Options(follow=True, journal=shop.journal, job=JOB)
    steps: list[CutoverStep] = []
    with Migration(shop.source.url, shop.cluster.url, options) as migration:
        with pytest.raises(RefusedError, match="or not yet"):
            migration.cutover()
        migration.start()
        wait_until(lambda: (lag := migration.lag) is not None and lag.connected, "it is not attached")
        wait_until(lambda: shop.live().get("state") == "following", "it does not follow")
        events = migration.events()
        failed = migration.cutover(CutoverOptions(within=60, run="/no/such/command"))
        assert (failed.outcome, failed.exit_code) == ("abandoned", 3)
        done = migration.cutover(CutoverOptions(within=60, hold=0, check="full"))
        assert done.is_done
        assert done.checked >= 500  # SCAN may bring a key more than once
        steps = [event for event in events if isinstance(event, CutoverStep)]
        report = migration.result()
    assert (report.status, report.ok, report.exit_code) == ("cut_over", True, 0)
    assert report.cutover == done
    assert [step.step for step in steps if step.state == "failed"] == ["run"]
