"""Prefetched items come in order, one at a time, and errors are raised where they occur."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from txn_platform.arrow.prefetch import prefetch

if TYPE_CHECKING:
    from collections.abc import Iterator


def test_items_come_in_order_and_end() -> None:
    assert list(prefetch(iter(range(5)))) == [0, 1, 2, 3, 4]
    assert list(prefetch(iter(()))) == []


def test_the_next_item_is_made_while_one_is_worked_on_and_no_further() -> None:
    made = [threading.Event() for _ in range(4)]

    def items() -> Iterator[int]:
        for number, event in enumerate(made):
            event.set()
            yield number

    for number in prefetch(items()):
        assert all(event.wait(10) for event in made[: number + 2])
        assert not any(event.is_set() for event in made[number + 2 :])


def test_an_error_comes_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("the second")

    prefetched = prefetch(items())
    assert next(prefetched) == 1
    with pytest.raises(ValueError, match="the second"):
        next(prefetched)


def test_leaving_early_ends_the_thread() -> None:
    before = set(threading.enumerate())
    prefetched = prefetch(iter(range(100)))
    assert next(prefetched) == 0
    prefetched.close()
    assert set(threading.enumerate()) <= before
