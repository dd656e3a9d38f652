"""The one redaction: secrets that are in use never stand in a text that leaves the program.

Invariant: whatever makes a text from what a server or a library said (errors, events, reasons, rows of the
journal and of a check) passes it through `redact`. JSON and stderr as a whole pass through `redact_strong` as
well, which leaves a secret alone that may as well be a word or a figure of ours. Names of keys are data.
"""

from __future__ import annotations

import base64
import json
import re
import threading
from typing import Any
from urllib.parse import quote

_MASK = "***"
_MOST_SECRETS = 64
"""Tokens that are renewed all the time push the oldest out."""
_STRONG_LENGTH = 8
_CUT_AT = 16
"""A server that quotes what it was sent may cut it: so much of a secret is taken for all of it."""
_KEY_FIELDS = ("key", "key_base64", "type", "status", "state", "job", "kind")

_lock = threading.Lock()
_secrets: dict[str, None] = {}
_pattern: re.Pattern[str] | None = None
_strong_pattern: re.Pattern[str] | None = None


def remember_secret(secret: str | None) -> None:
    """Let `secret` be masked from now on, in every spelling that a program might give it."""
    global _pattern, _strong_pattern
    if not secret or secret in _secrets:
        return
    with _lock:
        _secrets[secret] = None
        while len(_secrets) > _MOST_SECRETS:
            del _secrets[next(iter(_secrets))]
        _pattern = _compiled(list(_secrets))
        _strong_pattern = _compiled([known for known in _secrets if _is_strong(known)])


def redact(text: str) -> str:
    """Return `text` with every secret in use masked."""
    return text if _pattern is None else _pattern.sub(_MASK, text)


def redact_strong(text: str) -> str:
    """Return `text` with every secret masked that can be nothing else."""
    return text if _strong_pattern is None else _strong_pattern.sub(_MASK, text)


def json_text(value: Any, *, indent: int | None = None) -> str:
    """Return `value` as JSON, its texts as of `redact_strong`, but for names of keys and states."""
    return json.dumps(_redacted(value), indent=indent)


def _redacted(value: Any) -> Any:
    if isinstance(value, str):
        return redact_strong(value)
    if isinstance(value, dict):
        return {name: inner if name in _KEY_FIELDS else _redacted(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_redacted(inner) for inner in value]
    return value


def _spellings(secret: str) -> set[str]:
    raw = secret.encode("utf-8", "surrogateescape")
    escaped = "".join(chr(byte) if 0x20 <= byte < 0x7F else f"\\x{byte:02x}" for byte in raw)
    texts = {
        *(secret, quote(raw), quote(raw, safe=""), repr(secret)[1:-1], json.dumps(secret)[1:-1]),
        *(escaped, escaped.replace("\\", "\\\\"), secret.replace('"', '\\"'), raw.decode("utf-8", "replace")),
    }
    if len(raw) >= 3:  # of less there are too many chance hits
        texts |= {base64.b64encode(raw).decode().rstrip("=")[:-1], raw.hex()}
    return texts - {""}


def _is_strong(secret: str) -> bool:
    kinds = sum(re.search(kind, secret) is not None for kind in ("[a-z]", "[A-Z]", "[0-9]", "[^a-zA-Z0-9]"))
    return len(secret) >= _STRONG_LENGTH and kinds > 1


def _compiled(secrets: list[str]) -> re.Pattern[str] | None:
    spellings = sorted({text for secret in secrets for text in _spellings(secret)}, key=len, reverse=True)
    return re.compile("|".join(map(_expression, spellings))) if spellings else None


def _expression(spelling: str) -> str:
    whole = re.escape(spelling)
    if not _is_strong(spelling):
        # A short one would be found within any word: it counts where it stands for itself.
        ahead = r"(?<![^\W_])" if spelling[0].isalnum() else ""
        behind = r"(?![^\W_])" if spelling[-1].isalnum() else ""
        return ahead + whole + behind
    return whole if len(spelling) <= _CUT_AT else rf"(?:{whole}|{re.escape(spelling[:_CUT_AT])}[^\s'\"`]*)"
