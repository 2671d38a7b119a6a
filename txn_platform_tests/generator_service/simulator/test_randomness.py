"""Draws follow published algorithms, so no library can change them."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from generator_service.simulator.randomness import (
    GOLDEN,
    NORMAL,
    below,
    bits,
    exponential,
    hashed,
    mix,
    mix_one,
    normal_distribution,
    normal_quantile,
    poisson,
    table_of_shares,
    uniform,
)

HASHES = st.integers(0, 2**64 - 1)


def test_mix_is_splitmix64():
    # The first outputs of splitmix64 seeded with zero, as its authors' code prints them.
    states = np.array([0, GOLDEN, 2 * GOLDEN % 2**64], dtype=np.uint64)
    assert [f"{value:016x}" for value in mix(states).tolist()] == [
        "e220a8397b1dcdaf",
        "6e789e6aa1b965f4",
        "06c45d188009454f",
    ]


@given(st.lists(HASHES, min_size=1, max_size=20))
def test_one_value_is_mixed_like_many(hashes: list[int]):
    assert mix(np.array(hashes, dtype=np.uint64)).tolist() == [mix_one(value) for value in hashes]


def test_a_hash_depends_on_every_counter_and_on_their_order():
    one, two = np.array([1]), np.array([2])
    found = {
        int(drawn[0])
        for drawn in (
            hashed(5, one, two),
            hashed(5, two, one),
            hashed(6, one, two),
            hashed(5, one),
        )
    }
    assert len(found) == 4


@given(HASHES, st.integers(1, 2**31))
def test_a_scaled_hash_stays_below_its_bound(value: int, bound: int):
    assert 0 <= int(below(np.array([value], dtype=np.uint64), bound)[0]) < bound


@given(HASHES, st.integers(0, 40), st.integers(1, 20))
def test_bits_are_cut_out_of_a_hash(value: int, shift: int, width: int):
    found = int(bits(np.array([value], dtype=np.uint64), shift, width)[0])
    assert found == (value >> shift) % 2**width


@given(HASHES)
def test_uniforms_never_reach_their_ends(value: int):
    assert 0.0 < float(uniform(np.array([value], dtype=np.uint64))[0]) < 1.0


@given(st.floats(1e-300, 1.0 - 1e-15))
def test_normal_quantiles_are_those_of_the_standard_library(probability: float):
    found = float(normal_quantile(np.array([probability]))[0])
    assert found == pytest.approx(NormalDist().inv_cdf(probability), rel=1e-9, abs=1e-12)


def test_the_normal_table_is_standard():
    assert abs(NORMAL.mean()) < 1e-12
    assert NORMAL.std() == pytest.approx(1.0, abs=2e-3)
    assert normal_distribution(np.array([0.0, 1.96])) == pytest.approx([0.5, 0.975], abs=1e-4)


@given(st.floats(-23.9, 39.9))
def test_the_exponential_is_exact_to_its_step(value: float):
    assert float(exponential(np.array([value]))[0]) == pytest.approx(math.exp(value), rel=2e-5)


@given(st.floats(0.0, 80.0), st.floats(1e-9, 1.0 - 1e-9))
def test_poisson_counts_are_quantiles(mean: float, probability: float):
    count = int(poisson(np.array([probability]), np.array([mean]))[0])

    def upto(last: int) -> float:
        terms = (
            math.exp(n * math.log(mean) - mean - math.lgamma(n + 1)) if mean else float(n == 0)
            for n in range(last + 1)
        )
        return math.fsum(terms)

    # Below a mean of 24 the count is exact; above, it may be the neighbour where the two meet.
    slack = 1e-9 if mean <= 24 else 0.02
    assert upto(count) >= probability - slack
    assert upto(count - 1) <= probability + slack


@pytest.mark.parametrize("mean", [0.01, 3.0, 24.0, 25.0, 600.0, 500_000.0])
def test_poisson_counts_have_the_mean_and_the_variance_of_their_law(mean: float):
    probabilities = (np.arange(200_000) + 0.5) / 200_000
    counts = poisson(probabilities, np.full(200_000, mean))
    assert counts.mean() == pytest.approx(mean, rel=2e-3)
    assert counts.var() == pytest.approx(mean, rel=5e-3)


def test_a_table_gives_each_code_its_share():
    table = table_of_shares(np.array([1.0, 0.0, 3.0]), 8)
    assert np.bincount(table, minlength=3).tolist() == [64, 0, 192]
