"""Windows: hours of UTC, and what is said of keys that are none."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from txn_platform.errors import UserError
from txn_platform.windows import Window, iso


def test_a_key_names_its_hour() -> None:
    window = Window.of_partition("2026-11-01-14:00")
    assert window.start == datetime(2026, 11, 1, 14, tzinfo=UTC)
    assert window.end - window.start == timedelta(hours=1)
    assert window.partition_key == "2026-11-01-14:00"


@pytest.mark.parametrize(
    "key",
    ["", "2026-11-01", "2026-11-01-14:30", "yesterday", "2026-13-01-00:00", "1969-12-31-23:00"],
)
def test_what_is_no_hour_is_refused_with_an_example(key: str) -> None:
    with pytest.raises(UserError, match="write it as 2026-11-01-00:00"):
        Window.of_partition(key)


def test_before_the_first_is_refused() -> None:
    first = Window.of_partition("2026-01-01-00:00")
    assert first.require_from(first.start) is first
    with pytest.raises(UserError, match="before the first one, 2026-01-01-00:00: set TXN_FIRST"):
        Window.of_partition("2025-12-31-23:00").require_from(first.start)


def test_moments_are_written_in_utc() -> None:
    moment = datetime(2026, 11, 1, 2, 0, 0, 5, tzinfo=timezone(timedelta(hours=2)))
    assert iso(moment) == "2026-11-01T00:00:00.000005Z"
