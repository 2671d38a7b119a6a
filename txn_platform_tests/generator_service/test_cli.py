"""The commands of `python -m generator_service`; test_commands.py has the same ones as `txn`'s."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import generator_service
from generator_service.cli import main
from txn_platform.cli import main as txn

SMALL = {"GENERATOR_TPS": "1", "GENERATOR_CUSTOMERS": "500", "GENERATOR_MERCHANTS": "100"}
GENERATE = ("generate", "--start", "2026-11-01T00:00:00Z", "--end", "2026-11-01T00:10:00Z")
SCORECARD = ("scorecard", "--rows", "1000", "--end", "2026-11-02T00:00:00Z")


def run(*arguments: str, **options: int) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "generator_service", *arguments],
        stderr=subprocess.PIPE,
        env=os.environ | SMALL,
        check=False,
        **{"stdout": subprocess.PIPE, **options},
    )


@pytest.mark.parametrize(
    "command",
    [(*GENERATE, "--format", "csv"), (*GENERATE, "-o", "nowhere/rows"), GENERATE[:3], SCORECARD],
)
def test_a_command_does_the_same_under_either_name(command: tuple[str, ...]) -> None:
    ours = CliRunner(env=SMALL).invoke(main, command)
    theirs = CliRunner(env=SMALL).invoke(txn, command, prog_name="generator-service")
    assert (ours.exit_code, ours.stdout_bytes) == (theirs.exit_code, theirs.stdout_bytes)
    assert ours.stderr.splitlines()[-1:] == theirs.stderr.splitlines()[-1:]


def test_the_module_generates_without_a_server() -> None:
    done = run(*GENERATE, "--format", "ndjson")
    assert (done.returncode, done.stderr) == (0, b"")
    assert (
        done.stdout
        == CliRunner(env=SMALL).invoke(txn, [*GENERATE, "--format", "ndjson"]).stdout_bytes
    )


def test_the_options_for_serving_are_refused_with_a_command() -> None:
    failed = run("--port", "0", *GENERATE)
    assert failed.returncode == 2
    assert b"generate takes none of the options for serving" in failed.stderr
    assert failed.stdout == b""


@pytest.mark.parametrize("arguments", [["--help"], ["generate", "--help"], GENERATE])
def test_a_full_disk_at_standard_output_is_one_message(arguments: list[str]) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with Path("/dev/full").open("wb") as full:
        failed = run(*arguments, stdout=full.fileno())
    assert failed.returncode == 1
    assert failed.stderr == (b"Error: standard output cannot be written: No space left on device\n")


def test_help_loads_only_the_command_line() -> None:
    program = """
import sys
from generator_service.cli import main
for arguments in [[], *([name] for name in main.commands)]:
    main([*arguments, "--help"], standalone_mode=False)
heavy = {"fastapi", "numpy", "pandas", "pyarrow", "pydantic", "rich", "uvicorn"}
print(heavy & sys.modules.keys())
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(generator_service.__file__).parents[1],
        capture_output=True,
        check=True,
    )
    assert done.stdout.endswith(b"set()\n")
