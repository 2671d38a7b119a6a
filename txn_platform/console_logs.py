"""The platform's log records on the console of a command."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, override

if TYPE_CHECKING:
    from collections.abc import Generator

    from rich.console import Console


class ConsoleHandler(logging.Handler):
    """Shows warnings on a console, above its status line."""

    def __init__(self, console: Console) -> None:
        """Args: console: the console of the status line."""
        super().__init__(logging.WARNING)
        self._console = console

    @override
    def emit(self, record: logging.LogRecord) -> None:
        """Show a record."""
        text = f"{record.levelname}: {record.getMessage()}"
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def handling_logs(handler: logging.Handler) -> Generator[None]:
    """Send the platform's log records to a handler within the block."""
    logger = logging.getLogger(__package__)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
