"""`docs/reliability.md`: its tables are the cases of the tests."""

from txn_platform_tests.support.reliability_page import LISTS, PAGE, with_tables


def test_the_tables_are_current() -> None:
    page = PAGE.read_text("utf-8")
    assert with_tables(page) == page


def test_each_case_is_there_once() -> None:
    for title, cases in LISTS.items():
        ids = [case.id for case in cases]
        assert len(ids) == len(set(ids)), title
