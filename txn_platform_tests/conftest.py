"""Shared fixtures: an isolated environment, served S3 endpoints, a served generator.

Fixtures for one subject only belong in the tests of that subject.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
import uuid
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import psutil
import pytest
from botocore.config import Config
from hypothesis import HealthCheck, settings

from txn_platform.backoff import Backoff
from txn_platform.local import processes
from txn_platform.local.processes import ManagedProcess
from txn_platform.local.seaweedfs import REGION, SeaweedFS, available
from txn_platform_tests.support.faulty_store import FaultyStore
from txn_platform_tests.support.hourly_source import HourlySource
from txn_platform_tests.support.served_source import served

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mypy_boto3_s3 import S3Client

# The time of an example depends on the load of the machine.
settings.register_profile("any speed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any speed")

_OTHERS_SETTINGS = ("AWS_", "GENERATOR_", "TXN_", "DAGSTER_", "DELTA_")
# Files with single tests of five seconds and more. Of three workers, one gets those in the middle
# of each line, which mostly wait: the others keep two cores busy.
# fmt: off
_LONGEST = (
    "test_examples.py", "test_command_servers.py", "test_commands.py",
    "test_window_runs.py", "test_daemon.py", "test_chaos.py",
    "test_submission.py", "test_servers_of_the_cluster.py", "test_cluster.py",
    "test_nothing_secret.py", "test_backfill.py", "test_lake_faults.py",
    "test_wheel.py", "test_source_faults.py", "test_permissions.py",
    "test_chosen_lake.py", "test_expiry.py", "test_status.py",
    "test_validation.py", "test_readme_example.py", "test_alerts.py",
    "test_conformance.py", "test_in_use.py", "test_decoding.py", "test_dg.py",
)
# fmt: on
_MEMORY_FILES = Path("/dev/shm")  # noqa: S108 - pytest makes a directory of its own there
_ROOM = 2 << 30


def pytest_configure() -> None:
    """Let Ctrl-C end what tests start, and put what they write where it is written fast."""
    # A shell's background jobs ignore Ctrl-C, and so do their children.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Else each worker and each process of a test compiles all modules that it imports.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    # Else a third of the time of a run is spent on waiting for the disk.
    if _has_room(_MEMORY_FILES):
        for variable in ("PYTEST_DEBUG_TEMPROOT", "TMPDIR"):
            os.environ.setdefault(variable, str(_MEMORY_FILES))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let each worker begin with its share of the files whose tests take longest.

    A long test that begins last keeps one worker busy when the others have ended. xdist gives each
    worker an equal part of the tests, in their order.
    """
    workers: int = getattr(config, "workerinput", {"workercount": 0})["workercount"]
    rest = [item for item in items if item.path.name not in _LONGEST]
    files = {name: [item for item in items if item.path.name == name] for name in _LONGEST}
    ordered: list[pytest.Item] = []
    for number in range(workers):
        share = (len(items) - len(ordered)) // (workers - number)
        begin = [item for name in _LONGEST[number::workers] for item in files[name]]
        filled = max(0, share - len(begin))
        ordered += begin + rest[:filled]
        del rest[:filled]
    if workers:
        items[:] = ordered + rest


def _has_room(directory: Path) -> bool:
    """Whether a file system in memory has room for the tests, and for programs that they make."""
    if not directory.is_dir():
        return False
    found = os.statvfs(directory)
    free = min(found.f_bavail * found.f_frsize, psutil.virtual_memory().available)
    return free > _ROOM and not found.f_flag & os.ST_NOEXEC


@dataclass(frozen=True)
class S3Endpoint:
    """A served S3 with one bucket."""

    url: str
    access_key: str
    secret_key: str
    bucket: str

    def client(self) -> S3Client:
        """A client of the test's own, to look at what the platform did."""
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=REGION,
            config=Config(retries={"total_max_attempts": 1}),
        )


def eventually(condition: Callable[[], bool], *, within: float = 60, every: float = 0.01) -> bool:
    """Whether the condition comes true within so many seconds; returns as soon as it does.

    A condition that takes a server's time is looked at `every` so many seconds.
    """
    deadline = time.monotonic() + within
    while not (true := condition()) and time.monotonic() < deadline:
        time.sleep(every)
    return true


def gone(process: psutil.Process) -> bool:
    """Whether the process has ended, even if no process has waited for it."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def of_family[Answer](pid: int, ask: Callable[[psutil.Process], Answer]) -> list[Answer]:
    """The answers of a process and of all below it; those that end meanwhile have none."""
    answers: list[Answer] = []
    top = psutil.Process(pid)
    for process in (top, *top.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            answers.append(ask(process))
    return answers


@pytest.fixture(scope="session", autouse=True)
def environment_without_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No setting of the machine, its AWS profiles or its proxies reaches a test or its servers."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(_OTHERS_SETTINGS):
                patch.delenv(name)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        patch.setenv("DAGSTER_DISABLE_TELEMETRY", "yes")
        for name in ("NO_PROXY", "no_proxy"):
            patch.setenv(name, "127.0.0.1,localhost")
        # Servers start here: no `.env` of the checkout is read.
        patch.chdir(tmp_path_factory.mktemp("servers"))
        yield


@pytest.fixture(scope="session", autouse=True)
def libraries_read_their_files_once() -> Iterator[None]:
    """A database of Dagster's is made in half the time, and so is a client of boto3."""
    with ExitStack() as patches:
        # The fast tests do without Dagster.
        if "dagster" in sys.modules:
            from txn_platform_tests.support.read_once import read_once

            patches.enter_context(read_once())
        yield


@pytest.fixture(autouse=True)
def directory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test works in an empty directory: no `.env` is read, no `.txn` is left behind."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request of this process that fails is made again at once, and as often as ever."""
    monkeypatch.setattr(Backoff, "pauses", lambda backoff: repeat(0.0, backoff.attempts - 1))


@pytest.fixture(scope="session")
def s3_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], S3Endpoint]]:
    """Each kind of server when it is first asked for, and the same one from then on."""
    endpoints: dict[str, S3Endpoint] = {}
    with ExitStack() as servers:

        def serve(kind: str) -> S3Endpoint:
            if kind not in endpoints:
                start = {"moto": _start_moto, "seaweedfs": _start_seaweedfs}[kind]
                endpoints[kind] = start(servers, tmp_path_factory.mktemp(kind))
            return endpoints[kind]

        yield serve


def _start_moto(servers: ExitStack, directory: Path) -> S3Endpoint:
    command = [sys.executable, "-m", "txn_platform_tests.support.moto_server"]
    moto = servers.enter_context(ManagedProcess("moto", command, log=directory / "moto.log"))
    running = re.compile(r"Running on (http://127\.0\.0\.1:\d+)")
    url = moto.wait_until(lambda: running.search(moto.output()), timeout=60)[1]
    endpoint = S3Endpoint(url, "key-of-moto", "secret-of-moto", "transactions")
    endpoint.client().create_bucket(Bucket=endpoint.bucket)
    return endpoint


def _start_seaweedfs(servers: ExitStack, directory: Path) -> S3Endpoint:
    if not available():
        pytest.skip("SeaweedFS has no wheel for this machine")
    keys = {"access_key": "key-of-tests", "secret_key": "secret-of-tests"}
    server = SeaweedFS.start(
        directory / "data", directory / "logs", bucket="transactions", memory_mib=384, **keys
    )
    servers.enter_context(server)
    return S3Endpoint(server.endpoint_url, **keys, bucket="transactions")


@pytest.fixture(params=["moto", "seaweedfs"])
def s3_endpoint(
    request: pytest.FixtureRequest, s3_servers: Callable[[str], S3Endpoint]
) -> S3Endpoint:
    """A served S3; the test runs once with each kind."""
    return s3_servers(request.param)


@pytest.fixture
def s3_prefix() -> str:
    """A folder in the bucket that no other test uses; no slash at either end."""
    return f"test-{uuid.uuid4().hex}"


@pytest.fixture
def s3_environment(s3_endpoint: S3Endpoint, s3_prefix: str) -> dict[str, str]:
    """The variables that put the platform's lake on `s3_endpoint`, under `s3_prefix`."""
    return {
        "AWS_BUCKET_NAME": s3_endpoint.bucket,
        "AWS_ACCESS_KEY_ID": s3_endpoint.access_key,
        "AWS_SECRET_ACCESS_KEY": s3_endpoint.secret_key,
        "AWS_REGION": REGION,
        "AWS_ENDPOINT_URL": s3_endpoint.url,
        "TXN_LAKE_PREFIX": s3_prefix,
    }


@pytest.fixture
def faulty_store(
    monkeypatch: pytest.MonkeyPatch, s3_servers: Callable[[str], S3Endpoint], s3_prefix: str
) -> Iterator[FaultyStore]:
    """A proxy in front of a store, which the environment names."""
    endpoint = s3_servers("moto")
    monkeypatch.setenv("AWS_BUCKET_NAME", endpoint.bucket)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", endpoint.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", endpoint.secret_key)
    monkeypatch.setenv("AWS_REGION", REGION)
    monkeypatch.setenv("TXN_LAKE_PREFIX", s3_prefix)
    with FaultyStore(endpoint.url) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield proxy


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Iterator[HourlySource]:
    """The source that the settings name, with as many rows as a test gives it."""
    with served(HourlySource([])) as source:
        monkeypatch.setenv("GENERATOR_URL", source.url)
        assert isinstance(source, HourlySource)
        yield source


@pytest.fixture(scope="session")
def generator_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A generator service with a small population and about one transaction a second."""
    settings = {"GENERATOR_CUSTOMERS": "2000", "GENERATOR_MERCHANTS": "500", "GENERATOR_TPS": "1"}
    log = tmp_path_factory.mktemp("generator") / "generator.log"
    environment = {**os.environ, **settings}
    with processes.start_generator(log=log, environment=environment) as generator:
        yield processes.generator_url(generator)
