"""How the launcher judges runs, against a broker that is real."""

from collections.abc import Iterator
from dataclasses import dataclass

import dagster as dg
import pytest
from celery import states
from dagster._core.launcher import CheckRunHealthResult, WorkerStatus

from txn_platform.local.processes import free_ports
from txn_platform.local.valkey import Valkey
from txn_platform.workers import launcher as module
from txn_platform.workers.launcher import WorkerRunLauncher

_NOBODY = {"hostname": "nobody@nowhere", "pid": 1}


@dg.job
def _job() -> None: ...


@dataclass
class World:
    """A broker, and an instance whose launcher uses it."""

    broker: Valkey
    instance: dg.DagsterInstance
    launcher: WorkerRunLauncher

    def run(self) -> dg.DagsterRun:
        """A new run that has started."""
        return self.instance.create_run_for_job(_job, status=dg.DagsterRunStatus.STARTED)

    def health(self, state: str) -> CheckRunHealthResult:
        """The health of a run whose task has a state."""
        run = self.run()
        self.launcher.celery.backend.store_result(run.run_id, _NOBODY, state)
        return self.launcher.check_run_worker_health(run)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("broker")
    (port,) = free_ports(1)
    broker = Valkey.start(directory / "data", directory / "log", port=port, password="s3cret")
    with broker.process, pytest.MonkeyPatch.context() as patch:
        broker.wait()
        patch.setattr(module, "_ANSWER_SECONDS", 0.2)
        launcher = {
            "module": "txn_platform.workers.launcher",
            "class": "WorkerRunLauncher",
            "config": {"broker": broker.url, "backend": broker.url},
        }
        with dg.instance_for_test({"run_launcher": launcher}) as instance:
            found = instance.run_launcher
            assert isinstance(found, WorkerRunLauncher)
            yield World(broker, instance, found)


@pytest.mark.parametrize("state", [states.SUCCESS, states.PENDING])
def test_a_run_whose_task_has_ended_has_no_worker(world: World, state: str) -> None:
    health = world.health(state)
    assert health.status is WorkerStatus.FAILED
    assert health.msg == f"Its task is {state}, and the run has not ended."


def test_a_worker_that_does_not_answer_is_lost(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_RECONNECTING_SECONDS", 0)
    health = world.health(states.STARTED)
    assert health.status is WorkerStatus.FAILED
    assert health.msg == "The worker nobody@nowhere does not answer."


def test_a_worker_that_does_not_answer_may_still_look_for_a_new_broker(world: World) -> None:
    assert world.health(states.STARTED).status is WorkerStatus.RUNNING


def test_a_run_is_canceled_by_whoever_ends_it(world: World) -> None:
    run = world.run()
    assert world.launcher.terminate(run.run_id)
    ended = world.instance.get_run_by_id(run.run_id)
    assert ended is not None
    assert ended.status is dg.DagsterRunStatus.CANCELING


def test_a_broker_that_is_away_says_nothing_of_a_worker(world: World) -> None:
    world.broker.process.stop()
    health = world.launcher.check_run_worker_health(world.run())
    assert health.status is WorkerStatus.RUNNING
    assert str(health.msg).startswith("The broker does not answer")
    assert "s3cret" not in str(health)
