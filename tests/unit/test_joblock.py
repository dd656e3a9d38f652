"""The lock of a job, between processes: one holds it, and the kernel gives it back."""

import subprocess
import sys
from pathlib import Path

import pytest

from slotferry.errors import ExitCode, JobLockedError, JournalError
from slotferry.jobs.lock import JobLock, is_running

HOLDER = """
import sys
from pathlib import Path
from slotferry.jobs.lock import JobLock
with JobLock(Path(sys.argv[1]), "job"):
    print("locked", flush=True)
    sys.stdin.read()
"""


def hold(journal: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(journal)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    return process


def test_a_second_process_is_refused_with_the_name_of_the_first(tmp_path: Path) -> None:
    journal = tmp_path / "journal.db"
    with hold(journal) as process:
        assert is_running(journal, "job")
        with (
            pytest.raises(JobLockedError, match=f"process {process.pid} on ") as caught,
            JobLock(journal, "job"),
        ):
            pass
        assert caught.value.exit_code == ExitCode.REFUSED
        with JobLock(journal, "another job"):
            pass
        process.kill()  # as hard as it gets: nothing is cleaned up
        process.wait()
        assert not is_running(journal, "job")
        with JobLock(journal, "job"):
            assert is_running(journal, "job")
    assert not is_running(journal, "job")


def test_one_process_cannot_take_it_twice_either(tmp_path: Path) -> None:
    journal = tmp_path / "journal.db"
    with JobLock(journal, "job"):
        with pytest.raises(JobLockedError), JobLock(journal, "job"):
            pass
        assert is_running(journal, "job")


def test_a_job_that_never_ran_is_not_running(tmp_path: Path) -> None:
    assert not is_running(tmp_path / "journal.db", "job")


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "journal.db.locks").touch()
    with (
        pytest.raises(JournalError, match=r"the lock .* can't be used"),
        JobLock(tmp_path / "journal.db", "job"),
    ):
        pass
