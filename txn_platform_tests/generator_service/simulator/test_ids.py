"""Ids are UUIDv7, unique, in order, and contain the position of their row."""

from __future__ import annotations

import itertools
import random
import uuid

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from generator_service.simulator import Configuration, Simulator, Window, ids
from generator_service.simulator.randomness import mix_one
from txn_platform_tests.generator_service.simulator.conftest import HOUR, NOON, SECOND, rows_of


def test_ids_are_version_7_and_hold_the_time_of_their_row(small: Simulator):
    rows = rows_of(small, Window(NOON, NOON + 60 * SECOND))
    for text, at in zip(
        rows["transaction_id"].to_pylist(),
        rows["transaction_at"].cast(pa.int64()).to_pylist(),
        strict=True,
    ):
        number = uuid.UUID(text)
        assert number.version == 7
        assert number.variant == uuid.RFC_4122
        assert number.int >> 80 == at // 1000


@pytest.mark.parametrize("tps", [0.01, 2.0, 8_750.0, 100_000.0])
def test_rows_sorted_by_time_and_id_are_in_the_order_they_are_made(tps: float):
    busy = Simulator(Configuration(tps=tps, customers=100, merchants=100))
    length = max(int(20_000 / tps), 1) * SECOND // 10
    rows = rows_of(busy, Window(NOON - length, NOON))
    keys = list(
        zip(
            rows["transaction_at"].cast(pa.int64()).to_pylist(),
            rows["transaction_id"].to_pylist(),
            strict=True,
        )
    )
    assert len(keys) > 10
    assert all(one < other for one, other in itertools.pairwise(keys))
    assert sorted(text for _, text in keys) == [text for _, text in keys]


def test_a_transaction_is_found_by_its_id_alone(source: Simulator):
    rows = rows_of(source, Window(NOON, NOON + 12 * HOUR))
    for at in random.Random(1).sample(range(rows.num_rows), 20):  # noqa: S311
        row = rows.slice(at, 1).to_pylist()
        found = source.transaction(row[0]["transaction_id"])
        assert found is not None
        assert found.to_pylist() == row


def test_an_id_with_one_changed_character_is_not_found(small: Simulator):
    real = rows_of(small, Window(NOON, NOON + 60 * SECOND))["transaction_id"][3].as_py()
    for at, digit in enumerate(real):
        other = real[:at] + ("0" if digit != "0" else "1") + real[at + 1 :]
        assert small.transaction(other) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no id",
        "01a19467e8067dd494b00b8c26632765",
        "01A19467-E806-7DD4-94B0-0B8C26632765",
        "00000000-0000-7000-8000-000000000000",
        "ffffffff-ffff-7fff-bfff-ffffffffffff",
        "01a19467-e806-4dd4-94b0-0b8c26632765",
        "01a19467-e806-7dd4-94b0-0b8c2663276é",
    ],
)
def test_another_text_is_not_found(small: Simulator, text: str):
    assert small.transaction(text) is None


@given(st.lists(st.uuids().map(str), max_size=20))
def test_the_digest_is_the_sum_of_the_ids_hashes(texts: list[str]):
    expected = 0
    for text in texts:
        state = mix_one(36)
        padded = text.encode().ljust(40, b"\0")
        for at in range(0, 40, 8):
            state = mix_one(state ^ int.from_bytes(padded[at : at + 8], "little"))
        expected += state
    rows = np.frombuffer("".join(texts).encode(), dtype=np.uint8).reshape(-1, ids.WIDTH)
    assert ids.digest(rows) == expected % 2**64
