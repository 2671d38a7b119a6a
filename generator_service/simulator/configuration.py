"""The configuration, windows and control totals: plain values with their validation.

Nothing here draws a number or reads the environment.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from decimal import Decimal

VERSION = "1"
"""Version of the generator: it changes whenever any byte of the output changes."""

MINUTE = 60_000_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR
"""Microseconds."""

FIRST_MOMENT = 365 * DAY
"""1971-01-01T00:00:00Z: rows look back some weeks, and ids count from 1970."""

LAST_MOMENT = 253_370_764_800_000_000
"""9999-01-01T00:00:00Z: readers of the rows cannot represent later times."""

type Preset = Literal["realistic", "handbook"]
PRESETS: tuple[str, ...] = get_args(Preset.__value__)


@dataclass(frozen=True)
class Configuration:
    """The configuration of a simulator; equal configurations make equal bytes.

    tps is the mean number of transactions a second over a year. fraud_rate is the share of fraud
    among the rows and difficulty, 0 to 1, how much fraud resembles its victim's habits; the
    preset `handbook` uses neither, because its formulas fix both. Raises ValueError when a value
    cannot be used.
    """

    seed: int = 0
    tps: float = 10.0
    customers: int = 200_000
    merchants: int = 10_000
    locale: str = "en_US"
    preset: str = "realistic"
    fraud_rate: float = 0.002
    difficulty: float = 0.5

    def __post_init__(self) -> None:
        """Raise ValueError for values that cannot be simulated."""
        limits = (
            ("seed", self.seed, 0, 2**63 - 1),
            ("tps", self.tps, 0.0001, 100_000.0),
            ("customers", self.customers, 10, 20_000_000),
            ("merchants", self.merchants, 100, 1_000_000),
            ("fraud_rate", self.fraud_rate, 0.0, 0.1),
            ("difficulty", self.difficulty, 0.0, 1.0),
        )
        for name, value, low, high in limits:
            # Comparisons with NaN are false: the condition must be the valid range.
            if not low <= value <= high:
                raise ValueError(f"{name} must be between {low} and {high}, not {value}.")
        if self.preset not in PRESETS:
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}, not {self.preset!r}.")

    def digest(self, *more: str) -> str:
        """Return 16 hex digits over the generator's version, this configuration and `more`."""
        # 10 and 10.0 are the same rate: their hashes must be equal.
        numbers = {"tps": float(self.tps), "fraud_rate": float(self.fraud_rate)}
        values = {**asdict(self), **numbers, "difficulty": float(self.difficulty)}
        text = json.dumps([VERSION, values, *more], sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


@dataclass(frozen=True)
class Window:
    """A half-open interval of time, [start, end), in microseconds since 1970-01-01T00:00Z."""

    start: int
    end: int

    def __post_init__(self) -> None:
        """Raise ValueError for a window that is empty, backwards or out of range."""
        if not self.start < self.end:
            raise ValueError(
                f"A window's start ({self.start}) must be before its end ({self.end})."
            )
        if self.start < FIRST_MOMENT or self.end > LAST_MOMENT:
            raise ValueError(
                f"A window lies between 1971-01-01 and 9999-01-01 ({FIRST_MOMENT} and "
                f"{LAST_MOMENT} microseconds), not from {self.start} to {self.end}."
            )


@dataclass(frozen=True)
class ControlTotals:
    """The control totals of a window.

    amount_by_type has the types that occur, sorted by name, at scale 2. ids_digest is the sum of
    the hashes of the ids (see `ids.digest`), so the digests of parts add up to that of the whole.
    """

    rows: int
    amount_by_type: dict[str, Decimal]
    ids_digest: str
