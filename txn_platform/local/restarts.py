"""Restarts of servers that end by themselves, as a service manager makes them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from txn_platform.local.processes import ManagedProcess, ProcessFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 30.0
# A server that has run this long in seconds has started well.
_WELL_STARTED: Final = 60.0


@dataclass
class _Server:
    process: ManagedProcess
    started_at: float
    pause: float = 0.0
    starts_at: float | None = None


class Restarts:
    """Starts managed processes again, at the addresses that they had.

    The first pause is a second. It doubles, up to half a minute, while a process ends within a
    minute of its start.

    Args:
        processes: that run.
        say: called with one line for each end.
    """

    def __init__(self, processes: Iterable[ManagedProcess], say: Callable[[str], None]) -> None:
        self._servers = [_Server(process, time.monotonic()) for process in processes]
        self._say = say

    def look(self) -> None:
        """Find out which processes have ended, and start those whose pause is over."""
        for server in self._servers:
            if server.starts_at is not None:
                if time.monotonic() >= server.starts_at:
                    self._start(server)
            elif (code := server.process.exit_code) is not None:
                self._plan(server, f"ended with exit code {code}")

    def _start(self, server: _Server) -> None:
        server.started_at, server.starts_at = time.monotonic(), None
        try:
            server.process.start_again()
        except ProcessFailed:
            self._plan(server, "could not be started")

    def _plan(self, server: _Server, what: str) -> None:
        now = time.monotonic()
        if now - server.started_at > _WELL_STARTED or not server.pause:
            server.pause = _FIRST_PAUSE
        else:
            server.pause = min(2 * server.pause, _LONGEST_PAUSE)
        server.starts_at = now + server.pause
        self._say(
            f"{server.process.name} {what}. It starts again in {server.pause:g} s."
            f" Its log: {server.process.log}"
        )
