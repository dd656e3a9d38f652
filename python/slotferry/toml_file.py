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
