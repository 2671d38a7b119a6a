"""The run launcher: `dagster_celery`'s, which also notices a worker that is lost."""

# Celery has no type stubs.
# pyright: reportMissingTypeStubs=false
from typing import TYPE_CHECKING, Any, Final, override

from celery import Celery, states
from celery.exceptions import BackendError
from dagster import DagsterRun
from dagster._core.launcher import CheckRunHealthResult, WorkerStatus
from dagster_celery.launcher import CeleryRunLauncher
from dagster_celery.tags import DAGSTER_CELERY_TASK_ID_TAG
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

if TYPE_CHECKING:
    from celery.canvas import Signature

# How long a worker has for its answer. It is asked twice: its connection may just begin again.
_ANSWER_SECONDS: Final = 5.0
# After the broker has started, workers that lost it may wait this long before they connect.
_RECONNECTING_SECONDS: Final = 40


class WorkerRunLauncher(CeleryRunLauncher):
    """Starts runs as Celery tasks, and says of each run whether a worker still has it.

    `dagster_celery`'s launcher believes the last state that a task wrote. So a run whose worker was
    killed, or that could not write its own end, would count as running for hours.
    """

    @override
    def _launch_celery_task_run(
        self, run: DagsterRun, task_signature: "Signature[Any]", routing_key: str
    ) -> None:
        # The task has the run's id, and the run is told before: the daemon may die in between.
        self._instance.add_run_tags(run.run_id, {DAGSTER_CELERY_TASK_ID_TAG: run.run_id})
        named = task_signature.set(task_id=run.run_id)
        super()._launch_celery_task_run(run, named, routing_key)

    @override
    def terminate(self, run_id: str) -> bool:
        """Interrupt a run, which then ends as canceled."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        # A run that is not marked so would count as failed, and be retried.
        self._instance.report_run_canceling(run)
        self.celery.control.revoke(run_id, terminate=True, signal="SIGINT")
        return True

    @override
    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Whether a worker has a run that has started.

        Dagster looks at the run again before it fails it, so a task that has just ended is no
        fault. A broker that does not answer says nothing about the worker.
        """
        try:
            fault = self._fault(run.run_id)
        except (BackendError, OperationalError, RedisError) as error:
            told = f"The broker does not answer ({type(error).__name__})."
            return CheckRunHealthResult(WorkerStatus.RUNNING, told)
        if fault is None:
            return CheckRunHealthResult(WorkerStatus.RUNNING)
        return CheckRunHealthResult(WorkerStatus.FAILED, fault)

    def _fault(self, task_id: str) -> str | None:
        task = self.celery.backend.get_task_meta(task_id)
        if task["status"] != states.STARTED:
            return f"Its task is {task['status']}, and the run has not ended."
        worker = task["result"]["hostname"]
        inspect = self.celery.control.inspect([worker], timeout=_ANSWER_SECONDS, limit=1)
        answer = inspect.query_task(task_id) or inspect.query_task(task_id)
        if answer is None:
            if _broker_seconds(self.celery) < _RECONNECTING_SECONDS:
                return None
            return f"The worker {worker} does not answer."
        return None if task_id in answer[worker] else f"The worker {worker} no longer has it."


def _broker_seconds(app: Celery) -> int:
    """For how many seconds the broker has been running."""
    with app.connection_for_write() as connection:
        return connection.default_channel.client.info("server")["uptime_in_seconds"]
