"""Standard output that cannot be written or lacks letters, and files that cannot be written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from txn_platform.cli import main
from txn_platform_tests.support import forked

SMALL = {"GENERATOR_TPS": "1", "GENERATOR_CUSTOMERS": "500", "GENERATOR_MERCHANTS": "100"}
TXN = str(Path(sys.executable).with_name("txn"))
GENERATE = ["generate", "--start", "2026-11-01T00:00:00Z", "--end", "2026-11-01T00:10:00Z"]


def ended(
    *command: str, stdout: Path, environment: dict[str, str], stderr: Path
) -> tuple[int | None, str]:
    process = forked.start(
        forked.program,
        *command,
        environment={**os.environ, **environment},
        directory=Path.cwd(),
        stdout=stdout,
        stderr=stderr,
    )
    process.join(120)
    process.kill()
    return process.exitcode, stderr.read_text()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--version"],
        ["run", "--help"],
        ["quarantine"],
        ["expire", "--older-than", "1d"],
        GENERATE,
        [*GENERATE, "--format", "csv"],
        ["scorecard", "--rows", "1000", "--json"],
    ],
    ids=" ".join,
)
def test_a_full_disk_at_standard_output_is_said_in_one_message(
    arguments: list[str], tmp_path: Path
) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    code, said = ended(
        "txn", *arguments, stdout=full, environment=SMALL, stderr=tmp_path / "stderr"
    )
    assert code == 1
    assert said.count("standard output cannot be written: No space left on device") == 1
    assert "Traceback" not in said


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_is_said_once_whenever_python_writes(unbuffered: str) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with Path("/dev/full").open("wb") as full:
        result = subprocess.run(
            [TXN, "--help"],
            stdout=full,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            check=False,
        )
    assert result.returncode == 1
    assert result.stderr == (b"Error: standard output cannot be written: No space left on device\n")


def test_a_run_whose_output_has_no_room_says_so(tmp_path: Path, generator_url: str) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    code, said = ended(
        *("txn", "run", "--json", "--partition", "2026-11-01-00:00"),
        stdout=full,
        environment={"GENERATOR_URL": generator_url, "TXN_CARD_KEY": "a key of sixteen bytes"},
        stderr=tmp_path / "stderr",
    )
    assert code == 1
    assert said.endswith("Error: standard output cannot be written: No space left on device\n")
    assert "Traceback" not in said


@pytest.mark.parametrize("arguments", [["--help"], [*GENERATE, "--format", "ndjson"]])
def test_a_reader_that_has_gone_ends_a_command_without_a_word(arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as pipe:
        result = subprocess.run(
            [TXN, *arguments],
            stdout=pipe,
            stderr=subprocess.PIPE,
            env={**os.environ, **SMALL},
            check=False,
        )
    assert result.returncode == 1
    assert result.stderr == b""


def test_output_in_ascii_shows_what_it_can(tmp_path: Path, generator_url: str) -> None:
    environment = {
        "GENERATOR_URL": generator_url,
        "PYTHONIOENCODING": "ascii",
        "TXN_CARD_KEY": "a key of sixteen bytes",
        "TXN_HOME": "börse",
    }
    environment = {**os.environ, **environment}
    shown = subprocess.run([TXN, "quarantine"], env=environment, check=True, capture_output=True)
    assert b"Traceback" not in shown.stderr
    assert b"/lake" in shown.stdout
    command = [TXN, "run", "--json", "--partition", "2026-11-01-00:00"]
    (line,) = subprocess.run(
        command, env=environment, check=True, capture_output=True
    ).stdout.splitlines()
    assert line.isascii()
    assert json.loads(line)["uri"].startswith(str(tmp_path / "börse/lake"))


@pytest.mark.parametrize("command", [["scorecard", "--rows", "1000"], GENERATE])
@pytest.mark.parametrize("place", ["nowhere/page", "file/page", "/proc/page", "a" * 300])
def test_a_file_that_cannot_be_written_is_named_and_nothing_is_left(
    command: list[str], place: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("a file")
    result = CliRunner(env=SMALL).invoke(main, [*command, "-o", place])
    assert isinstance(result.exception, SystemExit)
    assert result.exit_code != 0
    assert "cannot be written: " in result.stderr
    assert place in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_page_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("the old page")
    narrow = ["--start", "2026-11-01T00:00:00Z", "--end", "2026-11-01T00:00:01Z"]
    failed = CliRunner(env={"GENERATOR_TPS": "0.0001"}).invoke(
        main, ["scorecard", *narrow, "-o", str(page)]
    )
    assert failed.exit_code == 1
    assert page.read_text() == "the old page"
    assert list(tmp_path.iterdir()) == [page]
    written = CliRunner(env=SMALL).invoke(main, ["scorecard", "--rows", "1000", "-o", str(page)])
    assert isinstance(written.exception, SystemExit | None)
    assert page.read_text().startswith("<!doctype html>")
    assert list(tmp_path.iterdir()) == [page]
