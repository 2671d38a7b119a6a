"""How many answers are computed at once, who waits, and when a computation ends.

Large answers hold memory until they are sent, so their turn lasts until then. Small ones have turns
of their own, and never wait for large ones.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import time
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING

import anyio
import pyarrow as pa

from generator_service.models import RequestError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

SMALL_ROWS = 2_000
"""The most rows of a small answer: about a megabyte, and some hundredths of a second."""

_QUEUED_SMALL = 64
_WAIT_SECONDS = 30
_RETRY_SECONDS = 5
_IDLE_SECONDS = 1
_M_ARENA_MAX = -8


class Stopped(Exception):  # noqa: N818 - it is not an error
    """The client has left, or its time is over; unwinds a computation."""


class Computation:
    """The computation of one answer, in any number of threads.

    Args:
        seconds: from now until it must have ended.
    """

    def __init__(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds
        self._ended = False

    def checkpoint(self) -> None:
        """Raise Stopped when the computation has no more use."""
        if self._ended or time.monotonic() > self._deadline:
            raise Stopped

    def end(self) -> None:
        """Let the next checkpoint of each thread raise Stopped."""
        self._ended = True


class Computations:
    """Gives turns to the computations of a service.

    Args:
        at_once: how many large answers have their turn at once, and how many small ones.
        queued: how many large ones may wait.
        seconds: an answer may take, from its request to its last byte.
    """

    def __init__(self, at_once: int, queued: int, seconds: float) -> None:
        self.seconds = seconds
        self._large = _Lane(at_once, queued)
        self._small = _Lane(at_once, _QUEUED_SMALL)
        self._release: asyncio.TimerHandle | None = None

    @property
    def running(self) -> int:
        """How many computations have their turn."""
        return self._large.running + self._small.running

    @property
    def queued(self) -> int:
        """How many computations wait for their turn."""
        return self._large.queued + self._small.queued

    @asynccontextmanager
    async def turn(self, rows: int) -> AsyncGenerator[None]:
        """Wait for the turn of a computation of so many rows; the block is the turn.

        Raises:
            RequestError: too many wait already, or the turn does not come in time (503).
        """
        if rows <= SMALL_ROWS:
            async with self._small.turn():
                yield
            return
        if self._release is not None:
            self._release.cancel()
        try:
            async with self._large.turn():
                yield
        finally:
            if not self._large.running:
                loop = asyncio.get_running_loop()
                self._release = loop.call_later(
                    _IDLE_SECONDS, loop.run_in_executor, None, release_memory
                )


def keep_little_memory() -> None:
    """Let the allocators return freed memory to the system, for the whole process.

    By default glibc gives threads arenas of their own, and Arrow's allocator keeps what is freed in
    another thread. The figures are in docs/decisions/0015-turns-of-the-generator.md.
    """
    pa.set_memory_pool(pa.system_memory_pool())
    _ask_glibc("mallopt", _M_ARENA_MAX, 2)


def release_memory() -> None:
    """Return memory to the system that large answers have used and the allocators keep."""
    gc.collect()
    pa.default_memory_pool().release_unused()
    _ask_glibc("malloc_trim", 0)


def _ask_glibc(function: str, *arguments: int) -> None:
    """Call a function of the C library, if it has it, as glibc does."""
    if call := getattr(ctypes.CDLL(None), function, None):
        call(*arguments)


class _Lane:
    def __init__(self, at_once: int, queued: int) -> None:
        self._limiter = anyio.CapacityLimiter(at_once)
        self._most_queued = queued

    @property
    def running(self) -> int:
        return self._limiter.borrowed_tokens

    @property
    def queued(self) -> int:
        return self._limiter.statistics().tasks_waiting

    @asynccontextmanager
    async def turn(self) -> AsyncGenerator[None]:
        if self._limiter.available_tokens < 1 and self.queued >= self._most_queued:
            raise busy(f"it computes other answers, and {self.queued} requests wait already")
        # Each turn borrows for itself: a task may have turns of several lanes.
        borrower = object()
        try:
            with anyio.fail_after(_WAIT_SECONDS):
                await self._limiter.acquire_on_behalf_of(borrower)
        except TimeoutError:
            raise busy(f"for {_WAIT_SECONDS} s it has computed other answers") from None
        try:
            yield
        finally:
            self._limiter.release_on_behalf_of(borrower)


def busy(reason: str) -> RequestError:
    """Return the error of a request that the service has no capacity for now (503)."""
    return RequestError(
        HTTPStatus.SERVICE_UNAVAILABLE,
        detail=f"The service is busy: {reason}. Ask again in {_RETRY_SECONDS} s.",
        headers={"Retry-After": str(_RETRY_SECONDS)},
    )
