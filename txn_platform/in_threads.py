"""The same question about many things, asked in threads, with progress."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def in_threads[T, R](
    ask: Callable[[T], R], things: Iterable[T], threads: int, on_progress: Callable[[int], None]
) -> list[R]:
    """The answers for all things, in their order.

    The first error ends it: questions that have not begun are not asked.

    Args:
        ask: called in a thread with each thing; mostly waits.
        things: to ask about.
        threads: how many questions are asked at once.
        on_progress: called with the number of things that are done.
    """
    answers: list[R] = []
    pool = ThreadPoolExecutor(threads)
    try:
        for answer in pool.map(ask, things):
            answers.append(answer)
            on_progress(len(answers))
    finally:
        pool.shutdown(cancel_futures=True)
    return answers
