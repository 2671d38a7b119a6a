"""The tables of fault cases in `docs/reliability.md`, made from the lists that the tests use.

`python -m txn_platform_tests.support.reliability_page` writes it into the page. The page's text is
written by hand.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from txn_platform_tests.support import source_fault_cases, store_fault_cases

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
_BEGIN = "<!-- made by python -m txn_platform_tests.support.reliability_page -->\n"
_END = "<!-- end -->\n"


class FaultCase(Protocol):
    """A case of one of the lists."""

    @property
    def id(self) -> str:
        """Its name in the tests, unique in its list."""
        ...

    @property
    def done(self) -> str:
        """The fault."""
        ...

    @property
    def expected(self) -> str:
        """The result that the tests expect."""
        ...


# Lists by the title of their section.
LISTS: Mapping[str, Iterable[FaultCase]] = {
    "The store, each on two kinds of S3 server": store_fault_cases.CASES,
    "The source, in every format": source_fault_cases.FAULT_CASES,
    "Hostile sources": source_fault_cases.HOSTILE_CASES,
}


def with_tables(page: str) -> str:
    """Return the page with the tables of the current lists."""
    before, _, rest = page.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return before + _BEGIN + tables() + _END + after


def tables() -> str:
    """Return a section with a table for each list, in Markdown."""
    return "".join(f"\n### {title}\n\n{_table(list(cases))}\n" for title, cases in LISTS.items())


def _table(cases: list[FaultCase]) -> str:
    rows = [f"| {number} | {case.done} | {case.expected} |" for number, case in enumerate(cases, 1)]
    return "\n".join(["| | fault | result |", "| ---: | --- | --- |", *rows])


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text("utf-8")), "utf-8")
