"""Failures of steps that a user can fix: one message, in the run and on the console.

Errors of other kinds are bugs and keep their tracebacks, without a secret or a card number.
"""

import sys
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final, Protocol

import dagster as dg
from sqlalchemy.exc import DBAPIError

from txn_platform import runbook
from txn_platform.errors import UserError
from txn_platform.redaction import redacted
from txn_platform.runbook import Section
from txn_platform.settings import load_settings

_PASSING: Final = frozenset({Section.SOURCE_SILENT, Section.STORE_SILENT})
# Not given to the assets: Dagster would also retry bugs and interrupted steps.
_TRIES: Final = dg.RetryPolicy(
    max_retries=2, delay=15, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS
)
_RETRY_STEP_FAILURES: Final = "dagster/retry_on_asset_or_op_failure"
# The metadata of a failure: the sections of the runbook that it names.
_RUNBOOK: Final = "runbook"


def leave_out_tracebacks() -> None:
    """Print errors without their stacks, until `with_tracebacks` ends.

    Dagster prints the stack of every failure, and has no switch for it. Here the stack says
    nothing that the message does not.
    """
    sys.tracebacklimit = 0


def failure(message: str, *sections: str) -> dg.Failure:
    """A failure of the step that a retry would not fix; it is shown without its stack.

    Args:
        message: says what is wrong, and what to do.
        sections: the anchors of the runbook's sections on it.
    """
    leave_out_tracebacks()
    named = [runbook.place(section) for section in sections]
    return dg.Failure(
        description=f"{message} ({', '.join(named)})",
        metadata={_RUNBOOK: dg.MetadataValue.json(named)},
        allow_retries=False,
    )


def sections_of(metadata: Mapping[str, Any]) -> list[str]:
    """The anchors of the sections that a failure names, by its metadata; none if it is not ours."""
    named = metadata.get(_RUNBOOK)
    if not isinstance(named, dg.JsonMetadataValue) or not isinstance(named.value, list):
        return []
    return [str(place).rpartition("#")[2] for place in named.value]


class Step(Protocol):
    """The part of a step's context that decides on another try."""

    @property
    def previous_attempt_count(self) -> int:
        """How often the step was tried before."""
        ...

    @property
    def dagster_run(self) -> dg.DagsterRun:
        """Its run."""
        ...


@contextmanager
def failing_for_users(step: Step | None = None) -> Generator[None]:
    """Turn a `UserError` within into a failure of the step, or into another try of it.

    Faults of the source, the store and Dagster's database often pass: a step of a run that a
    launcher started is tried three times. In a terminal somebody waits, and sees the error at once.

    Other errors are redacted: libraries put values into their messages, which Dagster keeps.

    Args:
        step: that may be tried again; None for never.
    """
    try:
        yield
    except UserError as error:
        failed = failure(str(error), error.section)
        if error.section in _PASSING:
            _try_again(step, failed)
        raise failed from None
    except dg.Failure:
        raise
    except Exception as error:
        told = error
        if any(_shown(each) != str(each) for each in _chain(error)):
            told = RuntimeError(f"{type(error).__name__}: {_shown(error)}")
        if _is_of_database(error):
            _try_again(step, told)
        if told is error:
            raise
        raise told.with_traceback(error.__traceback__) from None


@dg.failure_hook
def retry_after_database_faults(context: dg.HookContext) -> None:
    """Let the run be retried if Dagster's database was away, be it while a step was recorded.

    Run retries leave out failed steps otherwise.
    """
    # Also when it is false: a retry has the tags of the run that it replaces.
    is_fault = _is_of_database(context.op_exception)
    context.instance.add_run_tags(context.run_id, {_RETRY_STEP_FAILURES: str(is_fault).lower()})


def _is_of_database(error: BaseException | None) -> bool:
    # dagster_postgres has an error of its own for a database that it cannot reach.
    return any(isinstance(each, DBAPIError) for each in _chain(error))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that led to it, which Dagster keeps too."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _shown(error: BaseException) -> str:
    """An error's message without secrets of the settings, addresses and card numbers."""
    text = str(error)
    with suppress(UserError):
        for secret in load_settings().secrets():
            text = text.replace(secret, "…")
    return redacted(text)


def _try_again(step: Step | None, error: Exception) -> None:
    """Raise a request to try a step again, if tries are left."""
    if step is None or step.dagster_run.remote_job_origin is None:
        return
    tried = step.previous_attempt_count
    if tried < _TRIES.max_retries:
        pause = float(_TRIES.calculate_delay(tried + 1))
        raise dg.RetryRequested(_TRIES.max_retries, pause) from error


@contextmanager
def with_tracebacks() -> Generator[None]:
    """Restore tracebacks at the end of a run, also after an exception."""
    try:
        yield
    finally:
        if hasattr(sys, "tracebacklimit"):
            del sys.tracebacklimit
