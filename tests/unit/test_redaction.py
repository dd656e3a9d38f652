"""The one redaction: each secret in each spelling, and nothing but secrets."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest

from slotferry import redaction
from slotferry.errors import SlotferryError
from slotferry.model.events import EngineNews, Notice
from slotferry.net.endpoints import Endpoint
from slotferry.preflight.rows import Row
from slotferry.redaction import json_text, redact, redact_strong, remember_secret

_SECRETS = ("s0urce:p@ss/w%rd", "t4rget p\"ss'word", "s3ntinel#pässword", "back\\slash\x01", "x")


@pytest.mark.parametrize("secret", _SECRETS)
def test_every_spelling_is_masked(secret: str) -> None:
    remember_secret(secret)
    raw = secret.encode()
    for spelling in (
        *(secret, quote(secret), quote(secret, safe=""), repr(secret)[1:-1], json.dumps(secret)[1:-1]),
        "".join(chr(byte) if 0x20 <= byte < 0x7F else f"\\x{byte:02x}" for byte in raw),
    ):
        assert redact(f"ERR '{spelling}'.") == "ERR '***'."


def test_a_secret_that_a_server_has_cut_is_masked() -> None:
    secret = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9" * 8
    remember_secret(secret)
    assert redact(f"with args beginning with: '{secret[:120]}' ") == "with args beginning with: '***' "


def test_what_people_and_programs_get_is_masked() -> None:
    Endpoint.parse("redis://:hunter@h", "source")
    error = SlotferryError("it says hunter", hint="not hunter")
    assert (str(error), error.args, error.hint) == ("it says ***", ("it says ***",), "not ***")
    assert error.to_dict() == {"kind": "internal", "message": "it says ***", "hint": "not ***"}
    assert Notice("hunter").message == "***"
    assert EngineNews("node_lost", "hunter", "n:1", None).message == "***"
    assert Row("reach", "error", "hunter", "hunter").message == "***"


def test_a_secret_that_is_a_word_or_a_figure_leaves_the_output_readable() -> None:
    for word in ("completed", "5", "12345678", "keys"):
        remember_secret(word)
    told = {"status": "completed", "keys": {"migrated": 5}, "bytes": 12345678, "completed": "5 keys"}
    assert json.loads(json_text(told)) == told
    assert redact_strong("5 keys completed") == "5 keys completed"
    assert redact("5 keys completed") == "*** *** ***"


def test_a_short_secret_is_no_part_of_a_word() -> None:
    remember_secret("p")
    assert redact("a port of p, 'p' and p.") == "a port of ***, '***' and ***."


def test_names_of_keys_are_data() -> None:
    remember_secret("user:1000")
    line = {"type": "failure", "key": "user:1000", "message": "of user:1000"}
    assert json.loads(json_text(line)) == {"type": "failure", "key": "user:1000", "message": "of ***"}


def test_tokens_that_change_all_the_time_are_not_kept_for_ever() -> None:
    for number in range(1000):
        remember_secret(f"token-{number}")
    assert len(redaction._secrets) < 100
    assert redact("token-999") == "***"
