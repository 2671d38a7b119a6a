"""Hashes of ids agree with their definition, and times with the UUIDs that hold them."""

from uuid import UUID

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from txn_platform.rows.ids import id_hashes, id_times

_MASK = (1 << 64) - 1
_IDS = st.lists(st.one_of(st.none(), st.text(max_size=40)), max_size=50)


def _mix(state: int) -> int:
    state = (state + 0x9E3779B97F4A7C15) & _MASK
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
    return state ^ (state >> 31)


def _hash_by_hand(text: str | None) -> int:
    data = (text or "").encode()
    state = _mix(len(data))
    padded = data + b"\0" * (-len(data) % 8)
    for index in range(0, len(padded), 8):
        state = _mix(state ^ int.from_bytes(padded[index : index + 8], "little"))
    return state


@given(_IDS)
def test_hashes_agree_with_the_definition(ids: list[str | None]) -> None:
    expected = [_hash_by_hand(text) for text in ids]
    assert id_hashes(pl.Series(ids, dtype=pl.String)).tolist() == expected


@given(st.lists(st.one_of(st.uuids(), st.just("no UUID"), st.none())))
def test_times_are_the_first_48_bits(ids: list[UUID | str | None]) -> None:
    texts = pl.Series([None if one is None else str(one) for one in ids], dtype=pl.String)
    expected = [one.int >> 80 if isinstance(one, UUID) else -1 for one in ids]
    assert id_times(texts).tolist() == expected
