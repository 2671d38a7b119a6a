"""A configuration that cannot be simulated is refused with one message that names the field."""

from __future__ import annotations

from typing import Any

import pytest

from generator_service.simulator import Configuration, Simulator, Window
from generator_service.simulator.configuration import FIRST_MOMENT, LAST_MOMENT


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("seed", -1),
        ("tps", 0.0),
        ("tps", float("nan")),
        ("customers", 0),
        ("merchants", 5),
        ("fraud_rate", 1.5),
        ("difficulty", -0.1),
        ("preset", "real"),
    ],
)
def test_a_bad_setting_is_named_with_its_value(setting: str, value: Any):
    with pytest.raises(ValueError, match=f"^{setting} must be .*, not '?{value}'?\\.$"):
        Configuration(**{setting: value})


@pytest.mark.parametrize("locale", ["xx_XX", "en", "../en_US", "la"])
def test_a_locale_that_nobody_knows_is_refused(locale: str):
    with pytest.raises(ValueError, match="locale"):
        Simulator(Configuration(locale=locale))


@pytest.mark.parametrize(
    ("start", "end"),
    [
        (FIRST_MOMENT + 5, FIRST_MOMENT + 5),
        (FIRST_MOMENT + 6, FIRST_MOMENT + 5),
        (FIRST_MOMENT - 1, FIRST_MOMENT + 5),
        (FIRST_MOMENT, LAST_MOMENT + 1),
    ],
)
def test_a_window_is_not_empty_backwards_or_outside_the_calendar(start: int, end: int):
    with pytest.raises(ValueError, match=rf"{start}.*{end}"):
        Window(start, end)


def test_the_configuration_hash_tells_configurations_apart():
    made = [Simulator(Configuration(tps=1, customers=50, seed=seed)) for seed in (0, 0, 1)]
    hashes = [simulator.configuration_hash for simulator in made]
    assert hashes[0] == hashes[1] != hashes[2]
    assert all(len(text) == 16 and int(text, 16) >= 0 for text in hashes)
