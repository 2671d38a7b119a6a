"""`txn run --submit`: hours that a Dagster instance runs, whatever ends in between.

Code server, daemon, webserver and runs are Dagster's own processes; the source is the tests'.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import uuid
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any, override

import dagster as dg
import pytest
import yaml
from click.testing import CliRunner

from examples.stripe_charges.fake_api import FakeStripe
from txn_platform import run_queue, submission
from txn_platform.cli import main
from txn_platform.local.dagster_processes import dagster_processes
from txn_platform.local.processes import ManagedProcess, free_ports
from txn_platform.local.stack import DAGSTER_YAML
from txn_platform.windows import Window
from txn_platform_tests.conftest import eventually
from txn_platform_tests.support.faulty_proxy import FaultyProxy
from txn_platform_tests.support.hourly_source import HourlySource, rows_of
from txn_platform_tests.support.served_handler import served_by
from txn_platform_tests.support.served_source import served
from txn_platform_tests.test_feeds import served_fake

if TYPE_CHECKING:
    from collections.abc import Iterator

TXN = Path(sys.executable).with_name("txn")
# On a loaded machine a run takes half a minute.
PATIENCE = 240.0
QUEUED = dg.DagsterRunStatus.QUEUED
DONE, FAILED = dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE


def hours(day: int, *numbers: int) -> list[str]:
    """Partition keys of a day of November."""
    return [Window(datetime(2026, 11, day, number, tzinfo=UTC)).partition_key for number in numbers]


class Charges(FakeStripe):
    """Sends currencies that do not exist in hours that begin at `bad`, in seconds since 1970."""

    bad: int = -1

    @override
    def charges(self, start: int, end: int) -> list[dict[str, Any]]:
        found = super().charges(start, end)
        return [{**charge, "currency": "?"} for charge in found] if start == self.bad else found


class Instance:
    """A Dagster instance with the generator and Stripe, and the commands that submit to it."""

    def __init__(self, directory: Path, source: HourlySource, charges: Charges, url: str) -> None:
        self.directory = directory
        self.source = source
        self.charges = charges
        (self.port,) = free_ports(1)
        self.address = f"http://127.0.0.1:{self.port}"
        self.environment = {
            **os.environ,
            "DAGSTER_HOME": str(directory / "dagster"),
            "TXN_HOME": str(directory / "txn"),
            "TXN_LAKE_DIRECTORY": str(directory / "lake"),
            "GENERATOR_URL": source.url,
            "TXN_SOURCE_ATTEMPTS": "3",
            "TXN_FEEDS": "examples.stripe_charges.feed",
            "STRIPE_URL": url,
            "STRIPE_API_KEY": charges.key,
            "PYTHONPATH": str(Path(__file__).parents[1]),
        }
        (directory / "dagster").mkdir()
        configuration = yaml.safe_load(DAGSTER_YAML.read_text())
        configuration["run_retries"] = {
            "enabled": True,
            "max_retries": 3,
            "retry_on_asset_or_op_failure": False,
        }
        (directory / "dagster" / "dagster.yaml").write_text(yaml.safe_dump(configuration))
        self.records = dg.DagsterInstance.from_config(str(directory / "dagster"))
        self.daemon: ManagedProcess
        self.webserver: ManagedProcess

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run its processes until the block ends; the daemon is stopped at first."""
        logs = self.directory / "logs"
        logs.mkdir()
        with (
            self.records,
            dagster_processes(
                self.environment,
                logs,
                port=self.port,
                address=self.address,
                modules=["examples.stripe_charges.definitions"],
                holds=[],
            ) as (_, self.daemon, self.webserver),
        ):
            self.daemon.stop()
            # As if it had never run.
            self.records.run_storage.wipe_daemon_heartbeats()
            yield

    @contextmanager
    def submitting(
        self, *keys: str, address: str = "", options: tuple[str, ...] = ()
    ) -> Iterator[subprocess.Popen[str]]:
        """A command that submits the windows from the first to the last of some keys."""
        with subprocess.Popen(
            [TXN, "run", "--from", keys[0], "--to", keys[-1], "--submit", *options],
            env=self._of_commands(address or self.address),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as command:
            try:
                yield command
            finally:
                command.kill()

    def _of_commands(self, address: str) -> dict[str, str]:
        own = {name: value for name, value in self.environment.items() if name[:7] != "DAGSTER"}
        return {**own, "DAGSTER_WEBSERVER_URL": address}

    def states(self, *keys: str, options: tuple[str, ...] = ()) -> list[tuple[str, int | None]]:
        """The states and the rows of the windows from the first to the last of some keys."""
        told = subprocess.run(
            [TXN, "status", "--json", "--from", keys[0], "--to", keys[-1], *options],
            env=self._of_commands(self.address),
            text=True,
            stdout=subprocess.PIPE,
            check=True,
        )
        states = map(json.loads, told.stdout.splitlines())
        return [(state["state"], state["rows"]) for state in states]

    def runs(self, *keys: str) -> dict[str, list[dg.DagsterRunStatus]]:
        """By partition key, how its runs stand, the oldest first."""
        return {
            key: [
                run.status
                for run in reversed(
                    self.records.get_runs(dg.RunsFilter(tags={"dagster/partition": key}))
                )
            ]
            for key in keys
        }

    def are(self, *statuses: dg.DagsterRunStatus, of: list[str]) -> bool:
        """Wait until the runs of each of some windows stand like this."""
        return eventually(
            lambda: all(found == [*statuses] for found in self.runs(*of).values()), within=PATIENCE
        )


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    with served(HourlySource([])) as source, served_fake(charges := Charges()) as url:
        assert isinstance(source, HourlySource)
        instance = Instance(tmp_path_factory.mktemp("submission"), source, charges, url)
        with instance.running():
            yield instance


def test_ctrl_c_leaves_the_queue_and_the_same_command_goes_on(
    instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = hours(19, 20, 21, 22, 23)
    with instance.submitting(*keys[:3]) as command:
        assert instance.are(QUEUED, of=keys[:3])
        command.send_signal(signal.SIGINT)
        stdout, stderr = command.communicate(timeout=60)
    assert command.returncode == 1
    assert instance.are(QUEUED, of=keys[:3])
    assert "Dagster's daemon has not reported lately" in stderr
    assert (
        "Stopped by Ctrl-C: 0 published, 0 skipped, 0 failed, 3 queued or running. The queue stays"
        " as it is. The same command follows it, and submits the rest."
    ) in stderr
    assert re.search(rf"queued or running +3 .*{keys[0]} to {keys[2]}", stdout)
    assert "Traceback" not in stderr

    for name in ("TXN_HOME", "TXN_LAKE_DIRECTORY", "GENERATOR_URL"):
        monkeypatch.setenv(name, instance.environment[name])
    # By the webserver, and by the databases of the instance.
    for name, value in (
        ("DAGSTER_WEBSERVER_URL", instance.address),
        ("DAGSTER_HOME", instance.environment["DAGSTER_HOME"]),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            result = CliRunner().invoke(main, ["status", "--json", "--from", keys[0]])
        states = [json.loads(line)["state"] for line in result.stdout.splitlines()]
        assert states == ["queued", "queued", "queued", "missing"]

    with instance.submitting(*keys) as command:
        assert instance.are(QUEUED, of=keys)
        # The webserver restarts meanwhile.
        instance.webserver.start_again()
        instance.daemon.start_again()
        stdout, stderr = command.communicate(timeout=PATIENCE)
    instance.daemon.stop()
    assert command.returncode == 0, stderr
    assert instance.are(DONE, of=keys)
    priorities = {
        run.tags["dagster/partition"]: run.tags["dagster/priority"]
        for run in instance.records.get_runs()
    }
    assert [priorities[key] for key in keys] == ["5", "5", "5", "10"]
    assert "4 of 4, 8 rows" in stderr
    assert re.search(rf"published +4 +8 +0 +8 .*{keys[0]} to {keys[3]}", stdout)


def test_bad_data_fails_once_and_a_lost_run_is_followed_to_its_retry(
    instance: Instance, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = bad, lost, good = hours(18, 1, 2, 3)
    instance.source.hours[bad] = rows_of(Window.of_partition(bad), amount="a lot")
    with instance.submitting(*keys) as command:
        assert instance.are(QUEUED, of=keys)
        (run,) = instance.records.get_runs(dg.RunsFilter(tags={"dagster/partition": lost}))
        instance.records.report_run_failed(run, "The worker of this run was lost.")
        instance.daemon.start_again()
        stdout, stderr = command.communicate(timeout=PATIENCE)
    assert command.returncode == 1
    assert instance.runs(*keys) == {bad: [FAILED], lost: [FAILED, DONE], good: [DONE]}
    (error,) = [line for line in stderr.splitlines() if line.startswith("Error: ")]
    assert error.startswith(f"Error: {bad}: run ")
    assert "the window is not published, because checks failed" in error
    assert re.search(rf"failed +1 +{bad} *\n", stdout)

    # The same command submits what has failed, once the source is right. A webserver has ended
    # between making and queueing a run of it, which nobody starts.
    instance.source.hours[bad] = rows_of(Window.of_partition(bad))
    (run,) = instance.records.get_runs(dg.RunsFilter(tags={"dagster/partition": bad}))
    stuck = run._replace(run_id=str(uuid.uuid4()), status=dg.DagsterRunStatus.NOT_STARTED)
    instance.records.run_storage.add_run(stuck)
    for name in ("TXN_HOME", "TXN_LAKE_DIRECTORY", "GENERATOR_URL"):
        monkeypatch.setenv(name, instance.environment[name])
    monkeypatch.setenv("DAGSTER_WEBSERVER_URL", instance.address)
    monkeypatch.setattr(submission, "_QUEUED_WITHIN", 1)
    result = CliRunner().invoke(main, ["run", "--from", bad, "--to", good, "--submit"])
    instance.daemon.stop()
    assert result.exit_code == 0, result.output
    assert instance.runs(bad) == {bad: [FAILED, dg.DagsterRunStatus.CANCELED, DONE]}
    assert instance.runs(lost, good) == {lost: [FAILED, DONE], good: [DONE]}
    assert "2 of 3 hours are published as they should be" in result.stderr


def test_hours_of_two_feeds_are_submitted_at_the_same_time(instance: Instance) -> None:
    keys = shared, bad = hours(16, 1, 2)
    instance.charges.bad = int(Window.of_partition(bad).start.timestamp())
    feed = ("--feed", "stripe")
    with (
        instance.submitting(shared) as generator,
        instance.submitting(*keys, options=feed) as stripe,
    ):
        assert instance.are(QUEUED, QUEUED, of=[shared])
        assert instance.are(QUEUED, of=[bad])
        assert instance.states(*keys) == [("queued", None), ("missing", None)]
        assert instance.states(*keys, options=feed) == [("queued", None)] * 2
        instance.daemon.start_again()
        _, of_generator = generator.communicate(timeout=PATIENCE)
        _, of_stripe = stripe.communicate(timeout=PATIENCE)
    instance.daemon.stop()
    assert (generator.returncode, stripe.returncode) == (0, 1), of_generator + of_stripe
    assert f"Error: {bad}: run " in of_stripe
    assert instance.runs(*keys) == {shared: [DONE, DONE], bad: [FAILED]}
    jobs = {run.job_name for run in instance.records.get_runs() if shared in run.tags.values()}
    assert jobs == {"land_transactions", "land_transactions_stripe"}
    assert instance.states(*keys) == [("published", 2), ("missing", None)]
    assert instance.states(*keys, options=feed) == [("published", 60), ("failed", None)]


class LosesAnAnswer(FaultyProxy):
    """Cuts the answer to the first request that launches runs."""

    def __init__(self, upstream: str) -> None:
        super().__init__(upstream, 0, random.Random(0))  # noqa: S311 - no secret
        self.requests: list[bytes] = []

    @override
    def fault(self) -> str:
        # The job, the runs that changed, the unfinished ones, then the launch.
        return "cut" if len(self.requests) == 3 else "none"

    @override
    def length_of_cut(self) -> int:
        return 1

    @override
    def spoken_to(self, request: bytes) -> bytes:
        if request.startswith(b"POST"):
            self.requests.append(request)
        elif self.requests:
            # A body may come after its head.
            self.requests[-1] += request
        return request


def test_an_answer_that_is_lost_submits_nothing_twice(instance: Instance) -> None:
    keys = hours(17, 1, 2, 3)
    with LosesAnAnswer(instance.address) as proxy:
        with instance.submitting(*keys, address=proxy.url) as command:
            assert instance.are(QUEUED, of=keys)
            # It goes on, and looks at the queue again.
            assert eventually(lambda: len(proxy.requests) > 6, within=PATIENCE)
            command.send_signal(signal.SIGINT)
            _, stderr = command.communicate(timeout=60)
        assert b"launchMultipleRuns" in b"".join(proxy.requests[3:4])
    assert "3 queued or running" in stderr
    assert instance.are(QUEUED, of=keys)
    for run in instance.records.get_runs(dg.RunsFilter(statuses=[QUEUED])):
        instance.records.report_run_canceled(run)


def test_without_an_instance_it_says_which_to_start(source: HourlySource) -> None:
    assert source.url
    result = CliRunner().invoke(main, ["run", "--submit"])
    assert result.exit_code == 1
    assert "Error: there is no Dagster instance to submit to: start `txn cluster`" in result.output


@pytest.mark.parametrize(
    ("status", "answer", "message"),
    [
        (401, b"", "refuses requests with status 401: set DAGSTER_WEBSERVER_URL to the address"),
        (
            200,
            b"<html>",
            "does not answer as Dagster's webserver of this version does (status 200)",
        ),
        (200, b'{"data": {"repositoriesOrError": {}, "instance": {}}}', "answers in another form"),
        (200, b'{"data": {"viewer": {}}}', "answers in another form"),
        (
            200,
            (
                b'{"data": {"repositoriesOrError": {"nodes": []}, "instance": {"daemonHealth": {},'
                b' "runQueuingSupported": true}}}'
            ),
            "has no job land_transactions: let it load the module of the definitions",
        ),
        (400, b'{"errors": [{"message": "no field"}]}', "version does (status 400: no field)"),
        (500, b'{"errors": [{"message": "no\\nx"}]}', "not answer for 1 s (status 500: no): start"),
    ],
)
def test_a_server_that_is_no_webserver_is_told_in_one_sentence(
    status: int,
    answer: bytes,
    message: str,
    source: HourlySource,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

    assert source.url
    monkeypatch.setattr(run_queue, "_FIRST_PATIENCE", 1)
    with served_by(Handler) as address:
        monkeypatch.setenv("DAGSTER_WEBSERVER_URL", address)
        result = CliRunner().invoke(main, ["run", "--submit"])
    assert result.exit_code == 1
    (error,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert message in error


def test_a_webserver_that_does_not_run_is_waited_for(
    source: HourlySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert source.url
    monkeypatch.setattr(run_queue, "_FIRST_PATIENCE", 1)
    monkeypatch.setenv("DAGSTER_WEBSERVER_URL", f"http://127.0.0.1:{free_ports(1)[0]}")
    result = CliRunner().invoke(main, ["run", "--submit"])
    assert result.exit_code == 1
    assert "did not answer for 1 s (no answer, NewConnectionError): start its" in result.stderr
