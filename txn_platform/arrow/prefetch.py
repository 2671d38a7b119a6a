"""Prefetching: a thread makes the next item while the caller uses the current one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, cast

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

_END: Final = object()


def prefetch[T](items: Iterator[T]) -> Generator[T]:
    """The same items; each is made while the one before it is in use.

    Exceptions of the iterator are raised here. A caller that stops early waits for the item that is
    being made.
    """
    with ThreadPoolExecutor(1, "prefetch") as pool:
        following = pool.submit(next, items, _END)
        while (item := following.result()) is not _END:
            following = pool.submit(next, items, _END)
            yield cast("T", item)
