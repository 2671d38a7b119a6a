"""Repeated ids: every one is found, in whatever order and batches the rows come."""

from uuid import UUID

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from txn_platform.rows import duplicates
from txn_platform.rows.duplicates import RepeatedIds, repeated_ids
from txn_platform_tests.support.served_source import in_batches

_START = 0x019A_0B1C_2D3E


def _uuid7(age: int, tail: int) -> str:
    return str(UUID(int=(_START + age << 80) + (0x7 << 76) + (0b10 << 62) + tail))


# Few times, some of them hours away, few ids of each, and text that is no id.
_SOME_IDS = st.one_of(
    st.builds(_uuid7, st.sampled_from([0, 1, 2, 60_000, 10**8]), st.integers(0, 3)),
    st.sampled_from("ab"),
)


@given(
    st.lists(_SOME_IDS, max_size=16),
    st.booleans(),
    st.integers(1, 5),
    st.sampled_from([0, 2, duplicates.FEW_OUT_OF_ORDER]),
)
def test_repeated_ids_are_found_across_batches(
    ids: list[str], in_order: bool, size: int, few: int
) -> None:
    if in_order:
        ids.sort()
    batch = pa.record_batch({"transaction_id": pa.array(ids, pa.string())})
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(duplicates, "FEW_OUT_OF_ORDER", few)
        found = repeated_ids(in_batches(batch, size))
    assert found["transaction_id"].to_list() == [text for text in ids if ids.count(text) > 1]


@given(st.lists(_SOME_IDS, max_size=16), st.booleans(), st.integers(1, 5))
def test_every_repeated_id_is_suspected(ids: list[str], in_order: bool, size: int) -> None:
    if in_order:
        ids.sort()
    assert _suspected(ids, size) or len(set(ids)) == len(ids)


@given(st.lists(st.integers(0, 1_000_000), unique=True), st.integers(1, 5))
def test_ids_in_order_of_time_are_not_suspected(ages: list[int], size: int) -> None:
    assert not _suspected([_uuid7(age, 0) for age in sorted(ages)], size)


def _suspected(ids: list[str], size: int) -> bool:
    repeated = RepeatedIds()
    for start in range(0, len(ids), size):
        repeated.add(pa.array(ids[start : start + size], pa.string()))
    return repeated.suspected
