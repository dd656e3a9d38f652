"""Report pages as the commands write them, opened in a real browser where there is one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from slotferry.testing.servers import LocalCluster, LocalServer
from tests.cli.conftest import Invoke
from tests.cli.unbalancing import unbalancing_weight
from tests.command import run
from tests.integration.migrating import count_keys
from tests.servers.dataset import fill_strings
from tests.servers.raw import connect

_KEYS = 2_000
_SCRIPT = b"<script>document.title='taken'</script>"
_BROWSER = next(
    (p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None
)

needs_browser = pytest.mark.skipif(_BROWSER is None, reason="there is no Chromium on the PATH")


@pytest.fixture
def page(source: LocalServer, cluster: LocalCluster, tmp_path: Path) -> Path:
    """Return the page of a migration with failed keys, some of them with hostile names."""
    with connect(source) as connection:
        fill_strings(connection, _KEYS)
    with source.client() as client, cluster.client() as other:
        for key in (_SCRIPT, *(b"differs:%d" % number for number in range(9))):
            client.set(key, "one")
            other.set(key, "another")
    path = tmp_path / "report.html"
    done = run("migrate", source.url, cluster.url, "--job", "pages", "--html", str(path))
    assert done.code == 3, done.stderr
    return path


def browse(page: Path, *options: str) -> tuple[str, str]:
    """Open a page; return its elements afterwards, and what the browser's console said."""
    assert _BROWSER is not None
    done = subprocess.run(
        [
            *(_BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
            *("--disable-dev-shm-usage", "--disable-background-networking", "--no-first-run"),
            *("--enable-logging=stderr", "--host-resolver-rules=MAP * ~NOTFOUND"),
            *(f"--user-data-dir={page.parent / 'profile'}", "--window-size=1180,2200"),
            *options,
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "HOME": str(page.parent)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


def test_a_page_tells_what_the_table_tells(page: Path) -> None:
    text = page.read_text()
    assert "came to its end, but 10 failed, of 2,010 keys." in text
    assert "2,000 + 10 = 2,010 keys scanned." in text
    assert "Slots of the target" in text
    assert "Keys settled per second" in text
    assert "&lt;script&gt;document.title" in text


@needs_browser
def test_a_page_opens_without_a_word_on_the_console(page: Path) -> None:
    elements, console = browse(page, "--dump-dom")
    assert console == ""
    assert "<title>pages</title>" in elements
    assert elements.count('class="map"') == 1


@needs_browser
def test_the_search_hides_what_does_not_match(page: Path) -> None:
    # The page's own policy would not let a test type into it.
    script = "const f=document.querySelector('input');f.value='DIFFERS:7';f.dispatchEvent(new Event('input'))"
    text = re.sub(r"script-src '[^']*'", "script-src 'unsafe-inline'", page.read_text())
    typed = page.with_name("typed.html")
    typed.write_text(text.replace("</body>", f"<script>{script}</script></body>"))
    elements, console = browse(typed, "--dump-dom")
    assert console == ""
    assert elements.count('<tr hidden="">') == 9
    assert ">1 of 10 rows</output>" in elements


@needs_browser
@pytest.mark.parametrize(("scheme", "paper"), [("1", (255, 255, 255)), ("0", (20, 24, 30))])
def test_a_page_is_light_and_dark(page: Path, scheme: str, paper: tuple[int, int, int]) -> None:
    picture = page.with_suffix(".png")
    browse(page, f"--screenshot={picture}", f"--blink-settings=preferredColorScheme={scheme}")
    assert first_pixel(picture) == paper


def first_pixel(picture: Path) -> tuple[int, ...]:
    """Return the pixel at the top left of a PNG, which no filter changes."""
    data = picture.read_bytes()
    packed, at = b"", 8
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] == b"IDAT":
            packed += data[at + 8 : at + 8 + length]
        at += length + 12
    return tuple(zlib.decompress(packed)[1:4])


def test_a_page_comes_from_the_journal_at_any_time(
    page: Path, cluster: LocalCluster, source: LocalServer
) -> None:
    again = page.with_name("again.html")
    assert run("report", "pages", "-o", str(again)).code == 0
    assert "10 failed, of 2,010 keys" in again.read_text()
    printed = run("report", "pages", "-o", "-")
    assert printed.stdout.startswith("<!doctype html>")
    done = run("verify", source.url, cluster.url, "--job", "checked", "--html", str(again))
    assert done.code == 3
    assert "10 keys of both sides differ" in again.read_text()


def test_a_reshard_has_a_page(page: Path, own_cluster: LocalCluster, tmp_path: Path) -> None:
    plan, written = tmp_path / "plan.json", tmp_path / "reshard.html"
    weight = unbalancing_weight(own_cluster)
    made = run(
        "reshard", "plan", own_cluster.url, "--weight", weight, "-o", str(plan), "--html", str(written)
    )
    assert made.code == 0, made.stderr
    assert "Slots after" in written.read_text()
    done = run("reshard", "apply", str(plan), own_cluster.url, "--job", "balance", "--html", str(written))
    assert done.code == 0, done.stderr
    assert "is complete: all are where the plan wants them." in written.read_text()
    assert "Slots now" in written.read_text()


def test_a_check_and_a_status_have_pages(page: Path, cluster: LocalCluster, source: LocalServer) -> None:
    written = page.with_name("check.html")
    done = run("check", source.url, cluster.url, "--html", str(written))
    assert done.code == 0, done.stderr
    text = written.read_text()
    assert "nothing stands against it" in text
    assert "proto-max-bulk-len" in text
    assert "Patterns of keys" in text
    done = run("reshard", "status", cluster.url, "--html", str(written))
    assert done.code == 0, done.stderr
    text = written.read_text()
    assert "Every slot has an owner" in text
    assert "Fullest slots" in text
    if _BROWSER is not None:
        elements, console = browse(written, "--dump-dom")
        assert (console, elements.count('class="map"')) == ("", 1)


def test_a_page_that_can_not_be_written_is_told_before_the_run(
    source: LocalServer, cluster: LocalCluster
) -> None:
    with source.client() as client:
        client.set("key", "value")
    done = run("migrate", source.url, cluster.url, "--html", "/nowhere/report.html")
    assert done.code == 2
    assert (
        "the report page can't be written to /nowhere/report.html: there is no folder /nowhere" in done.stderr
    )
    assert count_keys(cluster) == 0


def test_what_there_is_no_page_of_is_told(invoke: Invoke, tmp_path: Path) -> None:
    done = invoke("report", "nothing", "-o", str(tmp_path / "report.html"))
    assert (done.code, "there is no job 'nothing'" in done.err) == (2, True)
    done = invoke(
        "migrate", "redis://one", "redis://two", "--dry-run", "--html", str(tmp_path / "report.html")
    )
    assert (done.code, "--html is given with --dry-run" in done.err) == (2, True)


def test_a_missing_package_is_told(invoke: Invoke, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    done = invoke("migrate", "redis://one", "redis://two", "--html", str(tmp_path / "report.html"))
    assert done.code == 2
    assert "pip install 'slotferry[html]'" in done.err
