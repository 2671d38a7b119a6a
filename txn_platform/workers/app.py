"""The Celery app of a worker: `celery -A txn_platform.workers.app worker`."""

# Celery has no type stubs.
# pyright: reportMissingTypeStubs=false
from typing import TYPE_CHECKING

from txn_platform.errors import UserError

if TYPE_CHECKING:
    from celery import Celery


def worker_app() -> "Celery":
    """The app of the instance's run launcher, with the task that executes a run.

    Worker and launcher have the same settings: those of `dagster.yaml`.

    Raises:
        UserError: the instance does not launch its runs on workers.
    """
    from dagster import DagsterInstance
    from dagster_celery.launcher import CeleryRunLauncher
    from dagster_celery.tasks import create_execute_job_task

    with DagsterInstance.get() as instance:
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


def __getattr__(name: str) -> "Celery":
    """The app, when Celery asks for it: importing this module reads no settings."""
    if name != "app":
        raise AttributeError(name)
    try:
        return worker_app()
    except UserError as error:
        raise SystemExit(f"Error: {error}") from None
