"""Several processes that serve one socket: their start, their replacement and their end.

They are forked from a process that has the population in memory, which they share until one of them
writes to it. That process has no threads of its own, and serves nothing.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import sys
import threading
import time
import traceback
import warnings
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

# Seconds between the request to end and the end.
_GRACE: Final = 2.0
# Seconds before a process is replaced: one that fails at its start must not take all the CPU.
_PAUSE: Final = 1.0
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)


def share_memory() -> None:
    """Keep the garbage collector from what this process has made, before others are forked from it.

    It writes into each object that it looks at, so that every process would get a copy. The figures
    are in docs/decisions/0015-turns-of-the-generator.md.
    """
    gc.collect()
    gc.freeze()


class Workers:
    """Processes that do the same work until this one is asked to end.

    Args:
        work: run in each process, with a function to call when it is ready. A process that leaves
            it has ended. It must end on SIGTERM.
        on_ready: called once, when all processes are ready.
        on_end: called with the id of each process that has ended by itself.
        on_orphaned: called in each process when this one has been killed.
    """

    def __init__(
        self,
        work: Callable[[Callable[[], None]], None],
        *,
        on_ready: Callable[[], None],
        on_end: Callable[[int], None],
        on_orphaned: Callable[[], None],
    ) -> None:
        self._work = work
        self._on_ready = on_ready
        self._on_end = on_end
        self._on_orphaned = on_orphaned
        self._processes: set[int] = set()
        # When the processes begin that replace others.
        self._due: list[float] = []
        # This process never writes, and its end closes the pipe.
        self._alive, self._owned = os.pipe()
        self._ready, self._told = os.pipe()

    def run(self, count: int, *, until_stdin_closes: bool = False) -> int:
        """Run so many processes until a signal, or the end of standard input.

        Returns:
            The exit code: 1 when a process has ended before all were ready, else 0.
        """
        wake, waker = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(waker, False)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        for number in _SIGNALS:
            signal.signal(number, _only_wake_up)
        for _ in range(count):
            self._fork()
        owners = [sys.stdin.fileno()] if until_stdin_closes else []
        not_ready = count
        while True:
            pause = max(0, min(self._due) - time.monotonic()) if self._due else None
            readable, _, _ = select.select([wake, self._ready, *owners], [], [], pause)
            if wake in readable and set(os.read(wake, 1024)) != {signal.SIGCHLD}:
                break
            if self._ready in readable:
                told = len(os.read(self._ready, 1024))
                if not_ready > 0 and (not_ready := not_ready - told) <= 0:
                    self._on_ready()
            if any(not os.read(owner, 65_536) for owner in owners if owner in readable):
                break
            ended = self._reap()
            for pid in ended:
                self._on_end(pid)
                self._due.append(time.monotonic() + _PAUSE)
            if ended and not_ready > 0:
                self._end()
                return 1
            self._replace()
        self._end()
        return 0

    def _fork(self) -> None:
        with warnings.catch_warnings():
            # The threads here are those of allocators and of BLAS, which expect it.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid:
            self._processes.add(pid)
            return
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            os.close(self._owned)
            threading.Thread(target=self._end_with_owner, daemon=True).start()
            self._work(lambda: _tell(self._told))
            code = 0
        except Exception:  # the process reports what this one cannot see
            traceback.print_exc()
        finally:
            # Without the handlers of this process's end.
            os._exit(code)

    def _end_with_owner(self) -> None:
        os.read(self._alive, 1)
        self._on_orphaned()
        os.kill(os.getpid(), signal.SIGTERM)

    def _reap(self) -> list[int]:
        """Forget the processes that have ended, and return their ids."""
        ended = [pid for pid in self._processes if os.waitpid(pid, os.WNOHANG)[0]]
        self._processes.difference_update(ended)
        return ended

    def _replace(self) -> None:
        now = time.monotonic()
        for due in [due for due in self._due if due <= now]:
            self._due.remove(due)
            self._fork()

    def _end(self) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in self._processes:
                # Not reaped yet: the number is still that of the process.
                os.kill(pid, number)
            deadline = time.monotonic() + _GRACE
            while self._processes and time.monotonic() < deadline:
                self._reap()
                time.sleep(0.01)


def _tell(descriptor: int) -> None:
    os.write(descriptor, b".")


def _only_wake_up(_number: int, _frame: object) -> None:
    """Do nothing: only signals with a Python handler are written to the wake-up pipe."""
