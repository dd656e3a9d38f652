"""Runs a command and writes what it used, as JSON, to a file: `python measured.py FILE COMMAND…`.

Invariant: this process stays small. The peak memory that wait4 reports for a child is never less than what
its parent held when it was started, and the benchmark itself holds too much to be it.
"""

import json
import os
import subprocess
import sys
import time

_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024


def main() -> None:
    report, *command = sys.argv[1:]
    began = time.monotonic()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    figures = {
        "seconds": time.monotonic() - began,
        "cpu": usage.ru_utime + usage.ru_stime,
        "peak_memory": usage.ru_maxrss * _MAXRSS_UNIT,
    }
    with open(report, "w") as file:
        json.dump(figures, file)
    process.returncode = os.waitstatus_to_exitcode(status)
    sys.exit(process.returncode if process.returncode >= 0 else 128 - process.returncode)


if __name__ == "__main__":
    main()
