"""Timestamps: the same moments as Python's own parser, in every form that the contract allows."""

import re
from datetime import UTC, datetime, timedelta, timezone

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from txn_platform.contract import TEXT_PATTERNS
from txn_platform.timestamps import parse_timestamps

_PATTERN = TEXT_PATTERNS["transaction_at"]
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
def test_what_has_not_the_form_is_null(given: list[tuple[datetime, int, str]]) -> None:
    texts: list[str] = []
    for moment, place, other in given:
        text = f"{moment.replace(tzinfo=None).isoformat(timespec='microseconds')}Z"
        text = text[:place] + other + text[place + 1 :]
        # Python knows no year 0.
        texts.append(text.replace("0000-", "0001-", 1))
    parsed = parse_timestamps(pl.Series(texts), _PATTERN).to_list()
    for text, found in zip(texts, parsed, strict=True):
        try:
            expected = datetime.fromisoformat(text) if re.match(_PATTERN, text) else None
        except ValueError:
            expected = None
        assert found == expected, text
