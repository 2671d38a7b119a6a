"""The definitions that Dagster loads, and the rules that keep Dagster in its package."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import dagster as dg
import pytest
import yaml

import generator_service
import txn_platform
from txn_platform.definitions import build_defs
from txn_platform.defs.automation import LAND_TRANSACTIONS

_PLATFORM = Path(txn_platform.__file__).parent
_SOURCE = Path(generator_service.__file__).parent
_CHECKOUT = _PLATFORM.parent


def _imports(path: Path) -> set[str]:
    """The modules that a file names in its imports, also within functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def test_definitions_are_complete_and_fresh() -> None:
    defs = build_defs()
    dg.Definitions.validate_loadable(defs)
    assert {key.to_user_string() for key in defs.resolve_asset_graph().get_all_asset_keys()} == {
        "raw_transactions",
        "validated_transactions",
        "quarantined_transactions",
        "s3_parquet_transactions",
    }
    assert build_defs() is not defs


def test_every_check_of_a_window_but_one_blocks_and_has_the_partitions() -> None:
    graph = build_defs().resolve_asset_graph()
    specs = [graph.get_check_spec(key) for key in graph.asset_check_keys]
    assert len(specs) == 11
    assert {spec.name for spec in specs if not spec.partitions_def} == {"is_fresh"}
    assert {spec.name for spec in specs if not spec.blocking} == {
        "source_states_totals",
        "is_fresh",
    }


def test_schedules_and_sensor_are_off_until_turned_on() -> None:
    repository = build_defs().get_repository_def()
    jobs = {schedule.name: schedule.job_name for schedule in repository.schedule_defs}
    assert jobs == {
        "hourly": LAND_TRANSACTIONS.name,
        "optimize_delta_nightly": "optimize_delta",
    }
    sensors = {sensor.name: sensor for sensor in repository.sensor_defs}
    assert set(sensors) == {"on_watermark", "freshness", "alerts"}
    assert sensors["on_watermark"].job_name == LAND_TRANSACTIONS.name
    assert {schedule.default_status for schedule in repository.schedule_defs} == {
        dg.DefaultScheduleStatus.STOPPED
    }
    assert {sensor.default_status for sensor in repository.sensor_defs} == {
        dg.DefaultSensorStatus.STOPPED
    }


_WITH_ROWS_AS_SENT = {"raw_transactions", "quarantined_transactions"}


def test_every_column_is_in_the_catalogue() -> None:
    graph = build_defs().resolve_asset_graph()
    for key in graph.get_all_asset_keys():
        columns = graph.get(key).metadata["dagster/column_schema"].columns
        assert all(column.description for column in columns)
        nullable = {column.name for column in columns if column.constraints.nullable}
        assert "fraud_scenario" in nullable
        assert ("transaction_id" in nullable) is (key.path[-1] in _WITH_ROWS_AS_SENT)


def test_the_four_ways_to_find_the_definitions_agree() -> None:
    tools = tomllib.loads((_CHECKOUT / "pyproject.toml").read_text())["tool"]
    tool, dg_project = tools["dagster"], tools["dg"]["project"]
    assert dg_project["code_location_name"] == tool["code_location_name"]
    assert dg_project["code_location_target_module"] == tool["module_name"]
    (target,) = yaml.safe_load((_CHECKOUT / "workspace.yaml").read_text())["load_from"]
    assert (
        tool["module_name"] == target["python_module"]["module_name"] == "txn_platform.definitions"
    )


@pytest.mark.parametrize("path", sorted((_PLATFORM / "defs").glob("*.py")), ids=lambda p: p.stem)
def test_annotations_that_dagster_reads_are_not_text(path: Path) -> None:
    assert "__future__" not in _imports(path)


def test_importing_the_definitions_does_no_work(tmp_path: Path) -> None:
    """No socket, no file written, no setting read: a nonsense environment is not noticed."""
    program = """
import socket

def refuse(*_, **__):
    raise AssertionError("a socket at import")

socket.socket.connect = refuse
import txn_platform.definitions
"""
    subprocess.run(
        [sys.executable, "-c", program],
        check=True,
        cwd=tmp_path,
        env={"TXN_MAX_QUARANTINE": "nonsense", "GENERATOR_URL": "nonsense", "PATH": ""},
    )
    assert list(tmp_path.iterdir()) == []


def test_importing_the_definitions_changes_nothing_of_the_process() -> None:
    """Also within a command of Dagster's."""
    state = """
import gc, sys
import pyarrow as pa
print(gc.get_freeze_count(), gc.isenabled(), hasattr(sys, "tracebacklimit"),
      pa.default_memory_pool().backend_name)
"""
    said = [
        subprocess.run(
            [sys.executable, "-c", f"import dagster, dagster._cli, pyarrow\n{imported}{state}"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for imported in ("", "import txn_platform.definitions\n")
    ]
    assert said[0] == said[1]
