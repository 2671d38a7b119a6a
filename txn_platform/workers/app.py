"""The Celery app of a worker: `celery -A txn_platform.workers.app worker`."""

# Celery has no type stubs.
# pyright: reportMissingTypeStubs=false
import re
from typing import TYPE_CHECKING, Final

from txn_platform.errors import UserError

if TYPE_CHECKING:
    from celery import Celery

_UNSET: Final = re.compile(r'environment variable "(\w+)" which is not set')


def worker_app() -> "Celery":
    """The app of the instance's run launcher, with the task that executes a run.

    Worker and launcher have the same settings: those of `dagster.yaml`.

    Raises:
        UserError: the instance cannot be opened, or does not launch its runs on workers.
    """
    from dagster import DagsterError, DagsterInstance
    from dagster_celery.launcher import CeleryRunLauncher
    from dagster_celery.tasks import create_execute_job_task
    from dagster_postgres.utils import DagsterPostgresException

    try:
        instance = DagsterInstance.get()
    except (DagsterError, DagsterPostgresException) as error:
        raise UserError(f"the Dagster instance cannot be opened: {_reason(error)}") from None
    with instance:
        launcher = instance.run_launcher
        if not isinstance(launcher, CeleryRunLauncher):
            raise UserError(
                f"the instance of DAGSTER_HOME launches runs by {type(launcher).__name__}: copy"
                " deploy/dagster.yaml there, so that workers get them"
            )
        app = launcher.celery
    # A task that cannot tell its state would not run. The launcher does not wait: others do.
    app.conf.result_backend_always_retry = True
    create_execute_job_task(app)
    return app


def _reason(error: Exception) -> str:
    # The error of a database that is away is the cause of another one.
    text = str(error.__cause__ or error)
    unset = _UNSET.search(text)
    if unset is not None:
        return f"{unset[1]} is not set, and its dagster.yaml reads it from the environment"
    return text.strip().partition("\n")[0]


def __getattr__(name: str) -> "Celery":
    """The app, when Celery asks for it: importing this module reads no settings."""
    if name != "app":
        raise AttributeError(name)
    try:
        return worker_app()
    except UserError as error:
        raise SystemExit(f"Error: {error}") from None
