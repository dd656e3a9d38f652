"""Keys that get one name, looked for once all is copied."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from slotferry.errors import RefusedError
from slotferry.migrate.before.collisions import Collision, Findings
from slotferry.migrate.following import shared_names
from slotferry.migrate.following.shared_names import SharedNames


class Driver:
    """A driver whose rules may give two keys one name."""

    def __init__(self) -> None:
        key_map = SimpleNamespace(is_one_to_one=False)
        self.options = SimpleNamespace(selection=SimpleNamespace(key_map=lambda prefix: key_map))
        self.sides = SimpleNamespace(ways=[SimpleNamespace(prefix=b"")], source_facts=None)
        self.told: list[str] = []

    def emit(self, notice: Any) -> None:
        self.told.append(notice.message)


@pytest.mark.parametrize("more", [False, True])
def test_names_beyond_those_that_are_looked_at_end_the_run(
    monkeypatch: pytest.MonkeyPatch, more: bool
) -> None:
    collision = Collision(0, b"name", ((0, b"one"), (0, b"other")), 2)
    found = Findings(10, 10, (), (), (), (collision,), more)
    monkeypatch.setattr(shared_names, "partitions_by_database", lambda *_: {0: 1})
    monkeypatch.setattr(shared_names, "survey_source", lambda *_, **__: found)
    touched: list[bytes] = []
    driver: Any = Driver()
    followed: Any = SimpleNamespace(touch=touched.extend)
    names = SharedNames(driver)
    if more:
        with pytest.raises(RefusedError, match="more than 2 keys of the source would share 1 names"):
            names.find(driver, followed)
    else:
        names.find(driver, followed)
    assert touched == [b"one", b"other"]
    assert names.wanted is more
