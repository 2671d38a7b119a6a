"""Names from a source in messages."""

from __future__ import annotations

from ast import literal_eval

import pytest

from txn_platform.errors import shown
from txn_platform_tests.support.card_spellings import SPELLINGS


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_name_shows_four_digits_of_a_number_at_most(spelling: str) -> None:
    told = literal_eval(shown(f"field {SPELLINGS[spelling]}"))
    assert sum(map(str.isnumeric, told)) <= 4


@pytest.mark.parametrize("name", ["amount", "iso3166_1", "card number 2"])
def test_a_usual_name_is_whole(name: str) -> None:
    assert shown(name) == repr(name)
