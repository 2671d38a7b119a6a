"""The check of the glossary finds what it should, and nothing else."""

from pathlib import Path

import pytest

from txn_platform_tests.support import glossary

_AVOIDED = glossary.rules((Path(__file__).parents[2] / "docs" / "glossary.md").read_text("utf-8"))


def test_the_table_is_read() -> None:
    assert _AVOIDED["mend"] == ("fix", "everywhere")
    assert _AVOIDED["verdict"] == ("check_result", "identifier")


@pytest.mark.parametrize(
    "code",
    [
        "def the_verdict(): ...",
        "class Verdicts: ...\nclass MyVerdict: ...",
        "verdict = 1",
        "self.verdict = 1",
        "def f(verdict): ...",
        "import a as verdict",
        "VERDICT: int = 1",
        "# Mend it.",
        "x = 'to mend'",
    ],
)
def test_a_word_to_avoid_is_found(code: str) -> None:
    assert len(list(glossary.violations("a.py", code, _AVOIDED))) == 1


@pytest.mark.parametrize(
    "code",
    ["x = other.verdict", "# The verdict of a judge.", "recommend = amended = 1", "f(guard=1)"],
)
def test_other_names_and_words_are_left_alone(code: str) -> None:
    assert not list(glossary.violations("a.py", code, _AVOIDED))


def test_prose_is_checked_too() -> None:
    (line,) = glossary.violations("a.md", "Fine.\nIt can't be mend.\n", _AVOIDED)
    assert line == "a.md:2: 'mend': write fix"


def test_an_exempt_name_is_allowed_in_its_file_only() -> None:
    avoided = _AVOIDED | {"places": ("indices", "identifier")}
    code = "places: int = 1\n"
    assert list(glossary.violations("generator_service/simulator/pools.py", code, avoided)) == []
    assert list(glossary.violations("a.py", code, avoided)) == ["a.py:1: places: write indices"]


@pytest.mark.parametrize(
    ("line", "is_found"),
    [
        ("# What a network damages differs.", True),
        ("It ends. What remains is removed.", True),
        ("- What is there stays.", True),
        ("What is a window? One hour.", False),
        ("They say what is there.", False),
        ("Whatever comes is kept.", False),
    ],
)
def test_no_sentence_begins_with_what(line: str, *, is_found: bool) -> None:
    assert bool(list(glossary.violations("a.md", line, _AVOIDED))) is is_found
