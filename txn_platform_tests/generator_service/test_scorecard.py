"""The scorecard: its measures, its failures, and its two formats."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest

from generator_service.scorecard import Line, Scorecard, measure, render_html
from generator_service.simulator import Configuration, Simulator, Window
from txn_platform_tests.generator_service.simulator.conftest import DAY, HOUR, moment

START = moment(2026, 11, 2)


@pytest.fixture(scope="module")
def card() -> Scorecard:
    """A twentieth of the default source, for a fortnight."""
    simulator = Simulator(Configuration(tps=0.5, customers=10_000, merchants=500))
    return measure(simulator, Window(START, START + 14 * DAY), 400_000)


def line(card: Scorecard, beginning: str) -> Line:
    return next(line for line in card.lines if line.name.startswith(beginning))


@pytest.mark.parametrize(
    "beginning",
    [
        "first digit",
        "purchases, mean",
        "purchases, median",
        "cards",
        "merchants' popularity",
        "customers' spend, Gini",
        "customers' spend, share",
        "busiest to quietest",
        "weekday of the busiest",
        "burstiness",
        "fraud, share",
        "fraud from the best rule",
        "orphans",
    ],
)
def test_the_realistic_preset_is_realistic(card: Scorecard, beginning: str):
    found = line(card, beginning)
    assert found.in_range, found


def test_it_reads_at_most_the_requested_rows(card: Scorecard):
    assert card.rows == 400_000


def test_the_handbooks_data_is_out_of_range():
    simulator = Simulator(Configuration(preset="handbook", tps=0.111, customers=5_000))
    card = measure(simulator, Window(START, START + 20 * DAY))
    # Its amounts are normal and its gaps Poisson, as published measurements say.
    assert line(card, "first digit").value == pytest.approx(0.0206, abs=0.004)
    assert not line(card, "first digit").in_range
    assert not line(card, "burstiness").in_range
    assert line(card, "fraud, share").in_range
    assert line(card, "orphans").in_range
    assert not card.in_range


@pytest.mark.parametrize(
    ("value", "low", "high", "expected"),
    [
        (1.0, 1.0, 1.0, True),
        (0.5, 0.6, 0.8, False),
        (0.9, 0.6, 0.8, False),
        (25.0, 20.0, None, True),
        (0.7, None, 0.8, True),
        (None, None, 0.8, False),
    ],
)
def test_a_line_is_in_range_between_its_bounds(
    value: float | None, low: float | None, high: float | None, expected: bool
):
    assert Line("p", value, low, high, "s").in_range is expected


def test_json_has_every_line_with_its_target_and_source(card: Scorecard):
    content = json.loads(card.to_json())
    assert content["rows"] == 400_000
    assert content["window"]["start"] == "2026-11-02T00:00:00Z"
    assert content["configuration"]["customers"] == 10_000
    assert len(content["configuration_hash"]) == 16
    for found in content["lines"]:
        assert set(found) == {"property", "value", "target", "in_range", "source", "note"}
        assert found["source"]
    assert len(content["pictures"]["hours"]) == 168


def test_the_page_is_whole_and_needs_nothing_else(card: Scorecard):
    page = render_html(card)
    opened: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            opened.append(tag)
            assert not {"src", "href"} & {name for name, _ in attrs}

    Reader().feed(page)
    assert opened.count("svg") == 3
    assert opened.count("tr") == 1 + len(card.lines)
    assert not re.search(r"https?://", page)


@pytest.mark.parametrize(("length", "max_rows"), [(HOUR // 2, 10_000), (3 * HOUR, 999), (1, 10)])
def test_too_little_to_measure_is_refused(length: int, max_rows: int):
    simulator = Simulator(Configuration(tps=5, customers=500, merchants=100))
    with pytest.raises(ValueError, match=r"needs 1,000 rows and a whole hour, and has .* rows"):
        measure(simulator, Window(START, START + length), max_rows)


def test_an_hour_is_enough_to_say_something():
    simulator = Simulator(Configuration(tps=5, customers=500, merchants=100))
    found = measure(simulator, Window(START + 20 * HOUR, START + 21 * HOUR))
    assert found.rows > 10_000
    assert json.loads(found.to_json())["lines"]
