"""Every message that can wake someone has a section in the runbook, and names it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import txn_platform
from txn_platform.defs.checks import CHECKS
from txn_platform.errors import UserError
from txn_platform.lake.store_errors import StoreError
from txn_platform.runbook import Section, place

_PACKAGE = Path(txn_platform.__file__).parent
_CHECKOUT = _PACKAGE.parent
# Their errors can fail a run.
_IN_RUNS = ("card_key.py", "source", "lake", "defs")


def _anchors() -> list[str]:
    """The anchors of the page's headings, as GitHub and the site make them."""
    text = (_CHECKOUT / "docs" / "runbook.md").read_text("utf-8")
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]


def _errors() -> Iterator[tuple[str, ast.Call]]:
    """The calls that make a `UserError` in code that runs use."""
    for name in _IN_RUNS:
        path = _PACKAGE / name
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text("utf-8"))):
                if (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Name)
                    and node.func.id == UserError.__name__
                ):
                    yield f"{file.name}:{node.lineno}", node


def test_every_anchor_is_there_once() -> None:
    anchors = _anchors()
    assert len(anchors) == len(set(anchors))


@pytest.mark.parametrize("section", Section)
def test_every_kind_of_failure_has_its_section(section: Section) -> None:
    assert section in _anchors()


@pytest.mark.parametrize("check", [check.name for check in CHECKS if check.blocking])
def test_every_check_that_blocks_has_its_section(check: str) -> None:
    assert check in _anchors()


def test_every_error_of_a_run_names_its_section() -> None:
    calls = list(_errors())
    assert len(calls) > 50
    assert [where for where, call in calls if len(call.args) < 2] == []


def test_a_section_is_named_by_page_and_anchor() -> None:
    assert place(Section.DISK) == "docs/runbook.md#disk-cannot-be-written"


@pytest.mark.parametrize(
    ("refused", "section"), [(True, Section.STORE_REFUSES), (False, Section.STORE_SILENT)]
)
def test_a_store_that_refuses_is_not_one_that_is_silent(*, refused: bool, section: str) -> None:
    assert StoreError("no", refused=refused).section == section
