"""Totals of sent rows come from memory, and equal the computed ones."""

from itertools import pairwise

import pytest

from generator_service.simulator import Simulator, Window
from generator_service.simulator.configuration import HOUR, MINUTE
from generator_service.source import Source
from generator_service.tally import Tallies
from txn_platform_tests.generator_service.test_app import NOW, settings

_START = NOW // HOUR * HOUR - 24 * HOUR
_HOUR = Window(_START, _START + HOUR)


@pytest.fixture(scope="module")
def source() -> Source:
    return Source(settings(), lambda: NOW)


def _send(source: Source, tallies: Tallies, window: Window, *, take: int | None = None) -> None:
    for number, _ in enumerate(tallies.counted(source.rows(window, None), window, "key")):
        if number == take:
            return


@pytest.mark.parametrize("minutes", [[60], [1, 8, 51], [20, 20, 20]])
def test_parts_sent_whole_add_up_to_the_window(source: Source, minutes: list[int]) -> None:
    tallies = Tallies()
    at = _HOUR.start
    for length in minutes:
        assert tallies.of(_HOUR, "key") is None
        _send(source, tallies, Window(at, at + length * MINUTE))
        at += length * MINUTE
    assert tallies.of(_HOUR, "key") == source.simulator.control_totals(_HOUR)
    assert tallies.of(_HOUR, "another key") is None
    assert tallies.of(Window(_HOUR.start, _HOUR.end + MINUTE), "key") is None
    assert tallies.of(Window(_HOUR.start + MINUTE // 2, _HOUR.end), "key") is None


def test_totals_of_an_unfinished_answer_are_not_known(source: Source) -> None:
    tallies = Tallies()
    _send(source, tallies, _HOUR, take=0)
    assert tallies.of(_HOUR, "key") is None


@pytest.mark.parametrize("page", [1, 7, 30])
def test_pages_sent_one_after_the_other_add_up_to_the_window(source: Source, page: int) -> None:
    tallies = Tallies()
    window = Window(_HOUR.start, _HOUR.start + MINUTE)
    count = source.count(window)
    assert count > 30
    edges = [*range(0, count, page), count]
    for start, stop in pairwise(edges):
        assert tallies.of(window, "key") is None
        rows = source.rows(window, None, position=start, stop=stop)
        end = None if stop == count else stop
        for _ in tallies.counted(rows, window, "key", start=start, stop=end):
            pass
    assert tallies.of(window, "key") == source.simulator.control_totals(window)


def test_a_window_with_a_page_left_out_is_not_known(source: Source) -> None:
    tallies = Tallies()
    count = source.count(_HOUR)
    for start, stop in ((0, 10), (20, None)):
        rows = source.rows(_HOUR, None, position=start, stop=stop or count)
        for _ in tallies.counted(rows, _HOUR, "key", start=start, stop=stop):
            pass
    assert tallies.of(_HOUR, "key") is None


def test_totals_of_sent_rows_are_not_computed_again(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = source.simulator.control_totals(_HOUR, as_of=NOW)
    key = NOW, None
    for _ in source.tallies.counted(source.rows(_HOUR, NOW), window=_HOUR, key=key):
        pass

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr(Simulator, "_arrived_blocks", refuse)
    assert source.totals(_HOUR, NOW, None) == expected
