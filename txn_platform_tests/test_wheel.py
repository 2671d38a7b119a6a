"""The built wheel, installed without a checkout, in an empty folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq

import txn_platform
from txn_platform_tests.test_commands import SMALL

if TYPE_CHECKING:
    import pytest

_CHECKOUT = Path(txn_platform.__file__).parents[1]


def _succeed(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_the_wheel_runs_the_demo_in_an_empty_folder(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    there = tmp_path_factory.mktemp("installed")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(there)]
    subprocess.run(build, cwd=_CHECKOUT, check=True, capture_output=True)
    (wheel,) = there.glob("*.whl")
    venv.create(there / "venv", with_pip=True, symlinks=True)
    python = there / "venv/bin/python"
    install = ("install", "--quiet", "--no-index", "--no-deps", "--disable-pip-version-check")
    _succeed(python, "-m", "pip", *install, wheel)
    # The dependencies are those of this environment. A path adds no editable packages.
    (packages,) = (there / "venv/lib").glob("python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    where = _succeed(python, "-c", "import txn_platform; print(txn_platform.__file__)").stdout
    assert Path(where.strip()).is_relative_to(packages)

    printed = _succeed(there / "venv/bin/txn", "demo", "--directory", **SMALL)
    # It names the lake and the source, and has nothing to warn of.
    assert [line.partition(":")[0] for line in printed.stderr.splitlines()] == ["lake", "source"]
    heading, units, figures, uri = re.findall(
        r"^(partition .*)\n(UTC .*)\n(\S+ .*)\n(?:quarantined for .*\n)*(\S+\.parquet)$",
        printed.stdout,
        re.MULTILINE,
    )[0]
    assert heading.split()[:2] == ["partition", "sent"]
    assert units.split() == ["UTC", *["rows"] * 4, "amounts", "s"]
    rows = pq.read_metadata(uri).num_rows
    assert f"{rows:,}" in figures.split()

    # The three commands that it says to type next work.
    query, dev, quarantine = re.findall(r"^  (.*)$", printed.stdout, re.MULTILINE)[-3:]
    assert "USD" in _succeed("sh", "-c", query).stdout
    assert dev.endswith("txn dev --directory")
    assert str(tmp_path) in _succeed("sh", "-c", quarantine).stderr
    assert [path.name for path in tmp_path.iterdir()] == [".txn"]
