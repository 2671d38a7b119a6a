"""Which errors of a step are worth another try, and in which runs."""

from collections.abc import Iterator

import dagster as dg
import pytest
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.execution.api import execute_run
from dagster._core.remote_origin import (
    RegisteredCodeLocationOrigin,
    RemoteJobOrigin,
    RemoteRepositoryOrigin,
)
from dagster_postgres.utils import DagsterPostgresException
from sqlalchemy.exc import OperationalError

from txn_platform.defs import failures
from txn_platform.defs.automation import LAND_TRANSACTIONS
from txn_platform.defs.failures import failing_for_users, retry_after_database_faults
from txn_platform.errors import UserError
from txn_platform.runbook import Section

_PASSING = {Section.SOURCE_SILENT, Section.STORE_SILENT}
_DATABASE = OperationalError("SELECT 1", None, ConnectionError("the server closed it"))
_UNREACHABLE = DagsterPostgresException("too many retries for DB connection")
_UNREACHABLE.__cause__ = _DATABASE


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "_TRIES", dg.RetryPolicy(max_retries=2, delay=0.01))


@pytest.fixture(scope="module")
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as made:
        yield made


def _tries(
    instance: dg.DagsterInstance, errors: list[BaseException | None], *, launched: bool = True
) -> tuple[int, dg.DagsterRun]:
    """Run a step that raises these errors, one a try; return the tries and the run."""
    left = list(errors)

    @dg.op
    def step(context: dg.OpExecutionContext) -> None:
        with failing_for_users(context.get_step_execution_context()):
            error = left.pop(0)
            if error is not None:
                raise error

    @dg.job(executor_def=dg.in_process_executor, hooks={retry_after_database_faults})
    def job() -> None:
        step()

    location = RegisteredCodeLocationOrigin("somewhere")
    origin = RemoteJobOrigin(RemoteRepositoryOrigin(location, "repository"), "job")
    run = instance.create_run_for_job(job, remote_job_origin=origin if launched else None)
    execute_run(InMemoryJob(job), run, instance)
    ended = instance.get_run_by_id(run.run_id)
    assert ended is not None
    return len(errors) - len(left), ended


def _error_of(section: Section) -> UserError:
    return UserError("it did not work", section)


@pytest.mark.parametrize(
    "error",
    [*map(_error_of, sorted(_PASSING)), _DATABASE, _UNREACHABLE],
    ids=lambda error: type(error).__name__,
)
def test_a_fault_that_passes_is_tried_three_times(
    instance: dg.DagsterInstance, error: Exception
) -> None:
    tries, run = _tries(instance, [error, error, None])
    assert (tries, run.status) == (3, dg.DagsterRunStatus.SUCCESS)
    tries, run = _tries(instance, [error, error, error, None])
    assert (tries, run.status) == (3, dg.DagsterRunStatus.FAILURE)


@pytest.mark.parametrize(
    "error",
    [*(_error_of(section) for section in Section if section not in _PASSING), ZeroDivisionError()],
    ids=str,
)
def test_a_fault_of_data_or_settings_and_a_bug_are_not_tried_again(
    instance: dg.DagsterInstance, error: Exception
) -> None:
    tries, run = _tries(instance, [error, None])
    assert (tries, run.status) == (1, dg.DagsterRunStatus.FAILURE)


def test_a_run_in_a_terminal_says_at_once_what_is_wrong(instance: dg.DagsterInstance) -> None:
    tries, run = _tries(instance, [_error_of(Section.SOURCE_SILENT), None], launched=False)
    assert (tries, run.status) == (1, dg.DagsterRunStatus.FAILURE)


def test_an_interrupted_step_is_not_tried_again(instance: dg.DagsterInstance) -> None:
    tries, run = _tries(instance, [KeyboardInterrupt(), None])
    assert (tries, run.is_success) == (1, False)


@pytest.mark.parametrize(
    ("fault", "inherited", "retried"),
    [
        (_DATABASE, "false", "true"),
        (_UNREACHABLE, "false", "true"),
        (ValueError(), "true", "false"),
    ],
)
def test_a_run_whose_step_could_not_be_recorded_is_retried(
    fault: Exception, inherited: str, retried: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    @dg.op
    def step() -> int:
        return 1

    @dg.job(executor_def=dg.in_process_executor, hooks={retry_after_database_faults})
    def job() -> None:
        step()

    retries = {"enabled": True, "max_retries": 3, "retry_on_asset_or_op_failure": False}
    with dg.instance_for_test({"run_retries": retries}) as instance:
        store = instance.event_log_storage.store_event

        def store_or_fail(event: dg.EventLogEntry) -> object:
            if event.dagster_event and event.dagster_event.is_successful_output:
                raise fault
            return store(event)

        monkeypatch.setattr(instance.event_log_storage, "store_event", store_or_fail)
        # A retry has the tag of the run that it replaces.
        tags = {"dagster/retry_on_asset_or_op_failure": inherited}
        run = instance.create_run_for_job(job, tags=tags)
        execute_run(InMemoryJob(job), run, instance)
        ended = instance.get_run_by_id(run.run_id)
    assert ended is not None
    assert ended.status is dg.DagsterRunStatus.FAILURE
    assert ended.tags.get("dagster/will_retry", "false") == retried


def test_the_job_of_windows_is_retried_after_such_faults() -> None:
    assert retry_after_database_faults in LAND_TRANSACTIONS.hooks
