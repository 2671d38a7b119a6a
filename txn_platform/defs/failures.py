"""Failures of steps that a user can fix: one message, in the run and on the console.

Errors of other kinds are bugs and keep their tracebacks.
"""

import sys
from collections.abc import Generator
from contextlib import contextmanager

import dagster as dg

from txn_platform.errors import UserError


def failure(message: str) -> dg.Failure:
    """A failure of the step that a retry would not fix.

    Dagster prints the stack of every failure, and has no switch for it. Here the stack says
    nothing that the message does not, so it is left out until `with_tracebacks` ends.
    """
    sys.tracebacklimit = 0
    return dg.Failure(description=message, allow_retries=False)


@contextmanager
def failing_for_users() -> Generator[None]:
    """Turn a `UserError` within into a failure of the step."""
    try:
        yield
    except UserError as error:
        raise failure(str(error)) from None


@contextmanager
def with_tracebacks() -> Generator[None]:
    """Restore tracebacks at the end of a run, also after an exception."""
    try:
        yield
    finally:
        if hasattr(sys, "tracebacklimit"):
            del sys.tracebacklimit
