"""Randomness without state: each draw is a hash of (key, cell, index, stream).

Nothing in this module has state, so any draw can be made alone, in any order and on any thread.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
import numpy.typing as npt

type Hashes = npt.NDArray[np.uint64]
type Integers = npt.NDArray[np.int64]
type Floats = npt.NDArray[np.float64]
type Flags = npt.NDArray[np.bool_]

GOLDEN = 0x9E3779B97F4A7C15
_MULTIPLIER_1 = 0xBF58476D1CE4E5B9
_MULTIPLIER_2 = 0x94D049BB133111EB
_MASK = (1 << 64) - 1


def mix(values: Hashes) -> Hashes:
    """Hash each value in place and return the array: one step of splitmix64.

    Source: Steele, Lea and Flood, Fast splittable pseudorandom number generators, 2014.
    """
    values += GOLDEN
    values ^= values >> 30
    values *= _MULTIPLIER_1
    values ^= values >> 27
    values *= _MULTIPLIER_2
    values ^= values >> 31
    return values


def mix_one(value: int) -> int:
    """Hash one 64-bit value, as `mix` does."""
    value = (value + GOLDEN) & _MASK
    value = ((value ^ (value >> 30)) * _MULTIPLIER_1) & _MASK
    value = ((value ^ (value >> 27)) * _MULTIPLIER_2) & _MASK
    return value ^ (value >> 31)


def key_of(*parts: object) -> int:
    """Return a 64-bit key for a named purpose: a digest of the parts' texts."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def hashed(key: int, *counters: npt.NDArray[np.int64 | np.int32 | np.uint64] | int) -> Hashes:
    """Hash a key with one or more counters, each an array (all of one shape) or an int."""
    state: Hashes | None = None
    for counter in counters:
        value = (
            np.uint64(counter & _MASK)
            if isinstance(counter, int)
            else counter.astype(np.uint64, copy=False)
        )
        state = mix(np.atleast_1d(value ^ (np.uint64(key) if state is None else state)))
    if state is None:
        raise ValueError("A hash needs at least one counter.")
    return state


def uniform(hashes: Hashes) -> Floats:
    """Turn hashes into uniforms in (0, 1), 52 bits each; with 53 some would round up to 1."""
    return ((hashes >> 12).astype(np.float64) + 0.5) * 2.0**-52


def bits(hashes: Hashes, shift: int, width: int) -> Integers:
    """Cut `width` bits out of each hash, `shift` from the right, as integers for indexing."""
    return ((hashes >> shift) & ((1 << width) - 1)).view(np.int64)


def below(hashes: Hashes, bound: npt.NDArray[np.integer] | int) -> Integers:
    """Scale the upper 32 bits of each hash to an integer in [0, bound); bound <= 2**31."""
    scale = np.uint64(bound) if isinstance(bound, int) else bound.astype(np.uint64)
    return (((hashes >> 32) * scale) >> 32).view(np.int64)


# Wichura's algorithm AS 241 (PPND16): numerator and denominator coefficients, lowest power first.
_CENTRE = (
    (
        3.3871328727963666080,
        1.3314166789178437745e2,
        1.9715909503065514427e3,
        1.3731693765509461125e4,
        4.5921953931549871457e4,
        6.7265770927008700853e4,
        3.3430575583588128105e4,
        2.5090809287301226727e3,
    ),
    (
        1.0,
        4.2313330701600911252e1,
        6.8718700749205790830e2,
        5.3941960214247511077e3,
        2.1213794301586595867e4,
        3.9307895800092710610e4,
        2.8729085735721942674e4,
        5.2264952788528545610e3,
    ),
)
_MIDDLE = (
    (
        1.42343711074968357734,
        4.63033784615654529590,
        5.76949722146069140550,
        3.64784832476320460504,
        1.27045825245236838258,
        2.41780725177450611770e-1,
        2.27238449892691845833e-2,
        7.74545014278341407640e-4,
    ),
    (
        1.0,
        2.05319162663775882187,
        1.67638483018380384940,
        6.89767334985100004550e-1,
        1.48103976427480074590e-1,
        1.51986665636164571966e-2,
        5.47593808499534494600e-4,
        1.05075007164441684324e-9,
    ),
)
_FAR = (
    (
        6.65790464350110377720,
        5.46378491116411436990,
        1.78482653991729133580,
        2.96560571828504891230e-1,
        2.65321895265761230930e-2,
        1.24266094738807843860e-3,
        2.71155556874348757815e-5,
        2.01033439929228813265e-7,
    ),
    (
        1.0,
        5.99832206555887937690e-1,
        1.36929880922735805310e-1,
        1.48753612908506148525e-2,
        7.86869131145613259100e-4,
        1.84631831751005468180e-5,
        1.42151175831644588870e-7,
        2.04426310338993978564e-15,
    ),
)


def _ratio(polynomials: tuple[tuple[float, ...], tuple[float, ...]], at: Floats) -> Floats:
    above, under = (np.zeros_like(at), np.zeros_like(at))
    for high, low in zip(reversed(polynomials[0]), reversed(polynomials[1]), strict=True):
        above = above * at + high
        under = under * at + low
    return above / under


def normal_quantile(probabilities: Floats) -> Floats:
    """Return the standard normal quantiles of probabilities in (0, 1).

    Source: Wichura, Algorithm AS 241, Applied Statistics 37, 1988; relative error below 1e-15.
    """
    centred = probabilities - 0.5
    quantiles = _ratio(_CENTRE, 0.180625 - centred * centred) * centred
    tail = np.flatnonzero(np.abs(centred) > 0.425)
    if tail.size:
        side = centred[tail]
        depth = np.sqrt(-np.log(np.minimum(probabilities[tail], 1.0 - probabilities[tail])))
        value = np.where(depth <= 5.0, _ratio(_MIDDLE, depth - 1.6), _ratio(_FAR, depth - 5.0))
        quantiles[tail] = np.copysign(value, side)
    return quantiles


def normal_distribution(values: Floats) -> Floats:
    """Return the standard normal distribution function at each value."""
    return np.array([0.5 * math.erfc(-value / math.sqrt(2.0)) for value in values.tolist()])


NORMAL_BITS = 12
NORMAL: Floats = normal_quantile((np.arange(1 << NORMAL_BITS) + 0.5) / (1 << NORMAL_BITS))
"""Standard normal quantiles at the midpoints of 4,096 equal parts: a draw is one look-up."""

# exp(x) = COARSE[x in steps of 1/8] * FINE[the rest in steps of 1/65536]. Products of table values
# round in the same way everywhere, which vectorized exp() does not guarantee.
_EXP_LOW = -24.0
_COARSE: Floats = np.array([math.exp(_EXP_LOW + step / 8.0) for step in range(8 * 64)])
_FINE: Floats = np.array([math.exp(step / 65536.0) for step in range(8192)])


def exponential(values: Floats) -> Floats:
    """Return e to each value, in steps of 1/65536; values lie in [-24, 40)."""
    steps = ((values - _EXP_LOW) * 65536.0).astype(np.int64)
    return _COARSE[steps >> 13] * _FINE[steps & 8191]


_SMALL_MEAN = 24.0


def poisson(probabilities: Floats, means: Floats) -> Integers:
    """Return Poisson quantiles: at least 0, one for each (probability, mean) pair.

    Exact by summing the probabilities up to a mean of 24; above it by the Cornish-Fisher
    expansion to the fourth cumulant, whose error is then under a hundredth of a count.
    """
    z = normal_quantile(probabilities)
    root = np.sqrt(np.maximum(means, 1.0))
    cube = z * z * z
    expanded = (
        means
        + root * z
        + (z * z - 1.0) / 6.0
        + ((cube - 3.0 * z) / 24.0 - (2.0 * cube - 5.0 * z) / 36.0) / root
    )
    counts = np.maximum(np.rint(expanded), 0.0).astype(np.int64)
    small = np.flatnonzero(means <= _SMALL_MEAN)
    if small.size:
        mean = means[small]
        term = np.exp(-mean)
        rest = probabilities[small] - term
        exact = np.zeros(small.size, dtype=np.int64)
        step = 0
        while (more := (rest > 0.0) & (term > 0.0)).any():
            step += 1
            exact += more
            term *= mean / step
            rest -= term
        counts[small] = exact
    return counts


def table_of_shares(shares: Floats, width: int) -> npt.NDArray[np.uint8]:
    """Return a table of 2**width codes in which code k fills its share of the entries.

    Shares need not sum to one. A uniform integer of `width` bits picks a code by one look-up.
    """
    size = 1 << width
    edges = np.cumsum(shares) / shares.sum()
    midpoints = (np.arange(size) + 0.5) / size
    return np.minimum(np.searchsorted(edges, midpoints), len(shares) - 1).astype(np.uint8)
