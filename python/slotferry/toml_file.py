"""Files in TOML, as people write them.

Invariant: a file that can't be read or is no TOML is a `UsageError` that names the file and the place.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from slotferry.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]


def read_toml(path: Path, what: str, hint: str = "correct that place") -> dict[str, Any]:
    """Return what the file at `path` holds; `what` it is called. Raises `UsageError`."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"the {what} {path} can't be read: {error.strerror}", hint="check the path"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"the {what} {path} is not TOML: {error}", hint=hint) from None


def read_jobs(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return the table `[defaults]` of a file of jobs, and each table `[jobs.NAME]` by name.

    Raises `UsageError` for a file that has none, or holds anything else.
    """
    content = read_toml(path, "config file")
    if strange := content.keys() - {"defaults", "jobs"}:
        raise UsageError(
            f"the config file {path} has {sorted(strange)[0]!r} outside of [defaults] and [jobs.NAME]",
            hint="put each job into a table [jobs.NAME]",
        )
    jobs, defaults = content.get("jobs", {}), content.get("defaults", {})
    if not isinstance(jobs, dict) or not jobs or not all(isinstance(job, dict) for job in jobs.values()):
        raise UsageError(f"the config file {path} has no jobs", hint="give each a table [jobs.NAME]")
    if not isinstance(defaults, dict):
        raise UsageError(f"'defaults' in the config file {path} is not a table", hint="write [defaults]")
    return defaults, jobs
