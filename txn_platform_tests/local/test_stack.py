"""`txn dev` and `txn demo` find a source and an S3 beside them, and leave nothing running."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from txn_platform.errors import UserError
from txn_platform.local import stack as stack_module
from txn_platform.local import stack_state
from txn_platform.local.processes import ManagedProcess, ProcessFailed, free_ports
from txn_platform.local.seaweedfs import available
from txn_platform.local.stack import local_stack_services, require_ui
from txn_platform.settings import load_settings
from txn_platform.windows import Window, full_hour
from txn_platform_tests.conftest import S3Endpoint, gone

if TYPE_CHECKING:
    from collections.abc import Iterator

    from txn_platform.local.stack import Services

needs_seaweedfs = pytest.mark.skipif(not available(), reason="SeaweedFS is not installed")

PROGRAM = """
import json, sys
from dataclasses import replace
from txn_platform.local.stack import local_stack_services

class Announcer:
    def check(self):
        print("waits", flush=True)

with local_stack_services(directory=sys.argv[1] == "directory") as services:
    print(json.dumps(services.environment), flush=True)
    replace(services, processes=(*services.processes, Announcer())).wait()
print("left", flush=True)
"""


def in_another_process(lake: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, lake]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def status_of(url: str) -> int:
    with urllib.request.urlopen(f"{url}/healthz", timeout=10) as response:
        return response.status


def s3_of(environment: dict[str, str]) -> S3Endpoint:
    return S3Endpoint(
        environment["AWS_ENDPOINT_URL"],
        environment["AWS_ACCESS_KEY_ID"],
        environment["AWS_SECRET_ACCESS_KEY"],
        environment["AWS_BUCKET_NAME"],
    )


@pytest.fixture(scope="module", autouse=True)
def small_generator() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GENERATOR_CUSTOMERS", "200")
        patch.setenv("GENERATOR_MERCHANTS", "100")
        yield


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Services]]:
    """The services of the local stack, and the directory that they were started in."""
    directory = tmp_path_factory.mktemp("stack")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        with local_stack_services() as services:
            yield directory, services


@needs_seaweedfs
def test_the_environment_leads_to_a_source_and_a_bucket(running: tuple[Path, Services]) -> None:
    _, services = running
    assert status_of(services.environment["GENERATOR_URL"]) == 200
    assert services.environment["AWS_BUCKET_NAME"] == "transactions"
    s3 = s3_of(services.environment).client()
    s3.put_object(Bucket="transactions", Key="a", Body=b"rows")
    assert s3.get_object(Bucket="transactions", Key="a")["Body"].read() == b"rows"
    assert services.addresses["generator"] == services.environment["GENERATOR_URL"]
    assert services.addresses["S3"] == services.environment["AWS_ENDPOINT_URL"]


@needs_seaweedfs
def test_state_is_under_txn_and_the_keys_are_for_their_owner_alone(
    running: tuple[Path, Services],
) -> None:
    directory, services = running
    assert [path.name for path in directory.iterdir()] == [".txn"]
    keys = Path(services.addresses["keys"])
    assert keys.parent == directory / ".txn"
    assert stat.S_IMODE(keys.stat().st_mode) == 0o600
    assert (directory / ".txn" / "logs" / "generator.log").exists()


@needs_seaweedfs
def test_a_second_one_at_once_is_told_who_is_there(
    running: tuple[Path, Services], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, services = running
    monkeypatch.chdir(directory)
    with pytest.raises(UserError, match=rf"already running in .*\.txn \(process {os.getpid()}\)"):
        local_stack_services().__enter__()
    assert status_of(services.environment["GENERATOR_URL"]) == 200


@needs_seaweedfs
def test_after_a_kill_the_next_one_starts_at_once_with_the_same_store() -> None:
    with in_another_process("s3") as killed:
        before = killed.stdout.readline()
        family = psutil.Process(killed.pid).children(recursive=True)
        killed.kill()
    with local_stack_services() as services:
        assert all(map(gone, family))
        after = {name: value for name, value in services.environment.items() if "AWS" in name}
        assert after.items() <= json.loads(before).items()


@pytest.mark.parametrize(
    ("number", "code", "last"), [("SIGTERM", 143, ""), ("SIGINT", 0, "left\n")]
)
def test_sigterm_and_ctrl_c_stop_everything_before_the_command_ends(
    number: str, code: int, last: str
) -> None:
    with in_another_process("directory") as process:
        while process.stdout.readline() != "waits\n":
            pass
        family = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.Signals[number])
        assert process.wait(60) == code
        assert process.stdout.read().replace("waits\n", "") == last
    assert family
    assert all(map(gone, family))


@pytest.fixture
def inert_generator(monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a generator that starts at once and answers nothing."""
    url = "http://127.0.0.1:1"

    def start(**_: object) -> ManagedProcess:
        return ManagedProcess("The generator service", ["sleep", "1000"])

    monkeypatch.setattr(stack_module, "start_generator", start)
    monkeypatch.setattr(stack_module, "generator_url", lambda _: url)
    return url


def test_the_generator_listens_where_its_own_setting_says(monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = free_ports(1)
    monkeypatch.setenv("GENERATOR_PORT", str(port))
    with local_stack_services(directory=True) as services:
        assert services.environment["GENERATOR_URL"] == f"http://127.0.0.1:{port}"
        assert status_of(f"http://127.0.0.1:{port}") == 200


@pytest.mark.parametrize("reason", ["asked for", "SeaweedFS is not installed"])
def test_the_directory_lake_needs_no_s3(
    reason: str, inert_generator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reason != "asked for":
        monkeypatch.setattr(stack_module.seaweedfs, "available", lambda: False)
    with local_stack_services(directory=reason == "asked for") as services:
        first_hour = full_hour(datetime.now(UTC)) - timedelta(days=30)
        assert services.environment == {
            "GENERATOR_URL": inert_generator,
            "GENERATOR_TOKEN": "",
            "AWS_BUCKET_NAME": "",
            "TXN_LAKE_DIRECTORY": "",
            "TXN_FIRST_HOUR": Window(first_hour).partition_key,
            "DAGSTER_HOME": str(Path.cwd() / ".txn" / "dagster"),
            "TXN_CARD_KEY": (Path.cwd() / ".txn" / "card-key").as_uri(),
            "NO_PROXY": "127.0.0.1,localhost,::1",
            "no_proxy": "127.0.0.1,localhost,::1",
        }
        assert services.addresses["lake"] == str(Path.cwd() / ".txn" / "lake")
        assert not (Path.cwd() / ".txn" / "seaweedfs").exists()


def test_waiting_ends_with_the_reason_when_a_service_has_ended(inert_generator: str) -> None:
    with local_stack_services(directory=True) as services:
        os.kill(services.processes[0].pid, signal.SIGKILL)
        with pytest.raises(ProcessFailed, match=r"The generator service ended"):
            services.wait()


def test_a_ui_port_in_use_is_said_before_anything_starts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as occupied:
        port = occupied.getsockname()[1]
        with pytest.raises(UserError, match=f"Port {port} is in use"):
            require_ui(port, ["txn_platform.definitions"])


def test_definitions_that_are_not_there_are_said_before_anything_starts() -> None:
    (port,) = free_ports(1)
    Path("mine.py").touch()
    Path("ours").mkdir()
    Path("ours/assets.py").touch()
    require_ui(port, ["mine", "ours.assets", "txn_platform.definitions"])
    for module in ("myne", "mine.py", "txn_platform.absent", ".mine", "a b"):
        with pytest.raises(UserError, match=f"there is no module {re.escape(module)} in"):
            require_ui(port, [module])


def first_hour_of_a_start() -> str:
    with local_stack_services(directory=True) as services:
        return services.environment["TXN_FIRST_HOUR"]


def test_a_new_stack_begins_30_days_back_and_stays_there(
    inert_generator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = first_hour_of_a_start()
    back = datetime.now(UTC) - Window.of_partition(first).start
    assert timedelta(days=30) <= back < timedelta(days=30, hours=2)
    Path(".txn/first-hour").write_text("2026-03-04-05:00\n")
    assert first_hour_of_a_start() == "2026-03-04-05:00"
    monkeypatch.setenv("TXN_FIRST_HOUR", "2026-02-01-00:00")
    assert first_hour_of_a_start() == "2026-02-01-00:00"
    monkeypatch.delenv("TXN_FIRST_HOUR")
    assert first_hour_of_a_start() == "2026-03-04-05:00"
    Path(".txn/first-hour").write_text("yesterday")
    with pytest.raises(UserError, match="first-hour does not hold the first hour"):
        first_hour_of_a_start()


@pytest.mark.parametrize("left", ["dagster", "lake"])
def test_a_stack_of_an_earlier_version_keeps_its_partitions(
    inert_generator: str, left: str
) -> None:
    Path(".txn", left).mkdir(parents=True)
    assert first_hour_of_a_start() == "2026-01-01-00:00"
    assert first_hour_of_a_start() == "2026-01-01-00:00"


def test_a_stack_announces_itself_while_it_runs_and_tells_no_secret(
    inert_generator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TXN_CARD_KEY", "a key of sixteen bytes and more")
    with local_stack_services(directory=True) as services:
        assert load_settings().of_local_stack
        assert load_settings().generator_url == inert_generator
        told = Path(".txn/stack.json").read_text()
        assert json.loads(told).keys() == {"GENERATOR_URL", "TXN_FIRST_HOUR"}
        assert services.environment["TXN_CARD_KEY"] == "a key of sixteen bytes and more"
    assert not load_settings().of_local_stack


def test_a_state_directory_that_cannot_be_made_is_named() -> None:
    Path(".txn").write_text("not a directory")
    with pytest.raises(UserError, match=r" TXN_HOME: must be a directory"):
        local_stack_services(directory=True).__enter__()


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"AWS_ACCESS_KEY_ID": "a"}'])
def test_damaged_keys_are_named_and_not_replaced(content: str) -> None:
    keys = Path(".txn", "s3-keys.json").absolute()
    keys.parent.mkdir()
    keys.write_text(content)
    with pytest.raises(UserError, match=rf"{keys} does not hold the keys .*: delete it"):
        stack_state.kept_keys(keys)
    assert keys.read_text() == content
