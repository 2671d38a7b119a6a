"""Timestamps: the same moments as Python's own parser, in every form that the contract allows."""

import re
from datetime import UTC, date, datetime, timedelta, timezone
from itertools import product

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from txn_platform.arrow.text import by_length
from txn_platform.contract.schema import TRANSACTIONS
from txn_platform.rows.timestamps import (
    _usual,  # pyright: ignore[reportPrivateUsage] - the fast path, without what stands in for it
    parse_timestamps,
)

_PATTERN = TRANSACTIONS.forms["transaction_at"]
_MOMENTS = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC))  # noqa: DTZ001 - hypothesis wants its bounds naive
_OFFSETS = st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@given(st.lists(_MOMENTS))
def test_the_usual_form(moments: list[datetime]) -> None:
    texts = [
        f"{moment.replace(tzinfo=None).isoformat(timespec='microseconds')}Z" for moment in moments
    ]
    parsed = parse_timestamps(pl.Series("at", texts, pl.String), _PATTERN)
    assert parsed.dtype == pl.Datetime("us", "UTC")
    assert (parsed.name, parsed.to_list()) == ("at", moments)


@given(st.lists(st.one_of(st.none(), st.tuples(_MOMENTS, _OFFSETS))))
def test_other_forms_among_each_other(given: list[tuple[datetime, timezone] | None]) -> None:
    texts = [None if one is None else one[0].astimezone(one[1]).isoformat() for one in given]
    expected = [None if one is None else one[0] for one in given]
    assert parse_timestamps(pl.Series(texts, dtype=pl.String), _PATTERN).to_list() == expected


@given(
    st.lists(
        st.tuples(st.integers(1, 9999), *(st.integers(0, most) for most in (14, 33, 25, 61, 61))),
        min_size=1,
    )
)
def test_moments_that_do_not_exist_are_null(parts: list[tuple[int, ...]]) -> None:
    texts = ["{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.000001Z".format(*part) for part in parts]
    for text, found in zip(
        texts, parse_timestamps(pl.Series(texts), _PATTERN).to_list(), strict=True
    ):
        try:
            expected = datetime.fromisoformat(text)
        except ValueError:
            expected = None
        assert found == expected, text


@given(
    st.lists(
        st.tuples(_MOMENTS, st.integers(0, 26), st.characters(min_codepoint=1, max_codepoint=255)),
        min_size=1,
    )
)
def test_text_without_the_form_is_null(given: list[tuple[datetime, int, str]]) -> None:
    texts: list[str] = []
    for moment, index, other in given:
        text = f"{moment.replace(tzinfo=None).isoformat(timespec='microseconds')}Z"
        text = text[:index] + other + text[index + 1 :]
        # Python knows no year 0.
        texts.append(text.replace("0000-", "0001-", 1))
    parsed = parse_timestamps(pl.Series(texts), _PATTERN).to_list()
    for text, found in zip(texts, parsed, strict=True):
        try:
            expected = datetime.fromisoformat(text) if re.match(_PATTERN, text) else None
        except ValueError:
            expected = None
        assert found == expected, text


_NOT_A_MOMENT = np.iinfo(np.int64).min


def _usual_moments(texts: list[str]) -> list[int]:
    ((_, characters),) = by_length(pl.Series(texts))
    return _usual(characters).tolist()


def _microseconds(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


@pytest.mark.parametrize(
    "year", [1, 4, 99, 100, 399, 400, 401, 1600, 1900, 1969, 1970, 2000, 2023, 2024, 2100, 9999]
)
def test_every_day_of_a_year_is_read_without_the_slow_parser(year: int) -> None:
    """The first parser reads each day that exists and no other; also in leap years."""
    days = list(product(range(100), range(100)))
    days = [(month, day) for month, day in days if month < 15 or day < 15]
    found = _usual_moments(
        [f"{year:04}-{month:02}-{day:02}T05:06:07.089012Z" for month, day in days]
    )
    for (month, day), moment in zip(days, found, strict=True):
        try:
            expected = _microseconds(datetime(year, month, day, 5, 6, 7, 89_012, UTC))
        except ValueError:
            expected = _NOT_A_MOMENT
        assert moment == expected, (month, day)


@pytest.mark.parametrize(
    ("form", "most"),
    [
        ("2026-11-01T{:02}:00:00.000000Z", 24),
        ("2026-11-01T05:{:02}:00.000000Z", 60),
        ("2026-11-01T05:00:{:02}.000000Z", 60),
    ],
)
def test_hours_minutes_and_seconds_end_where_they_end(form: str, most: int) -> None:
    found = _usual_moments([form.format(value) for value in range(100)])
    expected = [_microseconds(datetime.fromisoformat(form.format(value))) for value in range(most)]
    assert found == expected + [_NOT_A_MOMENT] * (100 - most)


def test_each_digit_of_the_fraction_counts() -> None:
    fractions = [1, 20, 300, 4_000, 50_000, 600_000, 999_999, 0]
    found = _usual_moments([f"1970-01-01T00:00:00.{fraction:06}Z" for fraction in fractions])
    assert found == fractions


@pytest.mark.parametrize("first", [0, 1, 2])
def test_a_row_of_another_hour_or_day_keeps_its_own(first: int) -> None:
    """Rows mostly share their hour; one that does not is never given the others'."""
    hours = ["2026-11-01T00", "2026-11-02T00", "2026-11-01T01"]
    hours = hours[first:] + hours[:first]
    for count in (1, 2, 3):
        texts = [f"{hour}:00:00.000001Z" for hour in hours[:count]] + [f"{hours[0]}:59:59.999999Z"]
        expected = [datetime.fromisoformat(text) for text in texts]
        assert parse_timestamps(pl.Series(texts), _PATTERN).to_list() == expected


def test_arrow_and_polars_texts_are_read_alike() -> None:
    texts = ["2026-11-01T00:00:00.000000Z", None, "2026-11-01T01:00:00+01:00", "no time"]
    expected = [datetime(2026, 11, 1, tzinfo=UTC), None, datetime(2026, 11, 1, tzinfo=UTC), None]
    for array in (pl.Series(texts), pl.Series(texts).to_arrow()):
        assert parse_timestamps(array, _PATTERN).to_list() == expected
    for array in (pa.nulls(2, pa.string()), pl.Series([None, None], dtype=pl.String)):
        assert parse_timestamps(array, _PATTERN).to_list() == [None, None]


def test_first_and_last_days_of_the_calendar() -> None:
    days = [date(1, 1, 1), date(1970, 1, 1), date(9999, 12, 31)]
    found = parse_timestamps(pl.Series([f"{day}T00:00:00.000000Z" for day in days]), _PATTERN)
    assert [moment.date() for moment in found.to_list()] == days
