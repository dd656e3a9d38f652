"""Rules of the command line and of rule files: what is read, what is refused, and the way back."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slotferry.errors import UsageError
from slotferry.model.rules import AddPrefix, Rewrite, Rule, StripPrefix, load_rules, rules_to_toml


def load(folder: Path, text: str) -> tuple[Rule, ...]:
    path = folder / "rules.toml"
    path.write_text(text, encoding="utf-8", newline="")
    return load_rules(path)


def test_a_rule_of_the_command_line() -> None:
    assert Rewrite.parse(r"^user:(\d+):(.*)$ => user:{$1}:$2") == Rewrite(
        r"^user:(\d+):(.*)$", "user:{$1}:$2"
    )
    assert Rewrite.parse("a => ") == Rewrite("a", "")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a=>b", "no ' => '"),
        ("a => b => c", "more than one"),
        (" => b", "no pattern"),
        ("\udcff => b", "UTF-8"),
    ],
)
def test_a_rule_that_makes_no_sense(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        Rewrite.parse(text)
    assert caught.value.hint


def test_a_rule_file(tmp_path: Path) -> None:
    rules = load(
        tmp_path,
        "[[rule]]\nmatch = '^user:(\\d+)'\nto = 'user:{$1}'\nlast = true\nnote = \"why\"\n"
        '[[rule]]\nstrip-prefix = "old:"\n[[rule]]\nadd-prefix = "ne\\"w:"\n',
    )
    assert rules == (
        Rewrite(r"^user:(\d+)", "user:{$1}", last=True, note="why"),
        StripPrefix("old:"),
        AddPrefix('ne"w:'),
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "something else than"),
        ("rule = 3", "something else than"),
        ("[[rule]]\nadd-prefix='a'\n[other]\n", "something else than"),
        ("[[rule]]\nadd-prefix='a'\n[[rule]]\nmatch = 'a'", "rule 2 .* says nothing to do"),
        ("[[rule]]\nmatch = 'a'\nto = 'b'\nlst = true", "rule 1 .* 'lst'"),
        ("[[rule]]\nmatch = 'a'\nto = 'b'\nadd-prefix = 'x'", "'add-prefix' beside 'match' and 'to'"),
        ("[[rule]]\nmatch = 'a'\nto = 3", "'to' that is not a text"),
        ("[[rule]]\nmatch = 'a'\nto = 'b'\nlast = 1", "'last' that is not a truth value"),
        ("rule = [3]", "rule 1 .* says nothing to do"),
        ('[[rule]]\nmatch = "\\d"\nto = "b"', "is not TOML"),
    ],
)
def test_a_file_that_is_not_understood_is_refused_whole(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        load(tmp_path, text)
    assert caught.value.hint


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="can't be read"):
        load_rules(tmp_path / "none.toml")


_TEXT = st.text(st.characters(blacklist_categories=["Cs"]))
_RULES = st.lists(
    st.builds(Rewrite, match=_TEXT, to=_TEXT, last=st.booleans(), note=_TEXT)
    | st.builds(AddPrefix, _TEXT, _TEXT)
    | st.builds(StripPrefix, _TEXT, _TEXT),
    min_size=1,
)


@given(_RULES, st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E)))
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, rules: list[Rule], heading: str
) -> None:
    folder = tmp_path_factory.mktemp("rules")
    assert load(folder, rules_to_toml(rules, heading)) == tuple(rules)


def test_bytes_that_toml_cannot_hold_are_refused() -> None:
    with pytest.raises(UsageError, match="not UTF-8"):
        rules_to_toml([AddPrefix(b"\xff")])
