"""Ctrl-C in a command that does one piece of work after another.

A thread receives SIGINT, because Dagster replaces the handlers of signals while it works.
"""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

_CTRL_C: Final = {signal.SIGINT}


class Interrupts:
    """Decides what Ctrl-C does: it waits for the end of a piece of work, or ends it at once.

    Attributes:
        stopping: whether a Ctrl-C has waited; the caller then begins no other piece.
    """

    def __init__(self, on_stopping: Callable[[], None]) -> None:
        """Args: on_stopping: called, in another thread, when a Ctrl-C begins to wait."""
        self.stopping = False
        self._on_stopping = on_stopping
        self._finishing = False
        self._ended = False

    @contextmanager
    def finishing(self) -> Generator[None]:
        """Let the first Ctrl-C in the block wait for its end."""
        self._finishing = True
        try:
            yield
        finally:
            self._finishing = False

    @contextmanager
    def received(self) -> Generator[None]:
        """Receive Ctrl-C in the block; SIGTERM interrupts it at once, as a second Ctrl-C does.

        Only the main thread can do this, and only where nobody else does or ignores Ctrl-C. Threads
        that it has started before would receive Ctrl-C as well.
        """
        ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if not ours or threading.current_thread() is not threading.main_thread():
            yield
            return
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _CTRL_C)
        on_term = signal.signal(signal.SIGTERM, signal.default_int_handler)
        receiver = threading.Thread(target=self._receive, name="ctrl-c", daemon=True)
        receiver.start()
        try:
            yield
        finally:
            self._ended = True
            if receiver.ident is not None:
                signal.pthread_kill(receiver.ident, signal.SIGINT)
            receiver.join()
            signal.signal(signal.SIGTERM, on_term)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _receive(self) -> None:
        main = threading.main_thread().ident
        while True:
            signal.sigwait(_CTRL_C)
            if self._ended or main is None:
                return
            if self._finishing and not self.stopping:
                self.stopping = True
                self._on_stopping()
            else:
                # Dagster handles it as it handles Ctrl-C, and it ends a wait of the main thread.
                signal.pthread_kill(main, signal.SIGTERM)
