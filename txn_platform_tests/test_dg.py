"""`dg`, Dagster's command line of today, and Dagster's older one, with our definitions.

Also what each entry point says of a first hour that is none, and that no command prints a warning.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from txn_platform_tests.test_commands import (
    LAKE,
    MATERIALIZE,
    OBJECTS,
    PARTITION,
    SMALL,
    run_fresh,
    stored,
)

_CHECKOUT = Path(__file__).parents[1]
_ONE_BY_ONE = """
import json, sys
from contextlib import suppress
from txn_platform.cli import main
commands = json.loads(sys.argv[1])
for command in commands:
    with suppress(SystemExit):
        main(command, standalone_mode=False)
print(len(commands), "commands")
"""
_LAUNCH = ("dg", "launch", "--partition", PARTITION)


@pytest.fixture(autouse=True)
def checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory has what Dagster's commands read of the checkout."""
    for name in ("pyproject.toml", "dagster.yaml", "txn_platform"):
        Path(name).symlink_to(_CHECKOUT / name)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


def test_dg_checks_and_lists_the_definitions() -> None:
    checked = run_fresh("dg", "check", "defs")
    assert (checked.returncode, checked.stderr) == (0, "")
    assert "All definitions loaded successfully." in checked.stdout
    listed = run_fresh("dg", "list", "defs", "--json")
    assert (listed.returncode, listed.stderr) == (0, "")
    found = json.loads(listed.stdout)
    assets = {asset["asset_key"] for asset in found["assets"]}
    assert {"raw_transactions", "s3_parquet_transactions"} <= assets
    assert {"hourly", "optimize_delta_nightly"} <= {each["name"] for each in found["schedules"]}
    assert "on_watermark" in {each["name"] for each in found["sensors"]}


@pytest.mark.parametrize(
    "chosen",
    [
        # README's examples do the same.
        pytest.param(("--job", "land_transactions"), marks=pytest.mark.long),
        ("--assets", "*"),
    ],
)
def test_dg_launches_a_partition(chosen: tuple[str, str]) -> None:
    launched = run_fresh(*_LAUNCH, *chosen, environment=SMALL)
    assert launched.returncode == 0, launched.stderr
    assert stored(LAKE) >= OBJECTS
    warnings = [line for line in launched.stderr.splitlines() if "Warning" in line]
    # Dagster warns of a parameter of its own when it reads a selection.
    assert all("antlr_asset_selection.py" in line for line in warnings)
    assert bool(warnings) == (chosen[0] == "--assets")


@pytest.mark.parametrize(
    "command",
    [
        ("txn", "run"),
        ("txn", "dev", "--directory"),
        ("txn", "doctor"),
        (*MATERIALIZE, "--partition", PARTITION),
        ("dg", "check", "defs"),
        pytest.param(("dg", "list", "defs"), marks=pytest.mark.long),
        (*_LAUNCH, "--assets", "*"),
    ],
    ids=" ".join,
)
def test_a_first_hour_that_is_none_is_one_sentence(command: tuple[str, ...]) -> None:
    said = run_fresh(*command, environment={"TXN_FIRST_HOUR": "last year"})
    assert said.returncode == 1
    printed = said.stdout + said.stderr
    sentence = "TXN_FIRST_HOUR: must be an hour that is over, in UTC, written as 2026-01-01-00:00"
    assert printed.count(sentence) == 1
    assert 'File "' not in printed
    assert "last year" not in printed


def test_no_command_of_txn_prints_a_warning() -> None:
    """In one process, which imports all that the commands need."""
    hours = ("--from", PARTITION, "--to", PARTITION)
    commands = (
        ("run", "--partition", PARTITION),
        ("run", *hours),
        ("status", *hours),
        ("quarantine",),
        ("doctor",),
        ("expire", "--older-than", "1d", "--yes"),
        ("scorecard", "--rows", "1000", "--json"),
    )
    said = run_fresh("python", "-c", _ONE_BY_ONE, json.dumps(commands), environment=SMALL)
    assert said.returncode == 0, said.stderr
    assert said.stdout.splitlines()[-1] == f"{len(commands)} commands"
    assert said.stderr.count("Warning") == said.stdout.count("Warning") == 0, said.stderr
    assert "Traceback" not in said.stderr
    # Which lake and source are used, and what is skipped.
    known = ("lake: ", "source: ", f"{PARTITION} is published as it should be")
    assert all(line.startswith(known) for line in said.stderr.splitlines()), said.stderr
