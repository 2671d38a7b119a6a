"""Small sources, and short ways to read them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from generator_service.simulator import SCHEMA, Configuration, Simulator, Window

if TYPE_CHECKING:
    from collections.abc import Callable

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR

SMALL = Configuration(seed=7, tps=2.0, customers=2_000, merchants=500)


def moment(*parts: int) -> int:
    return int(datetime(*parts, tzinfo=UTC).timestamp()) * SECOND  # type: ignore[arg-type]


NOON = moment(2026, 11, 5, 12)


def rows_of(simulator: Simulator, window: Window, **options: Any) -> pa.Table:
    return pa.Table.from_batches(list(simulator.batches(window, **options)), SCHEMA)


@pytest.fixture(scope="session")
def small() -> Simulator:
    return Simulator(SMALL)


@pytest.fixture(scope="session")
def handbook() -> Simulator:
    return Simulator(
        Configuration(seed=7, preset="handbook", tps=0.111, customers=5_000, merchants=10_000)
    )


@pytest.fixture(scope="session")
def calm() -> Simulator:
    """As many transactions a customer as at the default settings, of few customers."""
    return Simulator(Configuration(seed=3, tps=0.15, customers=3_000, merchants=2_000))


@pytest.fixture(scope="session")
def month(calm: Simulator) -> pa.Table:
    """A month of the calm source."""
    return rows_of(calm, Window(moment(2026, 11, 1), moment(2026, 12, 1)))


@pytest.fixture(scope="session", params=["realistic", "handbook"])
def source(request: pytest.FixtureRequest) -> Simulator:
    """Each preset in turn."""
    by_preset: dict[str, Callable[[], Simulator]] = {
        "realistic": lambda: request.getfixturevalue("small"),
        "handbook": lambda: request.getfixturevalue("handbook"),
    }
    return by_preset[request.param]()
