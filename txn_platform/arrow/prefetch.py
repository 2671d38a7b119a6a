"""Work in steps that overlap: while one item is worked on, the next is made in a thread."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, cast

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

_END: Final = object()


def prefetch[T](items: Iterator[T]) -> Generator[T]:
    """The same items; one is made while the one before it is used.

    What the iterator raises is raised here; one that is left early ends with the item it is at.
    """
    with ThreadPoolExecutor(1, "prefetch") as pool:
        following = pool.submit(next, items, _END)
        while (item := following.result()) is not _END:
            following = pool.submit(next, items, _END)
            yield cast("T", item)
