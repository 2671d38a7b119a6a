"""The table of fault cases in `docs/reliability.md`, made from the lists that the tests go through.

`python -m txn_platform_tests.support.reliability_page` prints it into the page. The page's words
are written by hand.
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
    """What a list of cases has to say of each."""

    @property
    def id(self) -> str:
        """Its name in the tests; once in its list."""
        ...

    @property
    def done(self) -> str:
        """What is done."""
        ...

    @property
    def expected(self) -> str:
        """What comes of it."""
        ...


# By the title of the list's section.
LISTS: Mapping[str, Iterable[FaultCase]] = {
    "The store, each on two kinds of S3 server": store_fault_cases.CASES,
    "The source, in every format": source_fault_cases.FAULT_CASES,
    "Hostile sources": source_fault_cases.HOSTILE_CASES,
}


def with_tables(page: str) -> str:
    """The page with the tables as the lists have them now."""
    before, _, rest = page.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return before + _BEGIN + tables() + _END + after


def tables() -> str:
    """A section and a table a list, Markdown."""
    return "".join(f"\n### {title}\n\n{_table(list(cases))}\n" for title, cases in LISTS.items())


def _table(cases: list[FaultCase]) -> str:
    rows = [f"| {number} | {case.done} | {case.expected} |" for number, case in enumerate(cases, 1)]
    return "\n".join(["| | what is done | what comes of it |", "| ---: | --- | --- |", *rows])


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text("utf-8")), "utf-8")
