"""Standard output that is closed, has no reader or is on a full disk."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Generator


def discard() -> None:
    """Discard what is still buffered: Python would write it at exit, and fail again."""
    with suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def require_open() -> None:
    """Raise click.ClickException when standard output is closed."""
    if sys.stdout is None:  # pyright: ignore[reportUnnecessaryComparison] - when it is closed
        raise click.ClickException("standard output is closed: open it, or use /dev/null")


@contextmanager
def writing() -> Generator[None]:
    """Turn a failed write within the block into one message.

    When the reader of a pipe has closed it, the process ends with exit code 1 and no message.

    Raises:
        click.ClickException: standard output cannot be written.
    """
    try:
        yield
    except OSError as error:
        discard()
        if isinstance(error, BrokenPipeError):
            sys.exit(1)
        raise click.ClickException(f"standard output cannot be written: {error.strerror}") from None
