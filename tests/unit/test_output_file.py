"""Output files: whole or as they were; links are followed, special files are written to."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from slotferry.errors import OutputError, UsageError
from slotferry.output_file import OutputFile


def output(path: Path | str) -> OutputFile:
    return OutputFile(path, "report", "--report")


def test_a_file_is_replaced_whole_and_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "report"
    path.write_text("old")
    path.chmod(0o640)
    output(path).write(["new", "\n"])
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("new\n", 0o640)
    assert os.listdir(tmp_path) == ["report"]


def test_what_fails_half_way_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "report"
    path.write_text("old")

    def parts() -> Iterator[str]:
        yield "half"
        raise OSError(28, "No space left on device")

    with pytest.raises(
        OutputError, match=r"the report can't be written to .*: No space left on device"
    ) as caught:
        output(path).write(parts())
    assert caught.value.exit_code == 74
    assert (path.read_text(), os.listdir(tmp_path)) == ("old", ["report"])


@pytest.mark.parametrize("there", [True, False])
def test_a_symbolic_link_is_followed(tmp_path: Path, there: bool) -> None:
    (tmp_path / "real").mkdir()
    real, link = tmp_path / "real" / "report", tmp_path / "link"
    link.symlink_to("real/report")
    if there:
        real.write_text("old")
    output(link).write(["new"])
    assert link.is_symlink()
    assert real.read_text() == "new"
    assert os.listdir(real.parent) == ["report"]


def test_a_fifo_is_written_to(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    file = output(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    file.write(["new"])
    assert os.read(reader, 100) == b"new"
    os.close(reader)
    assert stat.S_ISFIFO(path.stat().st_mode)


def test_a_fifo_that_nobody_reads_is_told_of(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    with pytest.raises(OutputError, match="nobody reads the other end"):
        output(path).write(["new"])
    assert stat.S_ISFIFO(path.stat().st_mode)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices")
def test_a_device_is_written_to(tmp_path: Path) -> None:
    null, full = tmp_path / "null", tmp_path / "full"
    for path, minor in ((null, 3), (full, 7)):
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, minor))
    output(null).write(["new"])
    with pytest.raises(OutputError, match="No space left on device"):
        output(full).write(["new"])
    assert stat.S_ISCHR(null.stat().st_mode)
    assert stat.S_ISCHR(full.stat().st_mode)


def test_a_descriptor_is_written_to(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    got: list[bytes] = []
    thread = threading.Thread(target=lambda: got.append(os.read(reader, 100)))
    thread.start()
    output(f"/dev/fd/{writer}").write(["new"])
    thread.join()
    os.close(writer)
    os.close(reader)
    assert got == [b"new"]


def test_a_file_that_stdout_goes_to_is_not_replaced(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    print("before")
    output("/dev/stdout").write(["report\n"])
    print("after")
    assert capfd.readouterr().out == "before\nreport\nafter\n"


def test_what_cannot_be_written_is_refused_beforehand(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Is a directory"):
        output(tmp_path)
    with pytest.raises(UsageError, match=f"there is no folder {tmp_path}/none") as caught:
        output(tmp_path / "none" / "report")
    assert "make the folder" in caught.value.hint
    assert os.listdir(tmp_path) == []
    with pytest.raises(UsageError, match="Bad file descriptor"):
        output("/dev/fd/987654")
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    with pytest.raises(UsageError, match="symbolic links"):
        output(loop)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anything")
def test_a_file_in_a_folder_of_others_is_written_in_place(tmp_path: Path) -> None:
    path = tmp_path / "report"
    path.write_text("an older and longer text")
    tmp_path.chmod(0o500)
    output(path).write(["new"])
    tmp_path.chmod(0o700)
    assert path.read_text() == "new"
