"""The commands with a user interface: `dagster dev` in the checkout, and `txn dev`.

The tests here see that the interface starts, shows the assets, runs them and stops. Other tests
look behind it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from contextlib import contextmanager, suppress
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from txn_platform.local.processes import ManagedProcess, free_ports
from txn_platform_tests.conftest import eventually, of_family
from txn_platform_tests.test_commands import LAKE, OBJECTS, PARTITION, SMALL, run, started, stored

if TYPE_CHECKING:
    from collections.abc import Iterator

PROJECT = Path(__file__).parents[1] / "pyproject.toml"
ASSETS = {key.partition("/")[0] for key in OBJECTS if key.endswith(".parquet")}


@pytest.fixture(scope="module")
def dagster_dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of a bare `dagster dev`, and the directory that it was started in."""
    directory = tmp_path_factory.mktemp("checkout")
    for read in (PROJECT, PROJECT.with_name("dagster.yaml")):
        (directory / read.name).symlink_to(read)
    (port,) = free_ports(1)
    program = Path(sys.executable).with_name("dagster")
    with ManagedProcess(
        "dagster dev",
        [str(program), "dev", "-p", str(port)],
        log=directory / "dagster-dev.log",
        environment={**os.environ, **SMALL},
        directory=directory,
        grace=30,
    ) as process:
        address = f"http://127.0.0.1:{port}"
        process.wait_until(lambda: answers(address), timeout=120)
        yield address, directory


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/server_info", timeout=10) as response:
            return "dagster_version" in json.load(response)
    except OSError:
        return False


def ask(address: str, query: str, **variables: Any) -> dict[str, Any]:
    """The answer of Dagster's GraphQL API."""
    request = urllib.request.Request(
        f"{address}/graphql",
        json.dumps({"query": query, "variables": variables}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        answer = json.load(response)
    assert "errors" not in answer, answer
    return answer["data"]


ALL_ASSETS = """{
  assetNodes {
    assetKey { path }
    repository { name location { name } }
    assetChecksOrError { ... on AssetChecks { checks { name } } }
  }
}"""
LAUNCH = """mutation ($run: ExecutionParams!) {
  launchRun(executionParams: $run) {
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
  }
}"""
STATUS = "query ($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"
TIMES = """query ($id: ID!) {
  runOrError(runId: $id) {
    ... on Run { stats { ... on RunStatsSnapshot { enqueuedTime launchTime endTime } } }
  }
}"""
EVENTS = """query ($id: ID!) {
  logsForRun(runId: $id) {
    ... on EventConnection {
      events {
        ... on MaterializationEvent { assetKey { path } partition }
        ... on AssetCheckEvaluationEvent {
          evaluation { assetKey { path } checkName success }
        }
      }
    }
  }
}"""


def launched(address: str, partition: str, assets: list[dict[str, Any]]) -> str:
    """The number of a run of one partition, launched as the UI does."""
    repository = assets[0]["repository"]
    run_parameters = {
        "selector": {
            "repositoryName": repository["name"],
            "repositoryLocationName": repository["location"]["name"],
            "jobName": "__ASSET_JOB",
            "assetSelection": [asset["assetKey"] for asset in assets],
        },
        "executionMetadata": {"tags": [{"key": "dagster/partition", "value": partition}]},
        "mode": "default",
    }
    return ask(address, LAUNCH, run=run_parameters)["launchRun"]["run"]["runId"]


def succeeded(address: str, number: str) -> bool:
    """Whether a run ends well."""

    def status() -> str:
        return ask(address, STATUS, id=number)["runOrError"]["status"]

    assert eventually(lambda: status() in {"SUCCESS", "FAILURE"}, within=120, every=0.3)
    return status() == "SUCCESS"


def test_a_run_launched_in_dagster_dev_materializes_all_assets_and_passes_every_check(
    dagster_dev: tuple[str, Path],
) -> None:
    address, directory = dagster_dev
    assets = ask(address, ALL_ASSETS)["assetNodes"]
    assert {"/".join(asset["assetKey"]["path"]) for asset in assets} == ASSETS
    number = launched(address, PARTITION, assets)
    assert succeeded(address, number)
    events = ask(address, EVENTS, id=number)["logsForRun"]["events"]
    materialized = [event for event in events if "partition" in event]
    assert {event["partition"] for event in materialized} == {PARTITION}
    assert {event["assetKey"]["path"][0] for event in materialized} == ASSETS
    checked = [event["evaluation"] for event in events if "evaluation" in event]
    # The newest window is weeks ago, so freshness warns.
    failed = {check["checkName"] for check in checked if not check["success"]}
    assert failed == {"is_fresh"}
    assert {(check["assetKey"]["path"][0], check["checkName"]) for check in checked} == {
        (asset["assetKey"]["path"][0], check["name"])
        for asset in assets
        for check in asset["assetChecksOrError"]["checks"]
    }
    assert stored(directory / LAKE) >= OBJECTS


def test_two_runs_of_one_partition_are_never_under_way_at_once_and_of_two_partitions_are(
    dagster_dev: tuple[str, Path],
) -> None:
    address, _ = dagster_dev
    assets = ask(address, ALL_ASSETS)["assetNodes"]
    raw = [asset for asset in assets if asset["assetKey"]["path"] == ["raw_transactions"]]
    # Two of each: if a look at the queue comes between the first ones, the next starts two at once.
    partitions = ("2026-11-02-00:00", "2026-11-02-01:00") * 2
    numbers = [launched(address, partition, raw) for partition in partitions]
    assert all(succeeded(address, number) for number in numbers)
    times = [ask(address, TIMES, id=number)["runOrError"]["stats"] for number in numbers]
    for of_one in (times[0::2], times[1::2]):
        earlier, later = sorted(of_one, key=lambda time: time["launchTime"])
        assert later["enqueuedTime"] < earlier["endTime"], "they would have met"
        assert later["launchTime"] >= earlier["endTime"]
    assert any(
        one["launchTime"] < other["endTime"] and other["launchTime"] < one["endTime"]
        for one, other in product(times[0::2], times[1::2])
    )


@pytest.mark.skipif(not shutil.which("chromium"), reason="chromium is not installed")
def test_the_asset_graph_in_a_browser_shows_all_assets(dagster_dev: tuple[str, Path]) -> None:
    address, _ = dagster_dev
    browser = ["chromium", "--headless", "--no-sandbox", "--disable-gpu"]
    look = [*browser, "--virtual-time-budget=20000", "--dump-dom", f"{address}/asset-groups"]

    def page() -> str:
        """The page's content; empty when the browser's virtual clock stands still."""
        with TemporaryDirectory(prefix="profile-", ignore_cleanup_errors=True) as profile:
            command = [*look, f"--user-data-dir={profile}"]
            with subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                start_new_session=True,
            ) as process:
                try:
                    shown, _ = process.communicate(timeout=40)
                except subprocess.TimeoutExpired:
                    return ""
                finally:
                    with suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
            assert process.returncode == 0
            return shown

    def shows_all() -> bool:
        shown = page()
        return all(f">{asset}<" in shown for asset in ASSETS)

    assert eventually(shows_all, within=150)


def test_txn_dev_says_where_things_are_and_ctrl_c_takes_all_of_them_down() -> None:
    demo = run("txn", "demo", "--directory", environment=SMALL)
    assert demo.returncode == 0, demo.stderr
    (hour,) = re.findall(r"^(\d{4}-\d\d-\d\d-\d\d:00) ", demo.stdout, re.MULTILINE)
    with started_dev() as (process, addresses):
        dagster = addresses["Dagster"]
        assert addresses["lake"] == str(Path.cwd() / LAKE)
        assert answers(dagster)
        with urllib.request.urlopen(f"{addresses['generator']}/healthz", timeout=10) as response:
            assert response.status == 200
        nodes = ask(dagster, ALL_ASSETS)["assetNodes"]
        assert {node["assetKey"]["path"][0] for node in nodes} == ASSETS
        # Links in alerts lead to this UI.
        below = of_family(process.pid, lambda each: (each.cmdline(), each.environ()))
        (link,) = {variables["TXN_UI_URL"] for command, variables in below if "dagster" in command}
        assert link == dagster
        refuses_other_sites(dagster)
        # The hour of the demo is there.
        published = ask(dagster, PARTITIONS)["assetNodeOrError"]
        (found,) = published["assetPartitionStatuses"]["ranges"]
        assert (found["startKey"], found["endKey"], found["status"]) == (hour, hour, "MATERIALIZED")
        assert 30 * 24 <= len(published["partitionKeys"]) <= 30 * 24 + 2
        # Other commands use its lake and its source.
        status = run("txn", "status", "--from", hour, "--json")
        assert "of the local stack" in status.stderr
        assert json.loads(status.stdout.splitlines()[0])["state"] in {"published", "changed"}
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode in {0, 130}
    assert stderr == ""
    assert [path.name for path in Path().iterdir()] == [".txn"]
    log = "".join(each.read_text() for each in Path(".txn/logs").glob("dagster-*.log"))
    assert "Shutting down" in log or "shut down" in log
    assert "SupersessionWarning" not in log
    assert "BetaWarning" not in log


@contextmanager
def started_dev(*options: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """`txn dev` with a lake in the directory, and the addresses that it says."""
    (port,) = free_ports(1)
    command = ("txn", "dev", "--directory", "--port", str(port), *options)
    with started(*command, environment=SMALL) as process:
        said = dict(line.split(maxsplit=1) for line in iter_until(process, "Ctrl-C"))
        addresses = {name: address.strip() for name, address in said.items()}
        assert addresses["Dagster"] == f"http://127.0.0.1:{port}"
        yield process, addresses


def refuses_other_sites(address: str) -> None:
    """See that only its own pages, and programs, use the UI."""
    mutation = {"query": "mutation { reloadWorkspace { __typename } }"}
    other = {"Origin": "http://evil.example"}
    graphql = f"{address}/graphql"
    assert httpx.post(graphql, json=mutation, headers={"Origin": address}, timeout=60).is_success
    assert httpx.post(graphql, json=mutation, headers=other).status_code == 403
    assert httpx.post(graphql, params=mutation, headers=other).status_code == 403
    assert httpx.get(graphql, params=mutation).status_code == 405
    assert httpx.get(address, headers={"Host": "evil.example"}).status_code == 403
    socket_address = f"{address.replace('http', 'ws')}/graphql"
    with connect(socket_address, origin=address, subprotocols=["graphql-ws"]) as websocket:
        websocket.send(json.dumps({"type": "connection_init"}))
        assert json.loads(websocket.recv(timeout=60)) == {"type": "connection_ack"}
    with (
        pytest.raises(InvalidStatus, match="403"),
        connect(socket_address, origin="http://evil.example", subprotocols=["graphql-ws"]),
    ):
        pass


_MINE = """
import dagster as dg
import polars as pl

from txn_platform.definitions import build_defs


@dg.asset(partitions_def=dg.DailyPartitionsDefinition("2026-01-01"), io_manager_key="lake")
def spend_by_merchant(s3_parquet_transactions: pl.LazyFrame) -> pl.LazyFrame:
    return s3_parquet_transactions.group_by("merchant_id").agg(pl.col("amount").sum())


defs = dg.Definitions.merge(build_defs(), dg.Definitions(assets=[spend_by_merchant]))
"""
PARTITIONS = """{ assetNodeOrError(assetKey: {path: ["s3_parquet_transactions"]}) {
  ... on AssetNode { partitionKeys assetPartitionStatuses {
    ... on TimePartitionStatuses { ranges { startKey endKey status } }
  } }
} }"""


@pytest.mark.long
def test_txn_dev_loads_a_project_of_ones_own() -> None:
    Path("mine.py").write_text(_MINE)
    with started_dev("-m", "mine") as (process, addresses):
        nodes = ask(addresses["Dagster"], ALL_ASSETS)["assetNodes"]
        assert {node["assetKey"]["path"][0] for node in nodes} == {*ASSETS, "spend_by_merchant"}
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert stderr == ""


def iter_until(process: subprocess.Popen[str], last: str) -> Iterator[str]:
    """The lines that the command prints, up to one that begins so."""
    for line in process.stdout:
        if line.startswith(last):
            return
        yield line
    pytest.fail(f"{last!r} was not printed: {process.stderr.read()}")


def test_txn_dev_with_a_port_in_use_says_so_before_it_starts_anything() -> None:
    with socket.create_server(("127.0.0.1", 0)) as occupied:
        port = str(occupied.getsockname()[1])
        result = run("txn", "dev", "--directory", "--port", port)
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr == (
        f"Error: Port {port} is in use: choose another for the Dagster UI (--port).\n"
    )
    assert not list(Path().iterdir())
